"""Every page of the firmware notes has the form that its README promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTES = Path(__file__).parents[2] / "firmware-notes"
POINTS = ["Fact", "Source", "Seen on", "Check", "Set", "piagent"]
PAGES = sorted(path.name for path in NOTES.glob("*.md") if path.name != "README.md")


def facts(page: str) -> dict[str, str]:
    """Each level-2 heading of a page with the text under it."""
    _, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


def faults(page: str) -> list[str]:
    """What of a page is not in the form."""
    found = [] if page.startswith("# ") else ["no title"]
    found += [] if facts(page) else ["no facts"]
    for heading, text in facts(page).items():
        points = re.findall(r"^- \*\*(.+?):\*\*\s*(\S?)", text, flags=re.MULTILINE)
        if [name for name, _ in points] != POINTS:
            found.append(f"{heading}: {[name for name, _ in points]}")
        found += [f"{heading}: {name} is empty" for name, start in points if start in {"", "-"}]
        if not re.search(r"20\d\d|[Nn]ot (measured|tried)", text):
            found.append(f"{heading}: seen when?")
        if "`" not in text.partition("**Check:**")[2].partition("**Set:**")[0]:
            found.append(f"{heading}: the check has no command")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_each_fact_has_its_six_points_in_order(name: str) -> None:
    assert faults((NOTES / name).read_text()) == []


def test_the_index_lists_every_page_and_no_other() -> None:
    index = (NOTES / "README.md").read_text()
    assert sorted(re.findall(r"\]\(([\w-]+\.md)\)", index)) == PAGES


def test_the_index_explains_the_points_in_their_order() -> None:
    index = (NOTES / "README.md").read_text()
    assert re.findall(r"^- \*\*(.+?):\*\*", index, flags=re.MULTILINE) == POINTS


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("- **Set:** nothing\n", "the thing: ['Fact', 'Source', 'Seen on', 'Check', 'piagent']"),
        ("Seen on:** 6.18, 2026", "the thing: seen when?"),
        ("`true`", "the thing: the check has no command"),
        ("# Title", "no title"),
    ],
)
def test_a_page_out_of_form_is_noticed(broken: str, fault: str) -> None:
    page = (
        "# Title\n\n## the thing\n\n- **Fact:** a\n- **Source:** b\n- **Seen on:** 6.18, 2026\n"
        "- **Check:** `true`\n- **Set:** nothing\n- **piagent:** Nothing yet.\n"
    )
    assert faults(page) == []
    replacement = "Seen on:** 6.18" if "Seen" in broken else ""
    assert fault in faults(page.replace(broken, replacement))
