"""No history of any house breaks the protocol, and a seed is a history."""

from __future__ import annotations

import os

import pytest

from tests.sim.history import play
from tests.sim.houses import HOUSES

_SEEDS = 16
_SEEDS_OF_THE_SLOW = 6
"""Houses with several brokers or with placement take several times as long."""


def _seeds(house: str) -> range:
    if "PIAGENT_SEED" in os.environ:
        seed = int(os.environ["PIAGENT_SEED"])
        return range(seed, seed + 1)
    options = HOUSES[house]
    slow = options.brokers > 1 or options.placed or options.quick
    return range(_SEEDS_OF_THE_SLOW if slow else _SEEDS)


@pytest.mark.parametrize("house", HOUSES)
def test_nothing_has_two_owners_and_everything_finds_its_own(house: str) -> None:
    acquired = 0
    for seed in _seeds(house):
        result = play(seed, HOUSES[house])
        assert result.violation is None, (
            f"{result.violation}\nshow it: PIAGENT_SEED={seed} python -m tests.sim --house {house}"
        )
        acquired += result.counts["acquired"]
    assert acquired >= len(_seeds(house)), "hardly anything happened in these histories"


def test_a_seed_gives_the_same_history_again() -> None:
    first, again, other = (play(seed, HOUSES["stormy"], trace=True) for seed in (11, 11, 12))
    assert first == again
    assert first.trace != other.trace


def test_without_faults_a_key_is_acquired_once() -> None:
    for seed in range(5):
        assert play(seed, HOUSES["calm"]).counts["acquired"] == HOUSES["calm"].keys
