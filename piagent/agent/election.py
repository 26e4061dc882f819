"""The lease core at work: broker events in, effects done one after the other, in their order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, assert_never

from piagent import ports
from piagent.adapters.clock import wall_ms
from piagent.admin.exposition import Histogram
from piagent.agent.brokers import BrokerBook
from piagent.agent.letters import Asked, Letters, Peer
from piagent.agent.members import Members
from piagent.agent.placing import Placing
from piagent.agent.tenure import Retry, Surroundings, Tenure
from piagent.agent.vips import Former
from piagent.core import lease_types as lease
from piagent.core import wire
from piagent.core.lease import LeaseGroup
from piagent.core.model import Config

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Broker events not yet looked at; more of them is a flood."""
BATCH = 100
"""Broker events looked at in one turn of the event loop."""
_POLL_S = 0.005
_LATER_S = 0.01
_ASLEEP_NS = 1_000_000
"""Less is the time between two looks at clocks."""
ANSWER_TWIN_NS = 5_000_000_000
FAILOVER_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Board(Protocol):
    """Takes what comes over the bus and is not about who owns what."""

    def subscribed(self, broker: str) -> None:
        """A connection is up, and what its broker retains has been heard."""
        ...

    def disconnected(self, broker: str) -> None:
        """A connection is gone."""
        ...

    def read(self, event: ports.Received) -> bool:
        """Take a message; False: it is not for this."""
        ...

    def leading(self) -> None:
        """This node leads from now on."""
        ...


