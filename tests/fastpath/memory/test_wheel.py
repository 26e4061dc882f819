"""The timer wheel against a dictionary of due ticks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.memory._probe", reason="built with PIAGENT_PROBE=1 only")

N_TIMEOUTS = 8
REACH = 64**4

DELAY = st.one_of(
    st.integers(0, 130),
    st.integers(0, 64**2 + 100),
    st.integers(0, 64**3 + 100),
    st.integers(0, 3 * REACH),
)
NUMBER = st.integers(0, N_TIMEOUTS - 1)
STEP = st.one_of(
    st.tuples(st.just("arm"), NUMBER, DELAY),
    st.tuples(st.just("disarm"), NUMBER, st.just(0)),
    st.tuples(st.just("advance"), st.just(0), DELAY),
    st.tuples(st.just("idle"), st.just(0), st.just(0)),
)


@settings(max_examples=300)
@given(start=st.integers(0, 2 * REACH), steps=st.lists(STEP, max_size=60))
def test_what_is_armed_fires_when_its_tick_has_come_and_not_before(
    start: int, steps: list[tuple[str, int, int]]
) -> None:
    wheel = probe.Wheel(N_TIMEOUTS, start)
    now = start
    due: dict[int, int] = {}
    for what, number, amount in steps:
        if what == "arm":
            wheel.arm(number, now + amount)
            due[number] = max(now + amount, now + 1)
        elif what == "disarm":
            wheel.disarm(number)
            due.pop(number, None)
        elif what == "advance":
            now += amount
            expected = {each for each, tick in due.items() if tick <= now}
            fired = wheel.advance(now)
            assert sorted(fired) == sorted(expected)
            due = {each: tick for each, tick in due.items() if tick > now}
        assert {each for each in range(N_TIMEOUTS) if wheel.is_armed(each)} == due.keys()
        if due:
            assert 0 < wheel.idle() <= min(due.values()) - now


@settings(max_examples=50)
@given(delays=st.lists(st.integers(1, 2 * 64**3), min_size=1, max_size=N_TIMEOUTS))
def test_waking_when_it_says_fires_each_timeout_at_its_very_tick(delays: list[int]) -> None:
    wheel = probe.Wheel(N_TIMEOUTS, 5)
    for number, delay in enumerate(delays):
        wheel.arm(number, 5 + delay)
    now, wakes = 5, 0
    while (patience := wheel.idle()) >= 0:
        now += patience
        wakes += 1
        for number in wheel.advance(now):
            assert now == 5 + delays[number]
    assert not any(wheel.is_armed(number) for number in range(N_TIMEOUTS))
    assert wakes <= 4 * len(delays)
