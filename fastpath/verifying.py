"""The thread that checks credentials, for workers that must not wait for it.

A check takes milliseconds up to a second by design, so they are done one after the other, and an
address that sends many waits behind its own: sources take turns. What nobody waits for any more is
not checked.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from fastpath.users import Crypt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastpath.users import Users

WAITING_MAX = 1024
"""Checks that are put down here; beyond that one is refused."""
PER_SOURCE_MAX = 32
PATIENCE_S = 5.0
"""As CHECK_MS in http/checks.pxd: who has waited longer has been told so."""


class Ask(NamedTuple):
    """What a worker wants to know. Shows nothing of it."""

    worker: int
    digest: bytes
    """Names the credentials, and the users they are for."""
    users: bytes
    """Users.name."""
    source: int
    """Who asks."""
    asked_s: float
    """By CLOCK_MONOTONIC."""
    user: bytes
    password: bytes

    def __repr__(self) -> str:
        """Without the credentials."""
        return f"<asked by worker {self.worker}>"


class Turns:
    """Asks that wait, of sources that take turns."""

    def __init__(self) -> None:
        self._of: dict[int, deque[Ask]] = {}
        self._n = 0

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return self._n > 0

    def put(self, ask: Ask) -> bool:
        """Let it wait; False: there is no room."""
        mine = self._of.get(ask.source)
        if self._n >= WAITING_MAX or (mine is not None and len(mine) >= PER_SOURCE_MAX):
            return False
        self._of.setdefault(ask.source, deque()).append(ask)
        self._n += 1
        return True

    def take(self) -> Ask:
        """The next one; its source comes last from now on."""
        source, mine = next(iter(self._of.items()))
        del self._of[source]
        ask = mine.popleft()
        if mine:
            self._of[source] = mine
        self._n -= 1
        return ask


class Verifier:
    """Checks what workers ask for, in a thread of its own, until `take` says None.

    wake: an eventfd, read only here; take: what has been asked since; remembered: whether these
    credentials are right, if that is known already; tell: the verdict (None: there will be none).
    """

    def __init__(
        self,
        wake: int,
        take: Callable[[], list[Ask] | None],
        remembered: Callable[[bytes], bool | None],
        tell: Callable[[Ask, bool | None], None],
    ) -> None:
        self._wake = wake
        self._take = take
        self._remembered = remembered
        self._tell = tell
        self._crypt = Crypt()
        self._users: dict[bytes, Users] = {}
        self._turns = Turns()
        thread = threading.Thread(target=self._run, name="piagent-verifier", daemon=True)
        thread.start()
        self.join = thread.join

    def know(self, users: Iterable[Users]) -> None:
        """Go by these users and no others."""
        self._users = {each.name: each for each in users}

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            if not self._turns:
                os.read(self._wake, 8)
            asks = self._take()
            if asks is None:
                return
            for ask in asks:
                if not self._turns.put(ask):
                    self._tell(ask, None)
            if self._turns:
                ask = self._turns.take()
                self._tell(ask, self._verdict(ask))

    def _verdict(self, ask: Ask) -> bool | None:
        remembered = self._remembered(ask.digest)
        if remembered is not None:
            return remembered
        users = self._users.get(ask.users)
        if users is None or time.monotonic() - ask.asked_s > PATIENCE_S:
            return None
        return users.has(self._crypt, ask.user, ask.password)
