"""Orders of operators: whichever node is asked, the leader does it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

import msgspec

from piagent.agent.letters import Letters
from piagent.agent.members import Members
from piagent.agent.office import Office
from piagent.agent.tasks import Tasks
from piagent.core.applying import REFUSALS, Order, Outcome, Result, Verdict
from piagent.core.replay import Replay
from piagent.core.wire import BODY_MAX, Command, Control

log = logging.getLogger(__name__)

TRY_S = 15.0
"""How long an order may find no leader that answers; a change of leaders takes seconds."""
ANSWER_S = 7.0
_AGAIN_S = 0.25
_REMEMBERED = 100


class Orders:
    """Takes orders from this host, and from other nodes if this one leads."""

    def __init__(
        self,
        *,
        office: Office,
        letters: Letters,
        members: Members,
        leader: Callable[[], str | None],
        publish: Callable[[str, bytes], None],
    ) -> None:
        """`leader`: the name of the node that leads, as far as is heard."""
        self._office = office
        self._letters = letters
        self._members = members
        self._leader = leader
        self._publish = publish
        self._replay = Replay()
        self._answers: dict[str, asyncio.Future[Verdict]] = {}
        self._under_way: set[str] = set()
        self._done: OrderedDict[str, Verdict] = OrderedDict()
        self._tasks = Tasks()

    async def submit(self, order: Order) -> Verdict:
        """Have it done. An order that is asked for again does nothing twice."""
        end_s = monotonic() + TRY_S
        name, asked, verdict = secrets.token_hex(8), False, Verdict(done=False)
        while True:
            leader = self._leader()
            if leader == self._letters.node:
                verdict = await self._office.apply(order)
            elif leader is not None:
                verdict = await self._ask(leader, name, order)
            else:
                verdict = Verdict(done=False, error="no node leads the cluster now; try again")
            if not verdict.error or verdict.final:
                return _settled(verdict) if asked and not order.dry_run else verdict
            if leader is not None:
                asked = True
            if monotonic() > end_s:
                return verdict
            await asyncio.sleep(_AGAIN_S)

    def hear(self, said: Control) -> None:
        """An authentic message to this life of this node; it may have come before."""
        if said.command not in {Command.APPLY, Command.APPLIED}:
            return
        if not self._replay.accepts(said.sender, said.incarnation, said.seq):
            return
        if said.command is Command.APPLY:
            self._tasks.spawn(self._do_for(said))
        elif (answer := self._answers.get(said.detail)) is not None and not answer.done():
            answer.set_result(_decoded(said.body))

    async def _ask(self, leader: str, name: str, order: Order) -> Verdict:
        body = msgspec.json.encode(order).decode()
        if len(body) > BODY_MAX // 2:
            what = f"{len(body)} characters are more than the {BODY_MAX // 2} of one order"
            return Verdict(done=False, error=f"{what}; apply in several files", final=True)
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._answers[name] = answer
        try:
            if not self._say(leader, Command.APPLY, name, body):
                return Verdict(done=False, error=f"the leader {leader} has gone; try again")
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            return Verdict(done=False, error=f"the leader {leader} does not answer; try again")
        finally:
            del self._answers[name]

    async def _do_for(self, said: Control) -> None:
        """Do it once: what is asked again while it is under way is answered with it."""
        name = f"{said.sender}/{said.detail}"
        if name in self._under_way:
            return
        verdict = self._done.get(name)
        if verdict is None:
            self._under_way.add(name)
            try:
                verdict = await self._carry_out(said)
            finally:
                self._under_way.remove(name)
            if not verdict.error:  # else it may be asked for again
                self._done[name] = verdict
            if len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
        body = msgspec.json.encode(verdict).decode()
        if len(body) > BODY_MAX:
            body = msgspec.json.encode(Verdict(done=verdict.done)).decode()
        self._say(said.sender, Command.APPLIED, said.detail, body)

    async def _carry_out(self, said: Control) -> Verdict:
        try:
            order = msgspec.json.decode(said.body, type=Order)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            what = f"an order that cannot be read: {error}"
            return Verdict(done=False, error=what, final=True)
        log.info("%s orders: %s", said.sender, ", ".join(one.key for one in order.changes))
        return await self._office.apply(order)

    def _say(self, whom: str, command: Command, name: str, body: str) -> bool:
        there = self._members.get(whom)
        if there is not None:
            letter = self._letters.command(whom, there.incarnation, command, detail=name, body=body)
            self._publish(*letter)
        return there is not None


def _settled(verdict: Verdict) -> Verdict:
    """What was asked for again may have been done before: its absence is no failure then."""
    outcomes = tuple(map(_gone, verdict.outcomes))
    if outcomes == verdict.outcomes:
        return verdict
    done = not any(one.result in REFUSALS for one in outcomes)
    return Verdict(done=done, outcomes=outcomes)


def _gone(outcome: Outcome) -> Outcome:
    if outcome.result is not Result.NOT_FOUND:
        return outcome
    return Outcome(kind=outcome.kind, name=outcome.name, result=Result.DELETED)


def _decoded(body: str) -> Verdict:
    try:
        return msgspec.json.decode(body, type=Verdict)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Verdict(done=False, error=f"the leader's answer cannot be read: {error}")
