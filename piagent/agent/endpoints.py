"""Programs that join a service by themselves, each for as long as it says so.

A node tells the others what registered itself with it, and how long that holds; what it does not
say again ends by itself, at every node alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from msgspec import Struct
from msgspec.structs import replace

from piagent.adapters.clock import wall_ms
from piagent.agent.bulletins import ANSWER_S, Bulletin, Bulletins
from piagent.agent.registry import Publisher
from piagent.agent.tasks import Later
from piagent.core.bulletin import MAX_ENDPOINTS, Endpoint, Endpoints, is_newer
from piagent.core.model import Backend

Key = tuple[str, str, int]
"""Service, address, port."""


class EndpointError(Exception):
    """It cannot be registered; the text says why."""


class _Kept(Struct, frozen=True):
    endpoint: Endpoint
    until_s: float


class _Said(Struct, frozen=True):
    """By another node."""

    message: Endpoints
    fresh: bool
    """False: a broker retained it, who knows since when."""
    kept: dict[Key, _Kept]


class EndpointBook:
    """What registered itself at this node and at the others."""

    def __init__(
        self,
        *,
        bulletins: Bulletins,
        publisher: Publisher,
        incarnation: str,
        life: Callable[[str], str | None],
        changed: Callable[[], None],
    ) -> None:
        """`life`: incarnation of a node that is there. `changed`: other endpoints are there now."""
        self._bulletins = bulletins
        self._publisher = publisher
        self._incarnation = incarnation
        self._life = life
        self._changed = changed
        self._own: dict[Key, _Kept] = {}
        self._others: dict[str, _Said] = {}  # by node
        self._wake = asyncio.Event()
        self._at = 0
        self._put_right = Later(self._say, ANSWER_S)

    # ---- here ---------------------------------------------------------------------------------

    def register(self, endpoint: Endpoint) -> None:
        """Have it for `left_ms` from now, or for so long again. Raises EndpointError."""
        key = _key(endpoint)
        if key not in self._own and len(self._own) >= MAX_ENDPOINTS:
            raise EndpointError(f"{MAX_ENDPOINTS} endpoints are registered here: no more fit")
        before = self._own.get(key)
        self._own[key] = _Kept(endpoint, monotonic() + endpoint.left_ms / 1000)
        self._say()
        if before is None or not _same(before.endpoint, endpoint):
            self._changed()
        self._wake.set()

    def remove(self, service: str, address: str, port: int) -> bool:
        """Have it no more; whether it was there."""
        if self._own.pop((service, address, port), None) is None:
            return False
        self._say()
        self._changed()
        return True

    async def run(self) -> None:
        """Let go of what is over, until cancelled."""
        while True:
            await self._sleep()
            self._expire()

    async def _sleep(self) -> None:
        ends = [kept.until_s for kept in self._own.values()]
        ends += [kept.until_s for said in self._others.values() for kept in said.kept.values()]
        timeout_s = max(0.0, min(ends) - monotonic()) if ends else None
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _expire(self) -> None:
        now_s = monotonic()
        over = [key for key, kept in self._own.items() if kept.until_s <= now_s]
        for key in over:
            del self._own[key]
        if over:
            self._say()
        gone = bool(over)
        for node, said in self._others.items():
            left = {key: one for key, one in said.kept.items() if one.until_s > now_s}
            gone = gone or len(left) < len(said.kept)
            self._others[node] = replace(said, kept=left)
        if gone:
            self._changed()

    def _say(self) -> None:
        self._publisher.to_all(*self._letter())

    def _letter(self) -> tuple[str, bytes]:
        now_s = monotonic()
        self._at = max(self._at + 1, wall_ms())
        left = {key: int((kept.until_s - now_s) * 1000) for key, kept in self._own.items()}
        said = Endpoints(
            incarnation=self._incarnation,
            at=self._at,
            endpoints=tuple(
                replace(kept.endpoint, left_ms=left[key])
                for key, kept in self._own.items()
                if left[key] > 0
            ),
        )
        return self._bulletins.endpoints(said)

    # ---- elsewhere ----------------------------------------------------------------------------

    def subscribed(self, broker: str) -> None:
        """A connection is up: say there what is here, or that nothing is (any more)."""
        self._publisher.to_one(broker, *self._letter())
        if not all(said.fresh for said in self._others.values()):
            self._changed()  # who is there has been heard, too

    def hear(self, said: Bulletin) -> None:
        """What another node says."""
        message = said.message
        if not isinstance(message, Endpoints):
            return
        if said.key == self._bulletins.node:
            if said.fresh and message.incarnation != self._incarnation:  # of a former life
                self._put_right.soon()
            return
        known = self._others.get(said.key)
        if known is not None and not is_newer(message, known.message, fresh=said.fresh):
            return
        now_s = monotonic()
        kept = {_key(e): _Kept(e, now_s + e.left_ms / 1000) for e in message.endpoints}
        self._others[said.key] = _Said(message, said.fresh, kept)
        if known is None or not known.fresh or _plain(known.kept) != _plain(kept):
            self._changed()
        self._wake.set()

    def backends(self) -> dict[str, tuple[Backend, ...]]:
        """What is there, by service; in one order at every node."""
        found: dict[str, dict[str, Backend]] = {}
        for node, kept in sorted(self._all(), key=lambda item: (item[0], _key(item[1].endpoint))):
            backend = kept.endpoint.backend(node)
            found.setdefault(kept.endpoint.service, {}).setdefault(backend.id, backend)
        return {service: tuple(of.values()) for service, of in found.items()}

    def _all(self) -> list[tuple[str, _Kept]]:
        """But for what a broker retains of a life that is over: its time is over, too."""
        own = [(self._bulletins.node, kept) for kept in self._own.values()]
        return own + [
            (node, one)
            for node, said in self._others.items()
            if said.fresh or said.message.incarnation == self._life(node)
            for one in said.kept.values()
        ]


def _key(endpoint: Endpoint) -> Key:
    return endpoint.service, endpoint.address, endpoint.port


def _same(one: Endpoint, other: Endpoint) -> bool:
    return replace(one, left_ms=1) == replace(other, left_ms=1)


def _plain(kept: dict[Key, _Kept]) -> dict[Key, Endpoint]:
    return {key: replace(one.endpoint, left_ms=1) for key, one in kept.items()}
