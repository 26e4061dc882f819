"""A simulated agent: the real cores and the real codec, run as the agent runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from piagent.core import wire
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    LEADER,
    Acquired,
    Alarm,
    CloseConnection,
    Disconnected,
    EchoReturned,
    Effect,
    Event,
    Extended,
    Heard,
    LeaseMessage,
    Probe,
    Reason,
    Released,
    Send,
    SendEcho,
    SetKeys,
    Subscribed,
    Tick,
    Unreadable,
    Want,
)
from tests.sim.broker import NOISE, Connection, Message
from tests.sim.owning import Owning
from tests.sim.ranking import Ranking
from tests.sim.world import MS, WALL_MS

if TYPE_CHECKING:
    from tests.sim.host import Host

TOPICS = wire.Topics("sim")
VIPS = "vips"

decode = lru_cache(maxsize=4096)(wire.decode)
"""One message is the same to all that read it."""


class SimAgent:
    """One incarnation of one node's agent."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = world = host.world
        incarnation = f"{world.random.getrandbits(64):016x}"
        self.who = (host.setup.name, incarnation)
        world.log(*self.who, "starts on host", host.setup.place)
        self.alive = True
        self.connections: dict[str, Connection] = {}
        self.owning = Owning(self)
        self.ranking = Ranking(self)
        self.core = self._make_core(incarnation)
        self._backlog: list[Callable[[], None]] = []
        self._connection_count = 0
        self._freeze: tuple[int, int] | None = None
        self._stop_in_call: int | None = None
        self._wakeup = 0
        self._alarm_at = 0
        for label in host.brokers:
            self._connect(label)
        self._set_alarm()
        if not host.link_up:
            self.on_link()
        if host.drained:
            self.want_all(wanted=False, reason=Reason.DRAINED)

    def _ranked(self, keys: Iterable[str]) -> dict[str, int]:
        leader = (LEADER,) if self.world.options.leader else ()
        return dict.fromkeys((*keys, *leader), self.host.setup.rank)

    def _make_core(self, incarnation: str) -> LeaseGroup:
        world, setup = self.world, self.host.setup
        return LeaseGroup(
            setup.timing,
            tuple(self.host.brokers),
            setup.name,
            incarnation,
            self._ranked(setup.keys),
            config_hash=setup.config_hash,
            seed=world.random.getrandbits(64),
            now_ns=self.host.clock(),
            wall_ms=WALL_MS + world.now // MS,
            hold=world.options.hold,
        )

    def die(self) -> None:
        """Lose everything."""
        self.alive = False
        self._backlog.clear()
        for connection in self.connections.values():
            connection.close()

    # ---- pauses ----

    def hurry(self) -> None:
        """Nothing stops the process in the next moment."""
        self._freeze = self._stop_in_call = None

    def has_slept(self) -> None:
        """The host woke up; before anything else the agent notices, when it runs."""
        self.hurry()
        self._backlog.insert(0, self.owning.recount)

    def resume(self) -> None:
        """Go on after a pause; the timer comes first, or the sockets."""
        backlog, self._backlog = self._backlog, []
        if self.world.random.random() < 0.5:
            backlog.insert(0, lambda: self.step(Tick()))
        for index, call in enumerate(backlog):
            if not self.alive:
                return
            if not self.host.awake():
                self._backlog += backlog[index:]
                return
            call()
        self._set_alarm()

    def freeze(self, effects: int, span_ns: int) -> None:
        """Stop for so long in the middle of the next step, after some of its effects."""
        self._freeze = effects, span_ns

    def freeze_in_call(self, span_ns: int) -> None:
        """Stop for so long, the next time, between looking at the clock and telling the kernel."""
        self._stop_in_call = span_ns

    def stop_in_call(self) -> int | None:
        """Whether to do that now, once."""
        span, self._stop_in_call = self._stop_in_call, None
        return span

    def do(self, call: Callable[[], None]) -> None:
        """Now, or when the process runs again; never once it is dead."""
        if not self.alive:
            return
        if self.host.awake() and not self._backlog:
            call()
        else:
            self._backlog.append(call)

    def later(self, delay: int, call: Callable[[], None]) -> None:
        """A timer of the process."""
        self.world.after(delay, self.do, call)

    # ---- connections ----

    def _connect(self, label: str) -> None:
        old = self.connections.get(label)
        if not self.alive or (old is not None and old.open):
            return
        world, broker = self.world, self.host.brokers[label]
        cut_off = world.now < self.host.cut_off_until.get(label, 0)
        if cut_off or not broker.up or not self.host.awake():
            world.after(world.random.randrange(50 * MS, 300 * MS), self._connect, label)
            return
        new = self.connections[label] = Connection(world, self, broker, self._client_id(label))
        if old is not None and not world.calm and world.random.random() < 0.3:
            for message in old.in_flight():  # a client library that sends again
                world.after(3 * world.latency(), new.send, message)

    def _client_id(self, label: str) -> str:
        world = self.world
        others = self.host.brokers[label].subscribers
        if world.options.same_ids and others and not world.over and world.random.random() < 0.4:
            world.disturb(0)
            return world.random.choice(others).name
        self._connection_count += 1
        return f"{self.who[1]}.{self.host.setup.place}.{self._connection_count}"

    def on_subscribed(self, connection: Connection) -> None:
        """SUBACK."""
        if connection.open:
            self.do(lambda: self._subscribed(connection))

    def _subscribed(self, connection: Connection) -> None:
        self.ranking.connected(connection)
        self._if_present(connection, Subscribed(connection.broker.label, connection.name))

    def on_closed(self, connection: Connection) -> None:
        """The client library noticed."""
        self.do(lambda: self._closed(connection))

    def _closed(self, connection: Connection) -> None:
        self._if_present(connection, Disconnected(connection.broker.label))
        self._reconnect(connection.broker.label)

    def _reconnect(self, label: str) -> None:
        self.world.after(self.world.random.randrange(10 * MS, 200 * MS), self._connect, label)

    def _if_present(self, connection: Connection, event: Event) -> None:
        if self.connections.get(connection.broker.label) is connection:
            self.step(event)

    def on_message(self, connection: Connection, message: Message) -> None:
        """Something arrived in the process' socket."""
        if self.host.awake() and not self._backlog:
            self._handle(connection, message)
        else:
            self._backlog.append(lambda: self._handle(connection, message))

    def _handle(self, connection: Connection, message: Message) -> None:
        connection.waiting -= 1
        if message is NOISE or not self.alive:
            return
        topic, payload = message
        label, name = connection.broker.label, connection.name
        kind, *words = topic.split("/")[2:]
        if kind == "e":
            self.step(EchoReturned(label, name, payload.decode()))
        elif kind == "s":
            self.ranking.heard(connection, words[0], payload)
        else:
            read = decode((self.host.setup.secret,), topic, payload)
            if isinstance(read, LeaseMessage):
                self.ranking.owners_heard(read)
                self.step(Heard(label, name, read))
            else:
                where = (label, name, read.sender, read.reason, read.lease_ms)
                self.step(Unreadable(*where))

    def on_link(self) -> None:
        """The carrier is gone, or back."""
        self.later(self.world.random.randrange(30 * MS), self._follow_link)

    def _follow_link(self) -> None:
        up = self.host.link_up
        self.want_all(wanted=up, reason=Reason.CARRIER_LOST)

    def want_all(self, *, wanted: bool, reason: Reason = Reason.NOT_WANTED) -> None:
        """Every VIP, if nothing speaks against it."""
        wanted = wanted and self.host.link_up and not self.host.drained
        for key in self.host.setup.keys:
            self.step(Want(key, wanted, reason))

    # ---- the core ----

    def step(self, event: Event) -> None:
        """Give the core an event and run its effects, in order."""
        if not self.alive:
            return
        if not self.host.awake():
            self._backlog.append(lambda: self.step(event))
            return
        self.world.counts["steps"] += 1
        if effects := self.core.step(event, self.host.clock()):
            self._note(effects)
            self._run_all(effects)
        self._set_alarm()

    def _note(self, effects: list[Effect]) -> None:
        """The core has decided, even if the process is stopped before it acts."""
        checker, place, real = self.host.checker, self.host.setup.place, self.host.real
        for effect in effects:
            match effect:
                case Acquired(key, until, epoch):
                    checker.acquire(key, self.who, place, real(until), epoch)
                case Extended(key, until):
                    checker.extend(key, self.who, place, real(until))
                case Released():
                    checker.release(effect)

    def _run_all(self, effects: list[Effect]) -> None:
        for index, effect in enumerate(effects):
            if self._freeze is not None and len(effects) > self._freeze[0] == index:
                span, self._freeze = self._freeze[1], None
                self.host.pause(span)
                self._backlog.insert(0, lambda: self._run_all(effects[index:]))  # noqa: B023
                return
            self._run(effect)

    def _run(self, effect: Effect) -> None:
        match effect:
            case Send(broker, message):
                self.host.checker.yielding(self.host.setup.place, message.yields)
                self._publish(broker, self.sealed(message))
            case SendEcho(broker, connection, nonce):
                self._publish(broker, (TOPICS.echo(self.who[0], connection), nonce.encode()))
            case CloseConnection(broker, reason):
                self._close(broker, reason)
            case Probe(key):
                if self.world.options.probes:
                    self.owning.probe(key)
            case Acquired() | Extended() | Released():
                self.owning.follow(effect)
            case Alarm(reason, detail):
                self.host.checker.alarm(reason, detail)

    def sealed(self, message: LeaseMessage) -> Message:
        """As it goes over the wire."""
        topic = TOPICS.lease(VIPS, self.who[0])
        return topic, wire.encode(self.host.setup.secret, topic, message)

    def _publish(self, label: str, message: Message) -> None:
        connection = self.connections.get(label)
        if connection is not None and connection.open:
            connection.send(message)

    def _close(self, label: str, reason: str) -> None:
        self.world.log(*self.who, "closes", label, reason)
        connection = self.connections.get(label)
        if connection is not None and connection.open:
            connection.close()
            self._reconnect(label)

    # ---- what people and faults do ----

    def set_keys(self, keys: Iterable[str]) -> None:
        """A reload."""
        self.step(SetKeys(self._ranked(keys)))

    def owns(self, key: str) -> bool:
        """By its own view."""
        return any(view.key == key and view.until_ns is not None for view in self.core.view())

    # ---- time ----

    def _set_alarm(self) -> None:
        if not self.alive or not self.host.awake():
            return
        self._wakeup = self.core.next_wakeup_ns()
        at = self.host.real(self._wakeup) + int(MS * self.world.random.random())
        if at < self._alarm_at or self._alarm_at <= self.world.now:
            self._alarm_at = max(at, self.world.now + 1)
            self.world.after(self._alarm_at - self.world.now, self._alarm, self._alarm_at)

    def _alarm(self, at: int) -> None:
        if not self.alive or at != self._alarm_at or not self.host.awake():
            return
        if self.host.clock() >= self._wakeup:
            self.step(Tick())
        else:
            self._set_alarm()
