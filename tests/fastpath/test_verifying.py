"""The thread that checks credentials: whose turn it is, and what it does not do in vain."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from fastpath.users import Users
from fastpath.verifying import PATIENCE_S, PER_SOURCE_MAX, WAITING_MAX, Ask, Turns, Verifier
from tests.waiting import wait_until

USERS = Users({"alice": "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"})


def ask(
    source: int = 1, password: bytes = b"secret", *, users: bytes = USERS.name, age_s: float = 0
) -> Ask:
    asked = time.monotonic() - age_s
    return Ask(0, password.ljust(16), users, source, asked, b"alice", password)


def test_sources_take_turns_whatever_each_of_them_sends() -> None:
    turns = Turns()
    for source in (1, 1, 1, 2, 3, 2, 1):
        assert turns.put(ask(source))
    assert [turns.take().source for _ in range(7)] == [1, 2, 3, 1, 2, 1, 1]
    assert not turns


def test_what_waits_is_bounded_for_each_source_and_for_all() -> None:
    turns = Turns()
    assert all(turns.put(ask()) for _ in range(PER_SOURCE_MAX))
    assert not turns.put(ask())
    n = sum(turns.put(ask(source)) for source in range(2, WAITING_MAX + 2))
    assert n + PER_SOURCE_MAX == WAITING_MAX
    for _ in range(WAITING_MAX):
        turns.take()
    assert not turns


class Desk:
    """What a verifier is asked, and what it said."""

    def __init__(self) -> None:
        self.wake = os.eventfd(0)
        self.asked: list[Ask] = []
        self.told: list[tuple[bytes, bool | None]] = []
        self.known: dict[bytes, bool] = {}
        self.open = True
        self.verifier = Verifier(self.wake, self._take, self.known.get, self._tell)
        self.verifier.know([USERS])

    def ask(self, *asks: Ask) -> list[bool | None]:
        """Ask; the verdicts in their order."""
        self.told.clear()
        self.asked.extend(asks)
        os.eventfd_write(self.wake, 1)
        wait_until(lambda: len(self.told) == len(asks))
        return [verdict for _, verdict in self.told]

    def close(self) -> None:
        self.open = False
        os.eventfd_write(self.wake, 1)
        self.verifier.join()
        os.close(self.wake)

    def _take(self) -> list[Ask] | None:
        asked, self.asked = self.asked, []
        return asked if self.open else None

    def _tell(self, ask: Ask, verdict: bool | None) -> None:
        self.told.append((ask.password, verdict))


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


def test_verdicts_are_of_users_that_there_are(desk: Desk) -> None:
    assert desk.ask(ask(), ask(2, b"wrong")) == [True, False]
    assert desk.ask(ask(users=bytes(16))) == [None]
    desk.verifier.know([])
    assert desk.ask(ask()) == [None]


def test_what_is_known_or_comes_too_late_is_not_checked(desk: Desk) -> None:
    assert desk.ask(ask(age_s=PATIENCE_S + 1)) == [None]
    desk.known[b"secret".ljust(16)] = False
    assert desk.ask(ask()) == [False]


def test_what_there_is_no_room_for_is_told_at_once(desk: Desk) -> None:
    heard = desk.ask(*(ask(password=b"%d" % n) for n in range(PER_SOURCE_MAX + 5)))
    assert heard.count(None) == 5
    assert heard.count(False) == PER_SOURCE_MAX


def test_users_with_the_same_hashes_are_the_same_and_tell_nothing() -> None:
    pair = {"a": "x", "b": "y"}
    assert Users(pair) == Users(dict(reversed(pair.items())))
    assert len({Users(pair), Users(pair), Users({"a": "x"}), Users({"a": "y", "b": "x"})}) == 3
    assert repr(Users(pair)) == "<2 users>"
    assert "secret" not in repr(ask())
