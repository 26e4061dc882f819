"""Each structure at random beside its model; much longer: `make fuzz-structures`."""

from __future__ import annotations

import os
import random

import pytest

pytest.importorskip("fastpath.memory._fuzz", reason="built with PIAGENT_PROBE=1 only")

from tests.fuzz.exchanges import exchange
from tests.fuzz.mutants import MUTANTS, SLOW, Mutant, what_is_found
from tests.fuzz.structures import STRUCTURES, fuzz

STEPS = 300_000
EXCHANGES = 1500
# One of each module; all of them: `make fuzz-mutants`.
SHORT = [
    next(mutant for mutant in MUTANTS if mutant.structure == name)
    for name in ("wheel", "clients", "packets", "messages")
]


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_does_what_its_model_does(name: str) -> None:
    fuzz(name, STEPS)


def test_exchanges_with_mutated_bytes_are_read_alike_by_all_and_leave_nothing_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    exchange(EXCHANGES, choice=random.getrandbits(32))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("mutant", SHORT, ids=lambda mutant: mutant.structure)
@pytest.mark.timeout(300)
def test_a_broken_structure_is_found_out(mutant: Mutant) -> None:
    found = what_is_found(mutant)
    assert "after step" in found, found


def test_every_structure_has_a_mutant() -> None:
    assert {mutant.structure for mutant in MUTANTS} - set(SLOW) == set(STRUCTURES)
