"""A simulated node: the real lease core and the real codec, run as the agent runs them."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from piagent.core import wire
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    Acquired,
    CloseConnection,
    Disconnected,
    EchoReturned,
    Effect,
    Event,
    Extended,
    Heard,
    LeaseMessage,
    Released,
    Send,
    SendEcho,
    Subscribed,
    Tick,
    Unreadable,
    Withdrawn,
)
from piagent.core.model import Timing
from tests.sim.broker import NOISE, Connection, Message, SimBroker
from tests.sim.world import MS, RATES_PPM, WALL_MS, World

TOPICS = wire.Topics("sim")
GROUP = "g"
_MILLION = 1_000_000


class Setup(Struct, frozen=True):
    """What a node's file says."""

    name: str
    place: int
    rank: int
    secret: bytes
    timing: Timing
    config_hash: str
    keys: tuple[str, ...]


class SimNode:
    """One host. It may be paused, crash and start again as another incarnation."""

    def __init__(self, world: World, setup: Setup, brokers: list[SimBroker]) -> None:
        self.world = world
        self.setup = setup
        self.brokers = {broker.label: broker for broker in brokers}
        self.core: LeaseGroup | None = None
        self.connections: dict[str, Connection] = {}
        self.cut_off_until = 0
        self._ppm = world.random.choice(RATES_PPM)
        self._offset = world.random.randrange(1, 10**13)
        self._who = ("", "")
        self._life = 0
        self._paused_until = 0
        self._backlog: list[Callable[[], None]] = []
        self._wake_at = 0
        self._connection_count = 0
        self._acquisitions: dict[str, int] = {}
        self.boot()

    # ---- clocks ----

    def clock(self) -> int:
        """The node's lease clock."""
        return self._offset + self.world.now + self.world.now * self._ppm // _MILLION

    def _real(self, local: int) -> int:
        return (local - self._offset) * _MILLION // (_MILLION + self._ppm)

    # ---- life ----

    def boot(self) -> None:
        """Start a new incarnation."""
        world, setup = self.world, self.setup
        if self.core is not None:
            return
        self._life += 1
        incarnation = f"{world.random.getrandbits(64):016x}"
        self._who = (setup.name, incarnation)
        world.log(setup.name, setup.place, "boots", incarnation)
        self.core = LeaseGroup(
            setup.timing,
            tuple(self.brokers),
            setup.name,
            incarnation,
            dict.fromkeys(setup.keys, setup.rank),
            config_hash=setup.config_hash,
            seed=world.random.getrandbits(64),
            now_ns=self.clock(),
            wall_ms=WALL_MS + world.now // MS,
        )
        self._wake_at = 0
        for label in self.brokers:
            self._connect(label, self._life)
        self._set_alarm()

    def crash(self, down_ns: int) -> None:
        """Lose everything; the kernel keeps the addresses until their deadlines."""
        if self.core is None:
            return
        self.world.log(self.setup.name, self.setup.place, "crashes")
        self.core = None
        self._life += 1
        self._paused_until = 0
        self._backlog.clear()
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()
        self.world.after(down_ns, self.boot)

    def pause(self, span_ns: int) -> None:
        """Stop the process for a while (SIGSTOP)."""
        self.world.log(self.setup.name, self.setup.place, "pauses", span_ns / 1e9)
        self._paused_until = max(self._paused_until, self.world.now + span_ns)
        self.world.after(self._paused_until - self.world.now, self._resume)

    def _resume(self) -> None:
        if not self.awake():
            return
        backlog, self._backlog = self._backlog, []
        if self.core is not None and self.world.random.random() < 0.5:
            self.step(Tick())  # the timer came first, or the sockets
        for call in backlog:
            call()
        self._set_alarm()

    def awake(self) -> bool:
        """Running now."""
        return self.world.now >= self._paused_until

    # ---- connections ----

    def _connect(self, label: str, life: int) -> None:
        if life != self._life or self.core is None:
            return
        old = self.connections.get(label)
        if old is not None and old.open:
            return
        world, broker = self.world, self.brokers[label]
        if world.now < self.cut_off_until or not broker.up or not self.awake():
            world.after(world.random.randrange(50 * MS, 300 * MS), self._connect, label, life)
            return
        self._connection_count += 1
        name = f"c{self.setup.place}.{self._life}.{self._connection_count}"
        new = self.connections[label] = Connection(world, self, broker, name)
        if old is not None and not world.calm and world.random.random() < 0.3:
            for message in old.in_flight():  # a client library that sends again
                world.after(3 * world.latency(), new.send, message)

    def on_subscribed(self, connection: Connection) -> None:
        """SUBACK."""
        if connection.open:
            event = Subscribed(connection.broker.label, connection.name)
            self._do(lambda: self._if_present(connection, event))

    def on_closed(self, connection: Connection) -> None:
        """The client library noticed."""
        self._do(lambda: self._closed(connection))

    def _closed(self, connection: Connection) -> None:
        self._if_present(connection, Disconnected(connection.broker.label))
        self._reconnect(connection.broker.label)

    def _reconnect(self, label: str) -> None:
        delay = self.world.random.randrange(10 * MS, 200 * MS)
        self.world.after(delay, self._connect, label, self._life)

    def _if_present(self, connection: Connection, event: Event) -> None:
        if self.connections.get(connection.broker.label) is connection:
            self.step(event)

    def on_message(self, connection: Connection, message: Message) -> None:
        """Something arrived in the process' socket."""
        self._do(lambda: self._handle(connection, message))

    def _handle(self, connection: Connection, message: Message) -> None:
        connection.waiting -= 1
        topic, payload = message
        label, name = connection.broker.label, connection.name
        if message is NOISE:
            return
        if "/e/" in topic:
            self.step(EchoReturned(label, name, payload.decode()))
            return
        read = wire.decode((self.setup.secret,), topic, payload)
        if isinstance(read, LeaseMessage):
            self.step(Heard(label, name, read))
        else:
            self.step(Unreadable(label, name, read.sender, read.reason, read.lease_ms))

    def _do(self, call: Callable[[], None]) -> None:
        if self.core is None:
            return
        if self.awake():
            call()
        else:
            self._backlog.append(call)

    # ---- the core ----

    def step(self, event: Event) -> None:
        """Give the core an event and run its effects, in order."""
        if self.core is None or not self.awake():
            return
        self.world.steps += 1
        for effect in self.core.step(event, self.clock()):
            self._run(effect)
        self._set_alarm()

    def _run(self, effect: Effect) -> None:
        checker = self.world.checker
        match effect:
            case Send(broker, message):
                topic = TOPICS.lease(GROUP, self.setup.name)
                self._publish(broker, topic, wire.encode(self.setup.secret, topic, message))
            case SendEcho(broker, connection, nonce):
                self._publish(broker, TOPICS.echo(self.setup.name, connection), nonce.encode())
            case CloseConnection(broker, reason):
                self._close(broker, reason)
            case Acquired(key, until, epoch, _):
                self._acquisitions[key] = self._acquisitions.get(key, 0) + 1
                checker.acquire(key, self._who, self._real(until), epoch)
            case Extended(key, until):
                checker.extend(key, self._who, self._real(until))
            case Released(key, reason, successor, epoch):
                self.world.log("RELEASED", key, *self._who, reason, successor or "")
                self._remove(key, epoch)

    def _publish(self, label: str, topic: str, payload: bytes) -> None:
        connection = self.connections.get(label)
        if connection is not None and connection.open:
            connection.send((topic, payload))

    def _close(self, label: str, reason: str) -> None:
        self.world.log(self.setup.name, self.setup.place, "closes", label, reason)
        connection = self.connections.get(label)
        if connection is not None and connection.open:
            connection.close()
            self._reconnect(label)

    def _remove(self, key: str, epoch: int) -> None:
        """The kernel removes the address soon, or fails to: then only the deadline ends it."""
        random = self.world.random
        if not self.world.calm and random.random() < 0.05:
            return
        slow = self.world.options.slow_removal
        delay = int(
            random.choice((0, MS, 50 * MS, 400 * MS, 900 * MS)[4 * slow :]) * random.random()
        )
        which = (self._who, self._acquisitions.get(key, 0), self._life)
        self.world.after(delay, self._removed, key, epoch, *which)

    def _removed(self, key: str, epoch: int, who: tuple[str, str], nth: int, life: int) -> None:
        if nth == self._acquisitions.get(key, 0) or who != self._who:
            self.world.checker.stop(key, who)
        if life == self._life:
            self._do(lambda: self.step(Withdrawn(key, epoch)))

    # ---- time ----

    def _set_alarm(self) -> None:
        if self.core is None or not self.awake():
            return
        at = self._real(self.core.next_wakeup_ns()) + self.world.random.randrange(MS)
        if at < self._wake_at or self._wake_at <= self.world.now:
            self._wake_at = max(at, self.world.now + 1)
            self.world.after(self._wake_at - self.world.now, self._alarm, self._life, self._wake_at)

    def _alarm(self, life: int, at: int) -> None:
        if life != self._life or at != self._wake_at or self.core is None or not self.awake():
            return
        if self.clock() >= self.core.next_wakeup_ns():
            self.step(Tick())
        self._set_alarm()
