"""The leader's work: it alone gives addresses and node ports out, and makes true what is applied.

A new leader begins with what is in force anywhere and says it again under its own epoch; it gives
nothing new before it has heard what every node that is there asks for. It says nothing after its
lease's end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from time import monotonic

from msgspec.structs import replace

from piagent.adapters.clock import until_beat_s
from piagent.agent.bulletins import Bulletin, Bulletins
from piagent.agent.members import Members
from piagent.agent.registry import Publisher, Registry
from piagent.config.applied import read_record
from piagent.core.applying import Decided, Order, Standing, Verdict, decide
from piagent.core.assignments import (
    NEVER,
    Assignments,
    Composed,
    Stamp,
    compose,
    reserved,
    with_late,
)
from piagent.core.catalog import Note, Thing, wants_of_things
from piagent.core.model import Pool
from piagent.core.records import digest
from piagent.core.wants import Want
from piagent.core.wire import MAX_SIZE

log = logging.getLogger(__name__)

TEND_S = 1.0
"""How often a leader looks whether every broker carries what is in force."""
SETTLE_S = 3.0
"""How long a new leader waits at most for what nodes ask for."""
CONFIRM_S = 5.0
"""How long a majority of the brokers may take to carry what was decided."""
LINGER_S = 600.0
"""How long what a file asked for counts when no file has it any more: a node may just be away."""
NOTHING = Assignments(node="", epoch=0, number=0)
_POLL_S = 0.005


class Office:
    """What a node does while it leads, and how far it has come."""

    def __init__(
        self,
        *,
        bulletins: Bulletins,
        registry: Registry,
        members: Members,
        publisher: Publisher,
        connected: Callable[[], tuple[str, ...]],
        epoch: Callable[[], int | None],
    ) -> None:
        """`epoch`: of this node's leadership now; None: it does not lead."""
        self._bulletins = bulletins
        self._registry = registry
        self._members = members
        self._publisher = publisher
        self._connected = connected
        self._epoch = epoch
        self._current: Assignments | None = None  # what this leader said last
        self._since_s = 0.0
        self._settled = False
        self._looked: object = None
        self._overheard = False  # a broker may carry what is older now
        self._wanted: dict[str, tuple[Want, float]] = {}  # by files, and when last
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self.composed: Composed | None = None
        """The last decision, with what the pools have left; None: this node has made none."""

    def leads(self) -> bool:
        """Whether this node leads now."""
        return self._epoch() is not None

    def wake(self) -> None:
        """Something that may matter to a leader has changed."""
        self._wake.set()

    def hear(self, said: Bulletin) -> None:
        """What a former leader said and this one had not heard: nothing applied may be lost.

        A broker that carries anything but the latest is told it again, though it be a recorded
        message of this leader's, or nothing: who comes next hears only what it carries.
        """
        current = self._current
        if current is None or said.kind is not Assignments:
            return
        if not isinstance(said.message, Assignments) or said.message.stamp < current.stamp:
            self._overheard = True
        if not isinstance(said.message, Assignments):
            return
        if said.message.number > 0 and said.message.epoch < current.epoch and current.number:
            self._current = with_late(current, said.message)
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                pause_s = until_beat_s(TEND_S) if self._current is not None else None
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            async with self._lock:
                self._tend()

    async def apply(self, order: Order) -> Verdict:
        """Do it, or say why not; this node has to lead."""
        async with self._lock:
            if not await self._is_ready():
                what = "the leader has just changed, or hears no majority of the brokers; try again"
                return Verdict(done=False, error=what)
            blocked = self._blocked()
            if blocked is not None:
                return Verdict(done=False, error=blocked, final=True)
            decided = decide(order, self._standing(), read_record)
            if decided.assignments is None:
                return decided.verdict
            return await self._carry_out(decided, decided.assignments)

    def look(self) -> Composed:
        """What would be given by what is known here; changes nothing."""
        said = self._registry.assignments() or NOTHING
        wants = {**wants_of_things(self._things(said).values()), **self._in_files()}
        return compose(self._pools(), wants, said.given)

    def pools(self) -> tuple[Pool, ...]:
        """The pools of all files; of several of one name this node's own."""
        return self._pools()

    # ---- leading ------------------------------------------------------------------------------

    def _tend(self) -> None:
        epoch = self._epoch()
        if epoch is None:
            self._current = None
            return
        if self._current is None or self._current.epoch != epoch:
            self._begin(epoch)
        if self._current is not None and self._current.number == 0:
            self._take_over(self._current)
        if self._settle():
            self._recompose()
        self._say_to_who_lacks_it()

    def _begin(self, epoch: int) -> None:
        """Have brokers that nothing older counts from now on (see `core.agreement`)."""
        known = self._registry.agreement.newest or NOTHING
        self._current = replace(
            known, node=self._bulletins.node, epoch=epoch, number=0, known=known.told
        )
        self._since_s, self._settled, self._looked = monotonic(), False, None
        self._say(self._current)

    def _take_over(self, prepared: Assignments) -> None:
        """Say again, as this leader, the newest that was said, once nothing older can follow."""
        if not self._registry.agreement.is_carried(prepared):
            return
        known = self._registry.agreement.newest or NOTHING
        if known.number == 0 and monotonic() - self._since_s < SETTLE_S:
            return  # others may know more, and have had no time to say it
        log.info("leading, epoch %d, %d assignments so far", prepared.epoch, len(prepared.given))
        now_s = monotonic()
        for key, has in known.given.items():
            if has.applied is None:  # its node may be away: what it asks for is heard later
                self._wanted.setdefault(key, (reserved(has), now_s))
        self._try_to_say(
            replace(known, node=prepared.node, epoch=prepared.epoch, number=1, known=NEVER)
        )

    def _say_to_who_lacks_it(self) -> None:
        """A broker may have been away, or carry what somebody said late."""
        current = self._current
        if current is None or self._epoch() != current.epoch:
            return
        overheard, self._overheard = self._overheard, False
        for broker in self._connected():
            if current.number:  # a `prepare` repeats, and brings nothing into force
                self._registry.give_records(broker, current)
            if overheard or self._registry.agreement.carries(broker) != current:
                self._publisher.to_one(broker, *self._bulletins.assignments(current))

    def _settle(self) -> bool:
        """Every node that is there has said what it asks for, or had the time to."""
        current = self._current
        if current is None or current.number == 0:
            return False
        if not self._settled:
            wants = self._registry.wants()
            heard = all(
                name in wants and wants[name].incarnation == said.incarnation
                for name, said in self._members.all().items()
            )
            waited_s = monotonic() - self._since_s
            self._settled = waited_s >= SETTLE_S or (heard and bool(current.given))
        return self._settled

    async def _is_ready(self) -> bool:
        """Wait until what was said last is in force: an order asked for again may have said it."""
        end_s = monotonic() + SETTLE_S + TEND_S
        while monotonic() < end_s:
            self._tend()
            if self._current is not None and self._settled:
                return await self._confirmed(self._current.stamp)
            if self._epoch() is None:
                return False
            await asyncio.sleep(0.05)
        return False

    def _recompose(self) -> None:
        """Give what is wanted now; mostly that is what was given before."""
        current = self._current
        if current is None:
            return
        pools, in_files = self._pools(), self._in_files()
        lingering = self._lingering(in_files)
        blocked = self._blocked()
        looked = (pools, in_files, lingering.keys(), current.given, blocked)
        if looked == self._looked:
            return
        if blocked is not None:
            log.warning("nothing is assigned: %s", blocked)
            self._looked = looked
            return
        things = self._things(current)
        wants = {**lingering, **wants_of_things(things.values()), **in_files}
        self.composed = compose(pools, wants, current.given)
        if self.composed.given != current.given:
            self._note(current.given, self.composed)
            self._try_to_say(replace(current, number=current.number + 1, given=self.composed.given))
        given = self._current.given if self._current else {}
        self._looked = (pools, in_files, lingering.keys(), given, blocked)

    def _blocked(self) -> str | None:
        """Why nothing may be decided: what this leader cannot read would lose its place."""
        node = self._bulletins.node
        for key, thing in self._registry.contents.things(self._current).items():
            if isinstance(thing, Note):
                return f"the leader, {node}, cannot read what was applied as {key}: {thing.detail}"
        return None

    def _standing(self) -> Standing:
        current, in_files = self._current or NOTHING, self._in_files()
        return Standing(
            assignments=current,
            records=self._registry.contents.records(self._current),
            things=self._things(current),
            in_files=in_files,
            lingering=self._lingering(in_files),
            pools=self._pools(),
        )

    def _things(self, said: Assignments | None) -> dict[str, Thing]:
        things = self._registry.contents.things(said)
        return {key: one for key, one in things.items() if not isinstance(one, Note)}

    def _in_files(self) -> dict[str, Want]:
        """What the files ask for; of several that differ this node's own counts, then by name."""
        found: dict[str, Want] = {}
        for said in self._registry.wants().values():
            for key, want in said.wants.items():
                found.setdefault(key, want)
        return found

    def _lingering(self, in_files: Mapping[str, Want]) -> dict[str, Want]:
        """What files asked for until lately, the present wants included."""
        now_s = monotonic()
        self._wanted |= {key: (want, now_s) for key, want in in_files.items()}
        self._wanted = {k: kept for k, kept in self._wanted.items() if now_s - kept[1] < LINGER_S}
        return {key: want for key, (want, _) in self._wanted.items()}

    def _pools(self) -> tuple[Pool, ...]:
        """Those of this node's file, and those that only others have."""
        found: dict[str, Pool] = {}
        for said in self._registry.wants().values():
            for pool in said.pools:
                found.setdefault(pool.name, pool)
        return tuple(found.values())

    # ---- saying -------------------------------------------------------------------------------

    async def _carry_out(self, decided: Decided, said: Assignments) -> Verdict:
        if not self._fits(said):
            what = f"the assignments would be over {MAX_SIZE} bytes: there are too many services"
            return Verdict(done=False, error=what, final=True)
        before = self._registry.contents.records(self._current)
        new = {
            key: record
            for key, record in decided.records.items()
            if key not in before or digest(before[key]) != digest(record)
        }
        for record in new.values():
            topic, payload = self._bulletins.record(record)
            if len(payload) > MAX_SIZE:
                what = f"{record.key} is over {MAX_SIZE} bytes"
                return Verdict(done=False, error=what, final=True)
            self._registry.contents.add(record)
            self._publisher.to_all(topic, payload)
        if not self._try_to_say(said):
            return Verdict(done=False, error="the leader has just changed; try again")
        if not await self._confirmed(said.stamp):
            what = f"no majority of the brokers confirmed it in {CONFIRM_S:g} s; it may yet come"
            return Verdict(done=False, outcomes=decided.verdict.outcomes, error=what)
        for key in before.keys() - decided.records.keys():
            self._publisher.to_all(*self._bulletins.cleared(key))
        return decided.verdict

    async def _confirmed(self, stamp: Stamp) -> bool:
        end_s = monotonic() + CONFIRM_S
        while monotonic() < end_s:
            said = self._registry.assignments()
            if said is not None and said.stamp >= stamp:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    def _try_to_say(self, said: Assignments) -> bool:
        """Not without a lease that runs: its successor may have begun."""
        if self._epoch() != said.epoch:
            return False
        if not self._fits(said):
            log.error("the assignments would be over %d bytes: nothing is assigned", MAX_SIZE)
            return False
        self._current = said
        self._say(said)
        return True

    def _say(self, said: Assignments) -> None:
        self._publisher.to_all(*self._bulletins.assignments(said))

    def _fits(self, said: Assignments) -> bool:
        return len(self._bulletins.assignments(said)[1]) <= MAX_SIZE

    def _note(self, before: Mapping[str, object], composed: Composed) -> None:
        for key, has in composed.given.items():
            if before.get(key) != has:
                what = ", ".join((*has.vips, *has.cluster_ips, *map(str, has.node_ports.values())))
                log.info("%s: has %s, reason=%s", key, what or "nothing", has.why)
                for one in has.refused:
                    log.warning("%s: no %s: %s: %s", key, one.what, one.reason, one.detail)
