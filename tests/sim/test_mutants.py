"""The simulation can fail: with any one rule removed it finds a violation."""

from __future__ import annotations

import pytest

from tests.sim.history import play
from tests.sim.mutants import MUTANTS, applied

_SEARCHED = 200
"""Seeds tried after the kept one, should that not find it any more."""


@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulation_finds_what_happens_without(name: str) -> None:
    with applied(name) as mutant:
        for seed in (mutant.kept_seed, *range(_SEARCHED)):
            violation = play(seed, mutant.options).violation
            if violation is not None and mutant.expect in violation:
                break
        else:
            pytest.fail(f"without {mutant.removed} nothing happened in {_SEARCHED} histories")
    assert play(seed, mutant.options).violation is None, "with the rule the same seed is sound"


def test_a_mutant_is_gone_after_its_use() -> None:
    with applied("r2"):
        broken = play(MUTANTS["r2"].kept_seed, MUTANTS["r2"].options)
    assert broken.violation is not None
    assert play(MUTANTS["r2"].kept_seed, MUTANTS["r2"].options).violation is None
