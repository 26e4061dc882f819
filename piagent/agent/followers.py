"""What follows the configuration that is served: addresses on `lo`, routers, names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import monotonic

from piagent.agent.serving import Serving
from piagent.core.bgp import Announcement, announcements, routes, speaking
from piagent.core.dsr import Accepted, accepted
from piagent.core.eligibility import Standing
from piagent.core.forwarding import Mode
from piagent.core.model import Config
from piagent.core.names import Answer, Question, Zone
from piagent.ports import BgpSession, LocalAddresses, Responder, Speaker

log = logging.getLogger(__name__)

AGAIN_S = 5.0
"""How often what could not be had is tried again."""


class Followers:
    """Keeps them at what is served."""

    def __init__(
        self,
        *,
        serving: Serving,
        standing: Callable[[], Standing],
        local: LocalAddresses,
        speaker: Speaker,
        responder: Callable[[Callable[[Question], Answer]], Responder] | None,
        accepts: Callable[[], None] = lambda: None,
    ) -> None:
        """`responder`: makes the DNS responder, given who knows the answers; None: there is none.

        Names, and what is announced to routers, depend on `standing`, too. `accepts` is called
        when `accepted` is another.
        """
        self._accepts = accepts
        self._accepted_until: dict[Accepted, float] = {}
        self._serving = serving
        self._standing = standing
        self._local = local
        self._speaker = speaker
        self.responder = None if responder is None else responder(self._answer)
        self._zone = Zone(serving.config)
        self._known: object = None
        self._leaving = False
        self._had = True  # of a former life, maybe
        self._here: set[str] = set()
        self.missing: dict[str, str] = {}
        """Addresses that `lo` does not have, and why."""
        self.sessions: dict[str, BgpSession] = {}
        """By the router's name."""

    def follow(self) -> None:
        """What is served, or how this host is, has changed."""
        config, standing = self._serving.config, self._standing()
        if config is not self._known:
            self._known = config
            self._zone = Zone(config)
            self._speaker.configure(speaking(config))
            self._configure()
        if not self._leaving:
            self._speaker.announce(routes(config, standing))

    def withdraw(self) -> None:
        """Have routers send nothing more here: this agent ends."""
        self._leaving = True
        self._speaker.announce(frozenset())

    @property
    def accepted(self) -> frozenset[str]:
        """The VIPs that this host serves as a backend, whoever owns them."""
        return frozenset(one.vip for one in self._accepted_until)

    def announcements(self) -> dict[str, Announcement]:
        """VIP that BGP leads to -> whether this node says so now, and why."""
        return announcements(self._serving.config, self._standing())

    async def run(self) -> None:
        """Until cancelled; afterwards `lo` has no address of ours."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._speaker.run(self._note))
                if self.responder is not None:
                    group.create_task(self.responder.run())
                group.create_task(self._try_again())
        finally:
            self._cut(self._here)
            self._local.remove_all()

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            self._serving.try_again()
            self._configure()  # somebody may have flushed tables or addresses

    def _configure(self) -> None:
        config = self._serving.config
        inside = config.cluster_ips()
        routed = config.routed_vips() if config.node.vip_weight > 0 else ()
        before = self.accepted
        self._accept(config)
        if self.accepted != before:
            self._accepts()
        if not (inside or routed or self.accepted or self._had):
            return
        wanted = {*inside, *routed}
        self._cut(self._here - wanted)
        missing = self._local.configure(inside, routed, tuple(self._accepted_until))
        self._had, self._here = bool(wanted or self.accepted), wanted
        for address, why in missing.items():
            if self.missing.get(address) != why:
                log.error("address %s: not on lo: %s", address, why)
        self.missing = missing

    def _accept(self, config: Config) -> None:
        """What this host is no backend of any more has connections still, for a while."""
        is_dsr = any(service.forwarding.mode is Mode.DSR for service in config.services)
        now, needed = monotonic(), accepted(config, self._local.own()) if is_dsr else {}
        for one, drain_ms in needed.items():
            self._accepted_until[one] = now + drain_ms / 1000
        for one, until in list(self._accepted_until.items()):
            if one not in needed and until <= now:
                del self._accepted_until[one]

    def _cut(self, addresses: Iterable[str]) -> None:
        """While they are there: without its address, a connection would hang and never end."""
        for address in addresses:
            self._serving.cut(address)

    def _note(self, session: BgpSession) -> None:
        before = self.sessions.get(session.peer)
        self.sessions[session.peer] = session
        if before is None or before.up != session.up:
            level = logging.INFO if session.up else logging.WARNING
            state = "up" if session.up else "down"
            log.log(level, "bgp %s: %s: %s", session.peer, state, session.reason)

    def _answer(self, question: Question) -> Answer:
        return self._zone.answer(question, self._standing().down)
