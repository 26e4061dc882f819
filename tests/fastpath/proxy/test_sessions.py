"""UDP sessions against a dictionary of who was heard when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")

# Few of each, and hashes that fall into one bucket, so that all meet.
KEY = st.tuples(st.integers(1, 6), st.sampled_from([7, 7 + 8192, 2**64 - 1]), st.integers(0, 1))
STEP = st.tuples(
    st.sampled_from(["hear", "reply", "remove", "expire"]), KEY, st.integers(0, 70_000)
)


def patience_of(heard: dict[tuple[int, int, int], tuple[bool, int]], now: int) -> int:
    """When the next one is due, in milliseconds."""
    due = [
        ms + (probe.REPLIED_MS if replied else probe.UNREPLIED_MS) - now
        for replied, ms in heard.values()
    ]
    return max(0, min([probe.UNREPLIED_MS, *due]))


@settings(max_examples=300)
@given(steps=st.lists(STEP, max_size=60))
def test_sessions_are_found_by_all_of_their_key_and_end_by_age(
    steps: list[tuple[str, tuple[int, int, int], int]],
) -> None:
    sessions = probe.Sessions()
    heard: dict[tuple[int, int, int], tuple[bool, int]] = {}  # the last one heard last
    now = 1_000_000
    for what, key, passed in steps:
        now += passed
        assert sessions.has(*key) == (key in heard)
        if what == "expire":
            while (ended := sessions.expired(now)) is not None:
                replied, ms = heard.pop(ended)
                assert now - ms >= (probe.REPLIED_MS if replied else probe.UNREPLIED_MS)
                sessions.remove(*ended)
            assert patience_of(heard, now) > 0
        elif what == "remove" and key in heard:
            sessions.remove(*key)
            del heard[key]
        elif key in heard:
            replied = heard.pop(key)[0] or what == "reply"
            sessions.touch(*key, replied, now)
            heard[key] = (replied, now)
        else:
            sessions.add(*key, now)
            heard[key] = (False, now)
        assert sessions.n == len(heard)
        assert sessions.patience(now) == patience_of(heard, now)
        # Who was never answered makes room first.
        ranked = sorted(heard, key=lambda each: heard[each][0])
        assert sessions.oldest() == next(iter(ranked), None)


def test_there_is_room_for_as_many_as_there_may_be() -> None:
    sessions = probe.Sessions()
    for turn in range(2):
        for port in range(1, probe.SESSIONS_MAX + 1):
            sessions.add(port, port * 7919, 0, turn)
        assert all(sessions.has(port, port * 7919, 0) for port in range(1, 100))
        while (oldest := sessions.oldest()) is not None:
            sessions.remove(*oldest)
    assert sessions.n == 0
