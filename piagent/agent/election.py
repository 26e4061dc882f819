"""The lease core at work: broker events in, effects done one after the other, in their order."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import assert_never

from msgspec import Struct

from piagent import ports
from piagent.adapters.clock import wall_ms
from piagent.admin.exposition import Histogram
from piagent.agent.brokers import BrokerBook
from piagent.agent.letters import Letters, Peer
from piagent.agent.peers import Peers
from piagent.agent.vips import Vips
from piagent.core import lease_types as lease
from piagent.core.lease import LeaseGroup
from piagent.ports import AddressError

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Broker events not yet looked at; more of them is a flood."""
BATCH = 100
"""Broker events looked at in one turn of the event loop."""
RETRY_REMOVAL_S = 1.0
RETRY_TAKE_S = (2.0, 5.0, 15.0, 60.0)
"""How long a VIP is left to others after this host failed to take it: first, second, … time."""
_POLL_S = 0.005
FAILOVER_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class _Retry(Struct, frozen=True):
    """Try again to remove a VIP that is still there."""

    key: str
    epoch: int


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
        vips: Vips,
        ranks: Callable[[tuple[str, ...]], Mapping[str, int]],
        wants: Callable[[], Mapping[str, bool]],
    ) -> None:
        """`letters` reads and writes what goes over the bus.

        `ranks`: nodes that are there -> key -> this node's place among those who may claim it.
        `wants`: key -> whether this node may own it.
        """
        self._clock = clock
        self._bus = bus
        self._brokers = brokers
        self._letters = letters
        self._group = group
        self._vips = vips
        self._ranks = ranks
        self._wants = wants
        self._peers = Peers(letters.node)
        self._heard: deque[ports.BusEvent] = deque()
        self._own: deque[lease.Event | _Retry] = deque()
        self._wake = asyncio.Event()
        self._held: dict[str, int] = {}  # VIP that this host may answer for -> its epoch
        self._acquired: dict[str, lease.Acquired] = {}  # VIPs owned now
        self._acquired_ms: dict[str, int] = {}
        self._failures: Counter[str] = Counter()
        self._stopping = False
        self._owner_heard_ns: dict[str, int] = {}
        self.transitions: Counter[tuple[str, str]] = Counter()
        """(key, reason) of acquisitions and releases."""
        self.alarms: Counter[str] = Counter()
        self.failover = Histogram(FAILOVER_BOUNDS_S)
        """Seconds from the last word of the former owner to our announcement."""

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

    def want_what_is_configured(self) -> None:
        """At the start and after a reload: which keys this node may own, failed ones included."""
        self.post(*(lease.Want(key, wanted) for key, wanted in self._wants().items()))

    def views(self) -> tuple[lease.KeyView, ...]:
        """Where this node stands with each VIP."""
        return self._group.view()

    def online(self) -> tuple[str, ...]:
        """The nodes that seem to be there, this one included."""
        return self._peers.online()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._sleep()
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

    async def resign(self, keys: Iterable[str], timeout_s: float) -> bool:
        """Give up every VIP for good; True when all of them are certain to be gone in time."""
        self._stopping = True
        absence = self._letters.presence(False, "")
        for broker in self._brokers.connected():  # so that nobody waits for us to claim first
            self._bus.publish(broker, self._letters.presence_topic, absence, retain=True)
        self.post(*(lease.Want(key, False, lease.Reason.STOPPING) for key in keys))
        try:
            async with asyncio.timeout(timeout_s):
                while self._own or self._held or self._group.yields_pending():  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return False
        return True

    async def _sleep(self) -> None:
        """Until an event comes or the core wants to be called."""
        delay = (self._group.next_wakeup_ns() - self._clock.now_ns()) / 1e9
        timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    def _post(self, event: lease.Event | _Retry) -> None:
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
                self._brokers.up(broker, connection)
                self._peers.forget(broker)
                self._tell_owned(broker)
                await self._step(lease.Subscribed(broker, connection))
            case ports.Disconnected(broker, reason):
                self._brokers.down(broker, reason)
                await self._step(lease.Disconnected(broker))
            case ports.Received():
                if not self._brokers.is_current(event.broker, event.connection):
                    return
                heard = self._letters.read(event)
                if isinstance(heard, Peer):
                    if self._peers.note(heard):
                        self._rank_again()
                elif heard is not None:
                    self._note_owner(heard)
                    await self._step(heard)

    def _rank_again(self) -> None:
        """Who is there has changed, and with it the order in which a VIP is claimed."""
        for key, place in self._ranks(self._peers.online()).items():
            self.post(lease.Rank(key, place))

    async def _step_own(self, event: lease.Event | _Retry) -> None:
        if isinstance(event, _Retry):
            for answer in await self._withdraw(event.key, event.epoch):
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
            case lease.Acquired() as acquired:
                return await self._take(acquired)
            case lease.Extended() as extended:  # with those that follow, in one go
                group = (extended, *_extended(effects))
                return await self._keep({each.key: each.until_ns for each in group})
            case lease.Released() as released:
                return await self._leave(released)
            case lease.Alarm(reason, detail):
                self.alarms[reason] += 1
                log.error("alarm: %s, reason=%s", detail, reason)
            case never:
                assert_never(never)
        return ()

    def _close(self, broker: str, reason: str) -> None:
        log.warning("broker %s: connection closed, reason=%s", broker, reason)
        self._brokers.down(broker, reason)
        self._bus.close(broker, reason)

    async def _take(self, effect: lease.Acquired) -> Sequence[lease.Event]:
        key = effect.key
        self._held[key] = effect.epoch
        try:
            await self._vips.take(key, effect.until_ns)
        except (OSError, AddressError) as error:
            return (self._failed(key, error),)
        self._failures.pop(key, None)
        self._acquired[key] = effect
        self._acquired_ms[key] = wall_ms()
        self.transitions[key, effect.reason] += 1
        gap_s = self._gap_s(key)
        log.info(
            "vip %s: acquired, epoch %d, reason=%s%s",
            key,
            effect.epoch,
            effect.reason,
            "" if gap_s is None else f", {gap_s:.3f} s after the former owner's last word",
        )
        for broker in self._brokers.connected():
            self._tell(broker, effect)
        return ()

    async def _keep(self, until_ns: Mapping[str, int]) -> Sequence[lease.Event]:
        failed = await self._vips.keep(until_ns)
        return [self._failed(key, error) for key, error in failed.items()]

    def _failed(self, key: str, error: Exception) -> lease.Event:
        """Leave a VIP that this host cannot configure to others, for a while."""
        count = self._failures[key]
        self._failures[key] += 1
        pause_s = RETRY_TAKE_S[min(count, len(RETRY_TAKE_S) - 1)]
        log.error("vip %s: %s; others may own it, next try in %.0f s", key, error, pause_s)
        asyncio.get_running_loop().call_later(pause_s, self._want_again, key)
        return lease.Want(key, False, lease.Reason.ADDRESS_FAILED)

    def _want_again(self, key: str) -> None:
        if not self._stopping and self._wants().get(key, False):
            self.post(lease.Want(key, True))

    async def _leave(self, effect: lease.Released) -> Sequence[lease.Event]:
        key = effect.key
        if self._acquired.pop(key, None) is not None:
            self.transitions[key, effect.reason] += 1
            log.warning("vip %s: released, epoch %d, reason=%s", key, effect.epoch, effect.reason)
            payload = self._letters.vip(
                key, owner=None, epoch=effect.epoch, since_ms=wall_ms(), reason=effect.reason
            )
            for broker in self._brokers.connected():
                self._bus.publish(broker, *payload, retain=True)
        return await self._withdraw(key, effect.epoch)

    async def _withdraw(self, key: str, epoch: int) -> Sequence[lease.Event]:
        """Make sure that this host does not answer for the VIP; only then others are told (R6)."""
        try:
            gone = await self._vips.leave(key)
        except (OSError, AddressError) as error:
            log.error("vip %s: %s", key, error)
            gone = False
        if not gone:
            reason = lease.Reason.REMOVAL_FAILED
            log.error("alarm: vip %s could not be removed; trying again, reason=%s", key, reason)
            self.alarms[reason] += 1
            asyncio.get_running_loop().call_later(RETRY_REMOVAL_S, self._post, _Retry(key, epoch))
            return ()
        self._held.pop(key, None)
        return (lease.Withdrawn(key, epoch),)

    # ---- for people ---------------------------------------------------------------------------

    def _tell_owned(self, broker: str) -> None:
        for effect in self._acquired.values():
            self._tell(broker, effect)

    def _tell(self, broker: str, effect: lease.Acquired) -> None:
        topic, payload = self._letters.vip(
            effect.key,
            owner=self._letters.node,
            epoch=effect.epoch,
            since_ms=self._acquired_ms[effect.key],
            reason=effect.reason,
        )
        self._bus.publish(broker, topic, payload, retain=True)

    def _note_owner(self, event: lease.Event) -> None:
        """Remember when the owner of a VIP was last heard."""
        if isinstance(event, lease.Heard) and event.message.node != self._letters.node:
            for key, assertion in event.message.asserts.items():
                if assertion.role is lease.Role.OWNER:
                    self._owner_heard_ns[key] = self._clock.now_ns()

    def _gap_s(self, key: str) -> float | None:
        heard_ns = self._owner_heard_ns.pop(key, None)
        if heard_ns is None:
            return None
        gap_s = (self._clock.now_ns() - heard_ns) / 1e9
        self.failover.observe(gap_s)
        return gap_s


def _extended(effects: deque[lease.Effect]) -> Iterator[lease.Extended]:
    """Take the extensions that the effects begin with."""
    while effects:
        first = effects[0]
        if not isinstance(first, lease.Extended):
            return
        effects.popleft()
        yield first
