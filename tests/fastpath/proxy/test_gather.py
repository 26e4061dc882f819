"""When a worker lets datagrams gather: at a high rate, a few at a time, and in a row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.proxy._udp_probe", reason="built with PIAGENT_PROBE=1 only")

BUSY_US = probe.GATHER_US // probe.GATHER_LEAST
"""Between messages at the lowest rate that is worth waiting at."""


class Turns:
    """A worker's, the last of which began now."""

    def __init__(self) -> None:
        self._gather = probe.Gather()
        self._now_us = 1_000_000_000

    def waits(self, *following: bool, after_us: int) -> bool:
        """Whether it waits when a turn with such messages began so long after the last one."""
        self._now_us += after_us
        wait_us: int = self._gather.turn(following, self._now_us)
        assert wait_us in {0, probe.GATHER_US}
        return wait_us > 0


def test_a_few_in_a_row_at_a_high_rate_are_worth_waiting() -> None:
    turns = Turns()
    assert not turns.waits(True, True, after_us=0)  # nothing came before it
    assert turns.waits(True, True, after_us=2 * BUSY_US)
    assert turns.waits(True, after_us=BUSY_US)
    assert turns.waits(True, False, after_us=BUSY_US)


def test_nothing_else_is() -> None:
    turns = Turns()
    turns.waits(True, after_us=0)
    assert not turns.waits(True, after_us=BUSY_US + 1)
    assert not turns.waits(False, after_us=BUSY_US)  # an answer, and its client's turn now
    assert not turns.waits(True, False, False, after_us=BUSY_US)
    assert not turns.waits(after_us=1)
    many = [True] * probe.GATHER_MOST
    assert not turns.waits(*many, after_us=BUSY_US)
    assert turns.waits(*many[1:], after_us=BUSY_US)


@given(
    turns=st.lists(
        st.tuples(st.lists(st.booleans(), max_size=40), st.integers(0, 100)), max_size=50
    )
)
def test_turns_without_messages_do_not_hide_how_long_ago_the_last_ones_came(
    turns: list[tuple[list[bool], int]],
) -> None:
    worker = Turns()
    passed_us = 1_000_000_000
    for following, after_us in turns:
        passed_us += after_us
        n = len(following)
        assert worker.waits(*following, after_us=after_us) == (
            0 < n < probe.GATHER_MOST
            and sum(following) * 2 >= n
            and n * probe.GATHER_US >= probe.GATHER_LEAST * passed_us
        )
        if n:
            passed_us = 0