class Election:
    """Owns the lease group and everything that must happen in one order: one task, no locks."""

    def __init__(
        self,
        *,
        clock: ports.Clock,
        bus: ports.Bus,
        brokers: BrokerBook,
        letters: Letters,
        group: LeaseGroup,
        config: Callable[[], Config],
        changed: Callable[[], None],
        asked: Callable[[wire.Control], None],
    ) -> None:
        """`letters` reads and writes what goes over the bus.

        `changed`: the members are others now. `asked`: a control message came.
        """
        self._clock = clock
        self._bus = bus
        self._brokers = brokers
        self._letters = letters
        self._group = group
        self._changed = changed
        self._asked = asked
        self.members = Members(letters.node, letters.incarnation)
        self.placing = Placing(letters, self.members, config, group.view)
        self.tenure: Tenure
        self._board: Board
        """Both are given by `employ` before anything runs."""
        self._heard: deque[ports.BusEvent] = deque()
        self._own: deque[lease.Event | Retry] = deque()
        self._wake = asyncio.Event()
        self._wait_s = config().election.timing.wait_ms / 1000 + _LATER_S
        self._stopping = False
        self._slept_ns = clock.slept_ns()
        self._wanted: dict[str, lease.Reason | None] = {}
        self._ranked: dict[str, int] = {}
        self._owner_heard_ns: dict[str, int] = {}
        self._answered_twin_ns = -ANSWER_TWIN_NS
        self.failover = Histogram(FAILOVER_BOUNDS_S)
        """Seconds from the last word of the former owner to our announcement."""

    def employ(self, tenure: Tenure, board: Board) -> None:
        """Who does what is decided, and who takes what is about services."""
        self.tenure = tenure
        self._board = board

    def around(
        self,
        *,
        former: Callable[[str], Former | None],
        leave_for_now: Callable[[str, lease.Reason], None],
        works: Callable[[str], None],
        left: Callable[[str], None],
        drain_ms: Callable[[], int],
        hand_flows: Callable[[str, str, int], None],
        holds: Callable[[], bool],
    ) -> Surroundings:
        """What a `Tenure` needs of this."""
        return Surroundings(
            post=self._post,
            tell=lambda said: self.publish(*said, retain=True),
            last_words=self._group.last_words,
            former=former,
            successor=self.placing.successor,
            leave_for_now=leave_for_now,
            works=works,
            left=left,
            drain_ms=drain_ms,
            is_member=self.members.has_mac,
            hand_flows=hand_flows,
            holds=holds,
        )

    # ---- from others --------------------------------------------------------------------------

    def deliver(self, event: ports.BusEvent) -> None:
        """Take an event of the bus; called in the event loop, does nothing else."""
        if len(self._heard) >= MAX_WAITING:
            self._start_over()
        self._heard.append(event)
        self._wake.set()

    def post(self, *events: lease.Event) -> None:
        """Tell the core something of our own."""
        for event in events:
            self._post(event)

    def want(self, keys: Iterable[str], refusals: Mapping[str, lease.Reason]) -> None:
        """Which keys this node may own, and why not the others; only changes are news."""
        if self._stopping:
            return
        for key in keys:
            reason = refusals.get(key)
            if key not in self._wanted or self._wanted[key] is not reason:
                self._wanted[key] = reason
                self.post(lease.Want(key, reason is None, reason or lease.Reason.NOT_WANTED))

    def set_keys(self, keys: Iterable[str]) -> None:
        """After a reload: these VIPs and no others."""
        ranks = self.placing.refresh()
        known = {key: ranks.get(key, len(self.members.all())) for key in (*keys, lease.LEADER)}
        self._wanted = {key: why for key, why in self._wanted.items() if key in known}
        self._ranked = dict(known)
        self.post(lease.SetKeys(known))

    def rank_again(self) -> None:
        """Who is there has changed, and with it the order in which VIPs are claimed."""
        for key, place in self.placing.refresh().items():
            if self._ranked.get(key) != place:
                self._ranked[key] = place
                self.post(lease.Rank(key, place))
        self.tenure.entrust()

    def epoch(self) -> int | None:
        """The epoch of this node's leadership while it has one; None: it does not lead now."""
        for view in self._group.view():
            if view.key == lease.LEADER and view.state is lease.State.OWNER:
                until_ns = view.until_ns or 0
                return view.epoch if self._clock.now_ns() < until_ns else None
        return None

    def publish_to(self, broker: str, topic: str, payload: bytes) -> None:
        """Say it, retained, to one broker, if it is connected."""
        self._bus.publish(broker, topic, payload, retain=True)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Say it to every broker that is connected."""
        for broker in self._brokers.connected():
            self._bus.publish(broker, topic, payload, retain=retain)

    def say_presence(self) -> None:
        """What this node is has changed."""
        payload = self._letters.presence(True, "")
        self.publish(self._letters.presence_topic, payload, retain=True)

    def own_presence(self) -> wire.Presence:
        """What this node says of itself."""
        return self._letters.described()

    def views(self) -> tuple[lease.KeyView, ...]:
        """Where this node stands with each key, the leadership included."""
        return self._group.view()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._sleep()
            if self._has_slept():
                for answer in await self.tenure.recount():
                    await self._step(answer)
            # After a pause (SIGSTOP, suspend) any step looks at the deadlines before its event.
            idle = not self._own and not self._heard
            if idle or self._clock.now_ns() >= self._group.next_wakeup_ns():
                await self._step(lease.Tick(wall_ms()))
            while self._own:
                await self._step_own(self._own.popleft())
            for _ in range(min(len(self._heard), BATCH)):
                await self._hear(self._heard.popleft())
            if self._heard:  # the rest in the next turn: others want to work, too
                self._wake.set()
                await asyncio.sleep(0)

    async def resign(self, timeout_s: float) -> bool:
        """Give up every key for good; True when all of them are certain to be gone in time."""
        self._stopping = True
        absence = self._letters.presence(False, "")  # so that nobody waits for us to claim first
        self.publish(self._letters.presence_topic, absence, retain=True)
        keys = [view.key for view in self._group.view()]
        self.post(*(lease.Want(key, False, lease.Reason.STOPPING) for key in keys))
        try:
            async with asyncio.timeout(timeout_s):
                while not self.tenure.idle() or self._own or self._group.yields_pending():  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return False
        return True

    def _has_slept(self) -> bool:
        """Whether the host was suspended since this was asked last."""
        before, self._slept_ns = self._slept_ns, self._clock.slept_ns()
        return self._slept_ns - before > _ASLEEP_NS

    async def _sleep(self) -> None:
        """Until an event comes or the core wants to be called."""
        delay = (self._group.next_wakeup_ns() - self._clock.now_ns()) / 1e9
        timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    def _post(self, event: lease.Event | Retry) -> None:
        self._own.append(event)
        self._wake.set()

    def _start_over(self) -> None:
        """Forget what waits, and with it every connection: one with a gap in it is no use."""
        self._heard.clear()
        for broker in self._brokers.labels():
            self._close(broker, "too many messages waiting")
            self.post(lease.Disconnected(broker))

    # ---- events in ----------------------------------------------------------------------------

    async def _hear(self, event: ports.BusEvent) -> None:
        match event:
            case ports.Subscribed(broker, connection):
                self._brokers.up(broker, connection, self._clock.now_ns())
                asyncio.get_running_loop().call_later(self._wait_s, self._changed)
                for key in self.tenure.owned():
                    self._bus.publish(broker, *self.tenure.note(key), retain=True)
                self._board.subscribed(broker)
                await self._step(lease.Subscribed(broker, connection))
            case ports.Disconnected(broker, reason):
                self._brokers.down(broker, reason)
                self.members.forget(broker)
                self._board.disconnected(broker)
                await self._step(lease.Disconnected(broker))
            case ports.Received():
                await self._read(event)

    async def _read(self, event: ports.Received) -> None:
        if self._board.read(event):  # also what a new connection brings before it counts as up
            return
        heard = self._letters.read(event)
        if isinstance(heard, Peer):  # the same
            self._note(heard)
        elif not self._brokers.is_current(event.broker, event.connection):
            return
        elif isinstance(heard, Asked):
            self._asked(heard.message)
        elif heard is not None:
            self._note_owner(heard)
            await self._step(heard)

    def _note(self, peer: Peer) -> None:
        if self.members.note(peer):
            self.placing.unsettle()
            self.rank_again()
            self._changed()
        if peer.node != self._letters.node or not peer.fresh:
            return
        ours = peer.said.incarnation == self._letters.incarnation
        if ours and not peer.said.online and not self._stopping:
            self.say_presence()  # the will of a former connection, come late
        elif not ours and peer.said.online:
            now_ns = self._clock.now_ns()
            if now_ns - self._answered_twin_ns >= ANSWER_TWIN_NS:
                self._answered_twin_ns = now_ns
                self.say_presence()

    async def _step_own(self, event: lease.Event | Retry) -> None:
        if isinstance(event, Retry):
            for answer in await self.tenure.withdraw(event.key, event.epoch):
                await self._step(answer)
        else:
            await self._step(event)

    async def _step(self, event: lease.Event) -> None:
        """Let the core decide, then do what it says, in its order."""
        effects = deque(self._group.step(event, self._clock.now_ns()))
        while effects:
            for answer in await self._do(effects):
                effects.extend(self._group.step(answer, self._clock.now_ns()))

    # ---- effects out --------------------------------------------------------------------------

    async def _do(self, effects: deque[lease.Effect]) -> Sequence[lease.Event]:
        """Do the first effect; what comes of it is for the core."""
        match effects.popleft():
            case lease.Send(broker, message):
                self._bus.publish(broker, *self._letters.lease_message(message))
            case lease.SendEcho(broker, connection, nonce):
                self._bus.publish(broker, *self._letters.echo(connection, nonce))
            case lease.CloseConnection(broker, reason):
                self._close(broker, reason)
            case lease.Probe(key):
                return self._near(key, effects)
            case lease.Acquired() as acquired:
                self.members.settle()  # an owner was here first, however young it is
                events = await self.tenure.take(acquired)
                self._measure(acquired.key)
                if acquired.key == lease.LEADER:
                    self._board.leading()
                return events
            case lease.Extended() as extended:  # with those that follow, in one go
                group = (extended, *_extended(effects))
                return await self.tenure.keep({each.key: each.until_ns for each in group})
            case lease.Released() as released:
                return await self.tenure.leave(released)
            case lease.Alarm(reason, detail):
                self.tenure.alarms[reason] += 1
                log.error("alarm: %s, reason=%s", detail, reason)
            case never:
                assert_never(never)
        return ()

    def _near(self, key: str, effects: deque[lease.Effect]) -> Sequence[lease.Event]:
        """Claims are near: who is silent counts as gone when they are shared out among the rest."""
        keys = [key, *(each.key for each in _probes(effects))]
        owners = self.placing.owners()
        silent = {owners[each] for each in keys if each in owners}
        for each in keys:
            self.tenure.probe(each)
        ranks = self.placing.refresh(silent - {self._letters.node})
        self._ranked.update(ranks)
        return [lease.Rank(each, ranks[each]) for each in keys if each in ranks]

    def _close(self, broker: str, reason: str) -> None:
        log.warning("broker %s: connection closed, reason=%s", broker, reason)
        self._brokers.down(broker, reason)
        self._bus.close(broker, reason)

    # ---- for people ---------------------------------------------------------------------------

    def _note_owner(self, event: lease.Event) -> None:
        """Remember when the owner of a VIP was last heard."""
        if isinstance(event, lease.Heard) and event.message.node != self._letters.node:
            for key, assertion in event.message.asserts.items():
                if assertion.role is lease.Role.OWNER:
                    self._owner_heard_ns[key] = self._clock.now_ns()

    def _measure(self, key: str) -> None:
        heard_ns = self._owner_heard_ns.pop(key, None)
        if heard_ns is not None and key in self.tenure.owned():
            gap_s = (self._clock.now_ns() - heard_ns) / 1e9
            self.failover.observe(gap_s)
            log.info("%s: %.3f s after the former owner's last word", key, gap_s)


def _extended(effects: deque[lease.Effect]) -> Iterator[lease.Extended]:
    """Take the extensions that the effects begin with."""
    while effects:
        first = effects[0]
        if not isinstance(first, lease.Extended):
            return
        effects.popleft()
        yield first


def _probes(effects: deque[lease.Effect]) -> list[lease.Probe]:
    """Take all the probes out of the effects, which stay in their order."""
    found = [effect for effect in effects if isinstance(effect, lease.Probe)]
    rest = [effect for effect in effects if not isinstance(effect, lease.Probe)]
    effects.clear()
    effects.extend(rest)
    return found
