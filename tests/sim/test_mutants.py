"""The simulation can fail: with any one rule removed it finds a violation."""

from __future__ import annotations

import pytest

from tests.sim.history import play
from tests.sim.mutants import MUTANTS, SEARCHED, search

RULES = {"R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9"}
ASSUMPTIONS = {"A1", "A2", "A3", "A5"}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulation_finds_what_happens_without(name: str) -> None:
    mutant = MUTANTS[name]
    found = search(name)
    assert found is not None, f"without {mutant.removed} nothing happened in {SEARCHED} histories"
    if mutant.patch is not None:
        again = play(found[0], mutant.options).violation
        assert again is None, "with the rule the same seed is sound"


def test_every_rule_and_assumption_has_a_mutant() -> None:
    named = {mutant.rule for mutant in MUTANTS.values()}
    assert named >= RULES | ASSUMPTIONS, f"without: {sorted(RULES | ASSUMPTIONS - named)}"
