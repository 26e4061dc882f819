"""UDP sessions against a dictionary of who was heard when."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.proxy._udp_probe", reason="built with PIAGENT_PROBE=1 only")

Key = tuple[tuple[str, int], int, int]
"""A session's client, hash and listener."""

ADDRESSES = [
    "10.0.0.1",
    "10.0.0.2",
    "2001:db8::1",
    "2001:db8::ffff:1",
    "2001:db8:0:1::1",
    "fd00::1",
    "fd00::2",
    "fe80::1",
    "fe80::2",
]
# Few of each, and hashes that fall into one bucket, so that all meet.
CLIENT = st.tuples(st.sampled_from(ADDRESSES), st.integers(1, 3))
KEY = st.tuples(CLIENT, st.sampled_from([7, 7 + 8192, 2**64 - 1]), st.integers(0, 1))
STEP = st.tuples(
    st.sampled_from(["ask", "ask", "answer", "answer", "remove", "expire"]),
    KEY,
    st.integers(0, 70_000),
)
UNREPLIED, REPLIED, ASSURED = range(3)


class Heard(NamedTuple):
    """What the model knows of a session."""

    age: int
    ms: int


def service_of(key: Key) -> int:
    """Whose sessions it counts with: a function of the key here, so that a model is easy."""
    return 5 if key[2] else int(probe.EVERY_SERVICE)


def whose(key: Key) -> tuple[str, int]:
    """Who has to make room for it."""
    address = key[0][0]
    if address.startswith("2001:"):
        address = str(ipaddress.ip_network((address, 64), strict=False))
    return address, service_of(key)


def patience_of(heard: dict[Key, Heard], now: int) -> int:
    """When the next one is due, in milliseconds."""
    due = [
        ms + (probe.REPLIED_MS if age > UNREPLIED else probe.UNREPLIED_MS) - now
        for age, ms in heard.values()
    ]
    return max(0, min([probe.UNREPLIED_MS, *due]))


def ranked(heard: dict[Key, Heard]) -> list[Key]:
    """Who makes room first: the least known, of those the longest silent."""
    return sorted(heard, key=lambda each: heard[each].age)


def step(sessions: object, heard: dict[Key, Heard], what: str, key: Key, now: int) -> None:
    """Do one thing with both; `heard` has the one heard last at its end."""
    assert isinstance(sessions, probe.Sessions)
    if what == "expire":
        while (ended := sessions.expired(now)) is not None:
            age, ms = heard.pop(ended)
            assert now - ms >= (probe.REPLIED_MS if age > UNREPLIED else probe.UNREPLIED_MS)
            sessions.remove(*ended)
        assert patience_of(heard, now) > 0
    elif what == "remove" and key in heard:
        sessions.remove(*key)
        del heard[key]
    elif what == "ask" and key in heard:
        sessions.asked(*key, now)
        age = heard.pop(key).age
        heard[key] = Heard(UNREPLIED if age == UNREPLIED else ASSURED, now)
    elif what == "answer" and key in heard:
        sessions.answered(*key, now)
        heard[key] = Heard(max(heard.pop(key).age, REPLIED), now)
    elif key not in heard:
        sessions.add(*key, service_of(key), now)
        heard[key] = Heard(UNREPLIED, now)


@settings(max_examples=150)
@given(steps=st.lists(STEP, max_size=80))
def test_sessions_are_found_by_all_of_their_key_and_make_room_by_what_is_known_of_them(
    steps: list[tuple[str, Key, int]],
) -> None:
    sessions = probe.Sessions()
    heard: dict[Key, Heard] = {}
    now = 1_000_000
    for what, key, passed in steps:
        now += passed
        assert sessions.has(*key) == (key in heard)
        step(sessions, heard, what, key, now)
        assert sessions.n == len(heard)
        assert sessions.patience(now) == patience_of(heard, now)
        assert sessions.oldest() == next(iter(ranked(heard)), None)
        own = [each for each in ranked(heard) if whose(each) == whose(key)]
        assert sessions.count_of(key[0], service_of(key)) == len(own)
        assert sessions.oldest_of(key[0], service_of(key)) == next(iter(own), None)


@pytest.mark.parametrize("addresses", [1, 4096])
def test_there_is_room_for_as_many_as_there_may_be(addresses: int) -> None:
    sessions = probe.Sessions()
    for turn in range(2):
        for number in range(probe.SESSIONS_MAX):
            address = f"10.0.{number % addresses // 256}.{number % addresses % 256}"
            sessions.add((address, 1 + number), number * 7919, 0, probe.EVERY_SERVICE, turn)
        assert sessions.n == probe.SESSIONS_MAX
        of_one = sessions.count_of(("10.0.0.0", 9), probe.EVERY_SERVICE)
        assert of_one == probe.SESSIONS_MAX // addresses
        while (oldest := sessions.oldest()) is not None:
            sessions.remove(*oldest)
        assert sessions.count_of(("10.0.0.0", 9), probe.EVERY_SERVICE) == 0
    assert sessions.n == 0
