"""The `nat` flows of a VIP that is handed over, on their way to its next owner.

Beside the lease, which waits for none of it: the former owner sends them when it has hidden the
VIP, and goes on with them meanwhile; the next one takes them when it owns it, and says so. Then the
former owner ends its own. What is lost on the way ends with the drain, as without all this.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from piagent.agent.letters import Letters
from piagent.agent.members import Members
from piagent.agent.tasks import Tasks
from piagent.core.flow_parts import FLOWS_MAX, PART_FLOWS, Arrival, Arrivals, Part, written
from piagent.core.wire import Command, Control
from piagent.ports import Clock

log = logging.getLogger(__name__)

EXPECTED_NS = 10_000_000_000
"""How long parts may come after a `prepare`."""
GIVEN_S = 5.0
"""How long sending takes at most, the answer included."""
PAUSE_S = 0.03
"""Between two parts: renewals of leases have to get through, too."""
_POLL_S = 0.005


class Flows(Protocol):
    """The engine's part in it; each call may take half a second."""

    def export_flows(self, vip: str, most: int, each: int) -> list[bytes]:
        """See `ports.Forwarding`."""
        ...

    def adopt_flows(self, vip: str, batch: bytes) -> Mapping[str, int]:
        """See `ports.Forwarding`."""
        ...

    def end_flows(self, vip: str) -> int:
        """See `ports.Forwarding`."""
        ...


class Around(Struct, frozen=True):
    """What this needs of the rest of the agent."""

    clock: Clock
    publish: Callable[[str, bytes], None]
    """Topic and payload, to every broker that is connected."""
    owns: Callable[[str], bool]
    """Whether the VIP is on this node, as its owner's."""


class FlowHandOvers:
    """Both sides of it."""

    def __init__(self, letters: Letters, members: Members, flows: Flows, around: Around) -> None:
        """`letters` signs, `members` knows whom to say it to."""
        self._letters = letters
        self._members = members
        self._flows = flows
        self._around = around
        self._arrivals = Arrivals()
        self._giving: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[tuple[str, str, int], asyncio.Future[None]] = {}
        self._taking: set[str] = set()
        self._tasks = Tasks()
        self.counted: Counter[str] = Counter()
        """Flows: "given", and by what became of those that came (the engine's words)."""
        self.refused: Counter[str] = Counter()
        """Parts that did not count, by `flow_parts.Fault`."""

    # ---- giving ----

    def give(self, vip: str, to: str, epoch: int) -> None:
        """The VIP is hidden here, and that node is to own it; nobody waits for this."""
        self._tasks.spawn(self._give(vip, to, epoch))

    async def _give(self, vip: str, to: str, epoch: int) -> None:
        try:
            batches = await asyncio.to_thread(self._flows.export_flows, vip, FLOWS_MAX, PART_FLOWS)
            if not batches:
                return
            async with asyncio.timeout(GIVEN_S):
                await self._send(vip, to, epoch, batches)
            if self._around.owns(vip):
                return
            n = await asyncio.to_thread(self._flows.end_flows, vip)
        except TimeoutError as error:
            log.warning(
                "vip %s: %s has not taken its nat connections: they end with the drain (%s)",
                vip, to, error or f"no answer in {GIVEN_S:g} s",
            )  # fmt: skip
        except OSError as error:
            log.warning("vip %s: nat connections are not handed over to %s: %s", vip, to, error)
        else:
            self.counted["given"] += n
            log.info("vip %s: %d nat connections handed over to %s", vip, n, to)

    async def _send(self, vip: str, to: str, epoch: int, batches: list[bytes]) -> None:
        """Send all of them, and wait until they are taken."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers[to, vip, epoch] = answer
        try:
            for number, batch in enumerate(batches, 1):
                body = written(Part(number, len(batches), batch))
                self._say(to, Command.FLOWS, vip=vip, epoch=epoch, body=body)
                await asyncio.sleep(PAUSE_S)
            await answer
        finally:
            del self._answers[to, vip, epoch]

    def _say(self, whom: str, command: Command, *, vip: str, epoch: int, body: str = "") -> None:
        """OSError: that node is not there any more."""
        said = self._members.get(whom)
        if said is None:
            raise OSError(f"node {whom} is not there")
        told = self._letters.command(
            whom, said.incarnation, command, vip=vip, epoch=epoch, body=body
        )
        self._around.publish(*told)

    # ---- taking ----

    def expect(self, said: Control) -> None:
        """This node is ready to take the VIP from who asked."""
        now_ns = self._around.clock.now_ns()
        self._arrivals.end(now_ns)
        self._arrivals.expect(said.vip, (said.sender, said.incarnation), now_ns + EXPECTED_NS)

    def hear(self, said: Control) -> None:
        """A message `flows` or `adopted`, authentic and new."""
        if said.command is Command.ADOPTED:
            answer = self._answers.get((said.sender, said.vip, said.epoch))
            if answer is not None and not answer.done():
                answer.set_result(None)
            return
        giver = said.sender, said.incarnation
        now_ns = self._around.clock.now_ns()
        fault = self._arrivals.hear(said.vip, giver, said.epoch, said.body, now_ns)
        if fault is not None:
            self.refused[fault] += 1
            log.warning("vip %s: flows from %s do not count: %s", said.vip, said.sender, fault)
        elif said.vip not in self._taking:
            self._taking.add(said.vip)
            self._tasks.spawn(self._take(said.vip))

    async def _take(self, vip: str) -> None:
        """What waits now; what comes later is taken anew."""
        try:
            while (arrival := self._arrivals.of(vip)) is not None and arrival.waiting:
                if self._around.clock.now_ns() > arrival.until_ns:
                    self._arrivals.forget(arrival)
                    log.warning("vip %s: flows have come, but the VIP has not", vip)
                elif self._around.owns(vip):
                    await self._adopt(arrival)
                else:
                    await asyncio.sleep(_POLL_S)
        finally:
            self._taking.discard(vip)

    async def _adopt(self, arrival: Arrival) -> None:
        vip, (giver, _) = arrival.vip, arrival.giver
        try:
            batch = arrival.waiting.popleft()
            told = await asyncio.to_thread(self._flows.adopt_flows, vip, batch)
        except (OSError, ValueError) as error:
            log.warning("vip %s: connections through %s are not taken over: %s", vip, giver, error)
            self._arrivals.forget(arrival)
            return
        self.counted.update(told)
        arrival.told.update(told)
        if not arrival.is_complete():
            return
        self._arrivals.forget(arrival)
        words = ", ".join(f"{n} {what}" for what, n in arrival.told.items()) or "none"
        log.info("vip %s: nat connections through %s: %s", vip, giver, words)
        try:
            self._say(giver, Command.ADOPTED, vip=vip, epoch=arrival.epoch or 0)
        except OSError as error:
            log.debug("vip %s: nobody to tell: %s", vip, error)
