"""Slots against the rules they promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.slots import Slots

NAMES = st.frozensets(st.sampled_from("abcdefghijkl"), max_size=4)


@given(st.lists(st.tuples(NAMES, st.frozensets(st.integers(0, 7))), max_size=30))
def test_a_name_keeps_its_number_and_a_busy_number_is_never_given_again(
    turns: list[tuple[frozenset[str], frozenset[int]]],
) -> None:
    slots = Slots("things", 8)
    for names, busy in turns:
        before = slots
        try:
            slots = before.assign(sorted(names), lambda slot, busy=busy: slot not in busy)
        except ValueError:
            assert len(busy | set(before.used.values())) > 4
            continue
        assert slots.used.keys() == names
        numbers = list(slots.used.values())
        assert len(set(numbers)) == len(numbers)
        assert all(0 <= number < 8 for number in numbers)
        for name in names & before.used.keys():
            assert slots.used[name] == before.used[name]
        for name in names - before.used.keys():
            assert slots.used[name] not in before.used.values()
            assert slots.used[name] not in set(before.retired) & busy
        assert not set(slots.retired) & set(numbers)


def test_numbers_rest_as_long_as_possible() -> None:
    slots = Slots("things", 4)
    for name in "abcd":
        slots = slots.assign([name], lambda _: True)
    assert slots.used == {"d": 3}
    assert slots.assign(["e"], lambda _: True).used == {"e": 0}


def test_too_many_names_are_refused() -> None:
    with pytest.raises(ValueError, match="3 things, more than 2"):
        Slots("things", 4).assign("abc", lambda _: True)
