"""Randomness that is a function of its seed."""

from __future__ import annotations

from piagent.core.chance import Chance


def test_a_seed_gives_one_sequence() -> None:
    first, again, other = Chance(7), Chance(7), Chance(8)
    words = [first.word() for _ in range(20)]
    assert words == [again.word() for _ in range(20)]
    assert words != [other.word() for _ in range(20)]
    assert len(set(words)) == 20


def test_numbers_stay_below_their_limit_and_reach_all_values() -> None:
    chance = Chance(1)
    assert {chance.below(5) for _ in range(200)} == set(range(5))
    assert chance.below(1) == 0
