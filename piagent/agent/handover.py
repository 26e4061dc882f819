"""Planned hand-overs: the successor is prepared first, then named in the yield.

The owner asks the successor (`prepare`), which answers `prepared` or `refused`; only then the owner
hides the VIP and yields. Everything is said to every broker that is connected; what comes twice
counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from piagent.agent.flow_handover import FlowHandOvers
from piagent.agent.letters import Letters
from piagent.agent.members import Members
from piagent.agent.tasks import Tasks
from piagent.agent.vips import Former
from piagent.core.lease_types import HandOver, KeyView, Reason, State
from piagent.core.replay import Replay
from piagent.core.wire import Command, Control
from piagent.ports import Clock

log = logging.getLogger(__name__)

ANSWER_S = 1.0
"""How long a successor may take to get ready."""
TAKEN_S = 5.0
"""How long until it is heard to own."""
FORMER_NS = 10_000_000_000
"""How long what a `prepare` said counts."""
_POLL_S = 0.005


class HandOverError(Exception):
    """It cannot be; the text says why, and nothing has changed unless it says so."""


class Announced(Struct, frozen=True):
    """A hand-over to this node that is on its way."""

    former: Former
    until_ns: int


class Host(Struct, frozen=True):
    """What this node is to a hand-over; each is asked when needed."""

    clock: Clock
    views: Callable[[], tuple[KeyView, ...]]
    refusals: Callable[[], Mapping[str, Reason]]
    drain_ms: Callable[[], int]
    mac: Callable[[], bytes]
    post: Callable[[HandOver], None]
    publish: Callable[[str, bytes], None]
    """Topic and payload, to every broker that is connected."""
    drain: Callable[[bool], None]
    """Drain the node, or make it take part again."""


class HandOvers:
    """Both sides of planned hand-overs, and what operators ask for from other nodes."""

    def __init__(
        self, letters: Letters, members: Members, host: Host, flows: FlowHandOvers
    ) -> None:
        """`letters` signs, `members` knows whom to ask, `flows` hands over what is forwarded."""
        self._letters = letters
        self._members = members
        self._host = host
        self._flows = flows
        self._replay = Replay()
        self._answers: dict[tuple[str, str], asyncio.Future[str]] = {}
        self._expected: dict[str, Announced] = {}
        self._tasks = Tasks()

    # ---- giving ----

    async def give(self, vip: str, to: str, reason: Reason = Reason.HANDED_OVER) -> None:
        """Hand a VIP of ours over; returns when the successor is heard to own it.

        Raises HandOverError.
        """
        self._check(vip, to)
        await self._until_it_may_claim(vip, to)
        await self._prepare(vip, to)
        if not self._owns(vip):
            raise HandOverError(f"{vip}: this node owns it no more")
        self._host.post(HandOver(vip, to, reason))
        await self._until_owned(vip, to)

    async def move(self, vip: str, owner: str, to: str) -> None:
        """Have the owner, another node, do it. Raises HandOverError."""
        answer = self._ask(owner, Command.MOVE, vip, node=to)
        await self._until_owned(vip, to, answer)

    def ask_to_drain(self, node: str, *, drain: bool) -> None:
        """Have another node drain itself, or take part again. Raises HandOverError."""
        self._say(node, Command.DRAIN if drain else Command.UNDRAIN)

    def _check(self, vip: str, to: str) -> None:
        if not self._owns(vip):
            raise HandOverError(f"{vip} is not owned by {self._letters.node}")
        if to == self._letters.node:
            raise HandOverError(f"{vip} is on {to} already")
        said = self._members.get(to)
        if said is None:
            known = ", ".join(self._members.all()) or "none"
            raise HandOverError(f"node {to} is not there (there are: {known})")
        if said.draining:
            raise HandOverError(f"node {to} is being drained: piagent node undrain {to}")
        if vip in said.refuses:
            raise HandOverError(f"node {to} does not take {vip}: {said.refuses[vip]}")

    async def _until_it_may_claim(self, vip: str, to: str) -> None:
        """A node that came lately has to listen first (R1); meanwhile nobody would have the VIP."""
        end = asyncio.get_running_loop().time() + TAKEN_S
        while (said := self._members.get(to)) is not None and said.listening:
            if asyncio.get_running_loop().time() > end:
                raise HandOverError(f"node {to} came lately and may not claim yet; {vip} stays")
            await asyncio.sleep(_POLL_S)

    async def _prepare(self, vip: str, to: str) -> None:
        mac, ms = self._host.mac().hex(), self._host.drain_ms()
        answer = self._ask(to, Command.PREPARE, vip, mac=mac, ms=ms)
        try:
            async with asyncio.timeout(ANSWER_S):
                refusal = await answer
        except TimeoutError:
            raise HandOverError(f"node {to} does not answer; {vip} stays") from None
        finally:
            self._answers.pop((to, vip), None)
        if refusal:
            raise HandOverError(f"node {to} does not take {vip}: {refusal}")

    async def _until_owned(
        self, vip: str, to: str, refusal: asyncio.Future[str] | None = None
    ) -> None:
        end = asyncio.get_running_loop().time() + TAKEN_S
        while asyncio.get_running_loop().time() < end:
            if refusal is not None and refusal.done() and refusal.result():
                raise HandOverError(refusal.result())
            view = next((view for view in self._host.views() if view.key == vip), None)
            if view is None:
                raise HandOverError(f"{vip} is not one of this node's VIPs any more")
            owner = self._letters.node if view.state is State.OWNER else (view.owner or ("",))[0]
            if owner == to:
                return
            await asyncio.sleep(_POLL_S)
        raise HandOverError(f"{vip}: given up, but {to} was not heard to own it in {TAKEN_S:g} s")

    def _ask(self, whom: str, command: Command, vip: str, **about: Any) -> asyncio.Future[str]:
        """Say it; the future is the answer: empty, or why not."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[whom, vip] = answer
        self._say(whom, command, vip=vip, **about)
        return answer

    def _say(self, whom: str, command: Command, **about: Any) -> None:
        said = self._members.get(whom)
        if said is None:
            raise HandOverError(f"node {whom} is not there")
        self._host.publish(*self._letters.command(whom, said.incarnation, command, **about))

    # ---- taking ----

    def former(self, vip: str) -> Former | None:
        """Who goes on serving connections to a VIP that was just acquired."""
        expected = self._expected.pop(vip, None)
        if expected is None or self._host.clock.now_ns() > expected.until_ns:
            return None
        return expected.former

    def hear(self, said: Control) -> None:
        """An authentic message to this life of this node; it may have come before."""
        if not self._replay.accepts(said.sender, said.incarnation, said.seq):
            return
        match said.command:
            case Command.PREPARE:
                self._get_ready(said)
            case Command.PREPARED | Command.REFUSED:
                answer = self._answers.get((said.sender, said.vip))
                if answer is not None and not answer.done():
                    answer.set_result(
                        said.detail or "refused" if said.command is Command.REFUSED else ""
                    )
            case Command.MOVE:
                log.info("vip %s: %s asks to move it to %s", said.vip, said.sender, said.node)
                self._tasks.spawn(self._move_for(said))
            case Command.FLOWS | Command.ADOPTED:
                self._flows.hear(said)
            case Command.DRAIN | Command.UNDRAIN:
                log.info("%s asks to %s this node", said.sender, said.command)
                self._host.drain(said.command is Command.DRAIN)

    def _get_ready(self, said: Control) -> None:
        vip, refusals = said.vip, self._host.refusals()
        if all(view.key != vip for view in self._host.views()):
            self._refuse(said, "it is not in this node's file")
        elif vip in refusals:
            self._refuse(said, refusals[vip])
        else:
            former = Former(bytes.fromhex(said.mac), min(said.ms, 10 * self._host.drain_ms()))
            until_ns = self._host.clock.now_ns() + FORMER_NS
            self._expected[vip] = Announced(former, until_ns)
            self._flows.expect(said)
            self._answer(said, Command.PREPARED)

    async def _move_for(self, said: Control) -> None:
        try:
            await self.give(said.vip, said.node)
        except HandOverError as error:
            self._refuse(said, str(error))

    def _refuse(self, said: Control, why: str) -> None:
        log.warning("vip %s: refused to %s: %s", said.vip, said.sender, why)
        self._answer(said, Command.REFUSED, why)

    def _answer(self, said: Control, command: Command, detail: str = "") -> None:
        try:
            self._say(said.sender, command, vip=said.vip, detail=detail)
        except HandOverError as error:
            log.warning("vip %s: no answer to %s: %s", said.vip, said.sender, error)

    def _owns(self, vip: str) -> bool:
        return any(v.key == vip and v.state is State.OWNER for v in self._host.views())
