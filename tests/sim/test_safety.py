"""No history of any house breaks the protocol, and a seed is a history."""

from __future__ import annotations

import os

import pytest

from tests.sim.history import play
from tests.sim.houses import HOUSES

_SEEDS = 25
_SEEDS_OF_THE_SLOW = 10
"""Houses with several brokers take several times as long."""


def _seeds(house: str) -> range:
    if "PIAGENT_SEED" in os.environ:
        seed = int(os.environ["PIAGENT_SEED"])
        return range(seed, seed + 1)
    return range(_SEEDS_OF_THE_SLOW if HOUSES[house].brokers > 1 else _SEEDS)


@pytest.mark.parametrize("house", HOUSES)
def test_no_two_nodes_own_one_key_and_every_key_finds_its_owner(house: str) -> None:
    acquired = 0
    for seed in _seeds(house):
        result = play(seed, HOUSES[house])
        assert result.violation is None, (
            f"{result.violation}\nshow it: PIAGENT_SEED={seed} python -m tests.sim --house {house}"
        )
        acquired += result.acquired
    assert acquired >= len(_seeds(house)), "hardly anything happened in these histories"


def test_a_seed_gives_the_same_history_again() -> None:
    first, again, other = (play(seed, HOUSES["stormy"]) for seed in (11, 11, 12))
    assert first == again
    assert first.trace != other.trace
