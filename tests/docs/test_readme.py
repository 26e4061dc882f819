"""The README's first screen is true."""

from __future__ import annotations

import re
from pathlib import Path

import tomli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_file_shown_is_the_minimal_example() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert tomli.loads(block) == tomli.loads((ROOT / "examples/minimal.toml").read_text())


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"make ([a-z]+)", README))
    assert {"demo", "test"} <= named <= set(targets)


def test_the_run_shown_is_what_the_tour_prints() -> None:
    shown = re.search(r"\$ make demo ARGS=--once\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    source = "".join(p.read_text() for p in (ROOT / "piagent/cli/demo").glob("*.py"))
    for words in ("HTTP, by host and by path:", "TCP, balanced over all backends:",
                  "killing its agent with SIGKILL while a client asks every 5 ms",
                  "the VIP answers again from ", "failover gap: ", "stopping"):  # fmt: skip
        assert words in shown[1]
        assert words in source
