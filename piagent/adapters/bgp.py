"""Announces VIPs to routers: keeps an exabgp running, and what it announces as it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from piagent.adapters.exabgp import Exabgp, ExabgpError
from piagent.core import exabgp
from piagent.core.bgp import BgpRoute
from piagent.core.model import Bgp, BgpPeer
from piagent.ports import BgpSession

BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 30.0
WELL_AFTER_S = 60.0
"""Who has run for so long has started well: the next pause is the shortest again."""
CONNECTING = "connecting"

_log = logging.getLogger(__name__)

Deliver = Callable[[BgpSession], None]
_Key = tuple[str, str]
"""Router's name, VIP."""


class ExabgpSpeaker:
    """`ports.Speaker` by exabgp 5."""

    def __init__(self) -> None:
        self._bgp: Bgp | None = None
        self._routes: frozenset[BgpRoute] = frozenset()
        self._changed = asyncio.Event()
        """Something is to be done: other routes, another configuration, a session came up."""
        self._deliver: Deliver = lambda _: None
        self._up: dict[str, str] = {}
        """Router's name -> this node's end of the session, of those that are or were up."""
        self._announced: dict[_Key, str] = {}
        """What the running exabgp was told, and has not refused."""
        self._refused: dict[_Key, str] = {}

    def configure(self, bgp: Bgp | None) -> None:
        """See `ports.Speaker`."""
        self._bgp = bgp
        self._changed.set()

    def announce(self, routes: frozenset[BgpRoute]) -> None:
        """See `ports.Speaker`."""
        self._routes = routes
        self._changed.set()

    async def run(self, deliver: Deliver) -> None:
        """See `ports.Speaker`."""
        self._deliver = deliver
        loop = asyncio.get_running_loop()
        pause_s, said = BACKOFF_MIN_S, ""
        while True:
            bgp = await self._configured()
            self._all_down(bgp, CONNECTING)
            began_s = loop.time()
            try:
                await self._live(bgp)
            except (ExabgpError, OSError) as error:  # OSError: no process or no file to be had
                self._all_down(bgp, str(error))
                if loop.time() - began_s > WELL_AFTER_S:
                    pause_s, said = BACKOFF_MIN_S, ""
                if str(error) != said:  # once is enough
                    said = str(error)
                    _log.error("bgp: %s; it will be tried again and again", said)
                await self._pause(bgp, pause_s)
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)

    async def _configured(self) -> Bgp:
        while self._bgp is None:
            self._changed.clear()
            await self._changed.wait()
        return self._bgp

    async def _pause(self, bgp: Bgp, pause_s: float) -> None:
        """Return after so long, or when another configuration is wanted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                while self._bgp == bgp:
                    self._changed.clear()
                    await self._changed.wait()

    async def _live(self, bgp: Bgp) -> None:
        """Run one exabgp until another configuration is wanted; ExabgpError when it ends."""
        self._up.clear()
        self._announced.clear()
        self._refused.clear()
        peers = {peer.address: peer for peer in bgp.peers}
        running = await Exabgp.start(bgp, lambda event: self._on_change(peers, event))
        _log.info("bgp: exabgp runs, for %s", ", ".join(peer.name for peer in bgp.peers))
        ended = asyncio.create_task(running.ended(), name="exabgp")
        try:
            while self._bgp == bgp:
                self._changed.clear()
                await self._reconcile(running, bgp)
                waiting = asyncio.create_task(self._changed.wait())
                await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if ended.done():
                    raise ExabgpError(ended.result())
        finally:
            ended.cancel()
            await running.stop()
        self._all_down(bgp, "not configured any more")

    async def _reconcile(self, running: Exabgp, bgp: Bgp) -> None:
        """Give the commands that lead from what is announced to what is wanted, until it changes.

        What is to be withdrawn goes first: traffic for it is lost meanwhile.
        """
        wanted = self._wanted(bgp)
        for key in sorted(self._announced.keys() - wanted.keys()):
            await running.command(exabgp.withdrawal(self._announced[key]))
            del self._announced[key]
            _log.info("bgp: %s withdrawn from %s", key[1], key[0])
        for key, text in sorted(wanted.items()):
            if self._changed.is_set():
                return
            if text in {self._announced.get(key), self._refused.get(key)}:
                continue
            if await running.command(text):
                self._announced[key] = text
                _log.info("bgp: %s announced to %s", key[1], key[0])
            else:
                self._announced.pop(key, None)
                self._refused[key] = text
                _log.error("bgp: exabgp refused to announce %s to %s", key[1], key[0])

    def _wanted(self, bgp: Bgp) -> dict[_Key, str]:
        """The command for each route whose session is or was up: before, nobody knows our end."""
        peers = {peer.name: peer for peer in bgp.peers}
        return {
            (route.peer, route.vip): exabgp.announcement(route, peers[route.peer], local)
            for route in self._routes
            if route.peer in peers and (local := self._up.get(route.peer)) is not None
        }

    def _on_change(self, peers: dict[str, BgpPeer], event: exabgp.Changed) -> None:
        peer = peers.get(event.peer)
        if peer is None:
            return
        if event.up and event.local is not None:
            self._up[peer.name] = event.local
            self._changed.set()
        reason = "established" if event.up else event.reason
        _log.info("bgp: session with %s: %s", peer.name, reason)
        self._deliver(BgpSession(peer.name, event.up, reason))

    def _all_down(self, bgp: Bgp, reason: str) -> None:
        for peer in bgp.peers:
            self._deliver(BgpSession(peer.name, up=False, reason=reason))
