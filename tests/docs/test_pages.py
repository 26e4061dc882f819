"""Links between the project's pages lead somewhere, and what they say of code exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(p for d in ("docs", "ansible", "firmware-notes") for p in (ROOT / d).rglob("*.md")),
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_has_a_target(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs/README.md"
    linked = {
        (index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)", index.read_text())
    }
    pages = set((ROOT / "docs").rglob("*.md")) - {index}
    assert sorted(str(page) for page in pages - linked) == []


def test_decisions_are_numbered_without_a_gap_and_short() -> None:
    found = sorted((ROOT / "docs/decisions").glob("*.md"))
    for number, page in enumerate(found, 1):
        lines = page.read_text().splitlines()
        assert page.name.startswith(f"{number:03}-")
        assert lines[0].startswith(f"# {number:03} ")
        assert len(lines) <= 10, page.name


def test_every_make_target_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    command = re.compile(r"^ {0,4}make ([a-z][\w-]*)(?: |$)|`make ([a-z][\w-]*)", re.MULTILINE)
    found = (match.groups() for page in PAGES for match in command.finditer(page.read_text()))
    named = {target for groups in found for target in groups if target}
    assert {"demo", "test", "wheelhouse"} <= named
    assert [t for t in sorted(named) if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_the_rules_of_the_election_are_where_its_page_says() -> None:
    text = (ROOT / "docs/explanation/election.md").read_text()
    rules = re.findall(r"^\| (R\d) .*\| (.+?) \|$", text, flags=re.MULTILINE)
    assert [rule for rule, _ in rules] == [f"R{n}" for n in range(1, 10)]
    for rule, where in rules:
        for file in re.findall(r"`(.+?)`", where):
            source = (ROOT / "piagent" / file).read_text()
            spans = re.findall(r"R(\d)(?: to R(\d))?", source)
            named = {n for low, high in spans for n in range(int(low), int(high or low) + 1)}
            assert int(rule[1]) in named, f"{file} does not speak of {rule}"


def test_the_failover_budget_has_the_profiles_of_the_code() -> None:
    from piagent.config.election import PROFILES

    page = ROOT / "docs/explanation/failover-budget.md"
    text = page.read_text().partition("\n## ")[0]
    head, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    )
    times = {row[0].partition(" ")[0].rstrip(","): row[1:] for row in rows}
    for column, profile in enumerate(head[1:]):
        timing = PROFILES[profile]  # type: ignore[index]
        said = {name: _ms(cells[column]) for name, cells in times.items()}
        assert said == {
            "L": timing.lease_ms,
            "R": timing.renew_ms,
            "W": timing.wait_ms,
            "G": timing.guard_ms,
            "stagger": timing.stagger_ms,
        }


def _ms(text: str) -> int:
    number, unit = text.split()
    return round(float(number) * {"s": 1000, "ms": 1}[unit])
