"""Planned changes of ownership: moves, drains, the end of the agent, evening out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from piagent.adapters.clock import until_beat_s
from piagent.agent.election import Election
from piagent.agent.handover import HandOverError, HandOvers
from piagent.agent.letters import Letters
from piagent.agent.watch import Watch
from piagent.core.lease_types import LEADER, Reason
from piagent.core.model import Config
from piagent.core.plan import is_loopback

log = logging.getLogger(__name__)

BALANCE_EVERY_S = 1.0


class Steward:
    """Moves VIPs, each to a successor that was prepared for it."""

    def __init__(
        self,
        letters: Letters,
        election: Election,
        handovers: HandOvers,
        watch: Watch,
        config: Callable[[], Config],
    ) -> None:
        """`watch` keeps what this node is, which a drain changes."""
        self._letters = letters
        self._election = election
        self._handovers = handovers
        self._watch = watch
        self._config = config
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Even out, and give preferred nodes their VIPs back, until cancelled."""
        known: Mapping[str, str] = {}
        while True:
            await asyncio.sleep(until_beat_s(BALANCE_EVERY_S))
            owners = self._election.placing.owners()
            if owners != known:
                known = owners
                self._election.rank_again()
                continue
            due = self._election.placing.move()
            if due is None or self._watch.standing.draining:
                continue
            move, reason = due
            log.info("vip %s: giving it to %s, reason=%s", move.key, move.taker, reason)
            await self._give(move.key, move.taker, reason)

    async def move(self, vip: str, to: str) -> None:
        """Have the VIP's owner hand it over, this node or another. Raises HandOverError."""
        if vip not in self._config().vips():
            known = ", ".join(self._config().vips()) or "none"
            raise HandOverError(f"{vip} is none of this node's VIPs (there are: {known})")
        owner = self._election.placing.owners().get(vip)
        if owner is None:
            raise HandOverError(f"{vip} has no owner now: it cannot be moved")
        if owner == to:
            raise HandOverError(f"{vip} is on {to} already")
        if owner == self._letters.node:
            await self._handovers.give(vip, to)
        else:
            await self._handovers.move(vip, owner, to)

    def drain(self, drain: bool) -> None:
        """Begin to hand everything over, or take part again."""
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        if drain:
            self._draining = asyncio.create_task(self._drain())
        else:
            self._watch.set(draining=False)

    def drain_node(self, node: str, *, drain: bool) -> None:
        """The same for any node. Raises HandOverError."""
        if node == self._letters.node:
            self.drain(drain)
        else:
            self._handovers.ask_to_drain(node, drain=drain)

    async def hand_over(self, vips: Collection[str], reason: Reason) -> None:
        """Give these to others, all at once, as far as there are others that take them."""
        owned = set(self._election.tenure.owned()) - {LEADER}
        mine = sorted(vip for vip in vips if vip in owned and not is_loopback(vip))
        await self.give_all(self._election.placing.successors(mine), reason)

    async def give_all(self, takers: Mapping[str, str | None], reason: Reason) -> None:
        """Give each VIP to its taker, all at once; those without one stay."""
        await asyncio.gather(
            *(self._give(vip, to, reason) for vip, to in takers.items() if to is not None)
        )

    async def _drain(self) -> None:
        await self.hand_over(self._config().vips(), Reason.DRAINED)
        self._watch.set(draining=True)
        log.info("drained: this node owns no VIP until `piagent node undrain`")

    async def _give(self, vip: str, to: str, reason: Reason) -> None:
        try:
            await self._handovers.give(vip, to, reason)
        except HandOverError as error:
            log.warning("vip %s: not handed over to %s: %s", vip, to, error)
