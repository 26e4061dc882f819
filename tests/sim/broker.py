"""Simulated brokers and the connections to them.

A broker keeps nothing but the list of its present subscribers (and what is retained of presence).
With a total order a message enters all queues at once; with serial fan-out (assumption A1) a
publisher's message enters one queue after the other, interleaved with those of other publishers,
before that publisher's next one is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.world import MS, S, World

if TYPE_CHECKING:
    from tests.sim.agent import SimAgent

Message = tuple[str, bytes]
NOISE: Message = ("", b"")

_HISTORY = 20
_ABSENCE_NS = 5 * MS
"""A broker tells of a process that died."""


class SimBroker:
    """One broker process."""

    def __init__(self, world: World, label: str) -> None:
        self.world = world
        self.label = label
        self.up = True
        self.subscribers: list[Connection] = []
        self.history: list[Message] = []
        """Some of what was published, for whoever wants to replay it."""
        self.yields: list[Message] = []
        """The same, of the messages that give something up."""
        self.retained: dict[str, Message] = {}
        self._stalled_until = 0
        self._busy_until: dict[Connection | None, int] = {}
        if world.options.noise_per_s:
            self._make_noise()

    def crash(self, down_ns: int) -> None:
        """Lose everything, and come back empty; a persistent one remembers what it was sent."""
        self.world.log("broker", self.label, "crashes")
        self.world.disturb(down_ns)
        self.up = False
        self._busy_until.clear()
        if not self.world.options.persistent:
            self.retained.clear()
        for connection in list(self.subscribers):
            connection.cut(self.world.random.randrange(50 * MS))
        self.world.after(down_ns, self._restart)

    def _restart(self) -> None:
        self.up = True

    def stall(self, span_ns: int) -> None:
        """Stop for a while (SIGSTOP): what comes waits in the sockets."""
        self.world.log("broker", self.label, "stalls", span_ns / 1e9)
        self.world.disturb(span_ns)
        self._stalled_until = max(self._stalled_until, self.world.now + span_ns)

    def enter(self, connection: Connection) -> None:
        """A new subscriber; whoever has its client id is put out (MQTT 3.1.1, 3.1.4-2)."""
        for other in [one for one in self.subscribers if one.name == connection.name]:
            other.cut(self.world.random.randrange(20 * MS))
        self.subscribers.append(connection)
        for message in self.retained.values():
            connection.deliver(message)
        if self.world.options.persistent and not self.world.over:
            for message in self.world.random.sample(self.history, min(4, len(self.history))):
                connection.deliver(message)
            for message in self.yields[-2:]:
                connection.deliver(message)

    def leave(self, connection: Connection) -> None:
        """A subscriber is gone."""
        if connection in self.subscribers:
            self.subscribers.remove(connection)

    def publish(self, publisher: Connection | None, message: Message) -> None:
        """A PUBLISH was read from a socket."""
        world = self.world
        if not self.up:
            return
        if world.now < self._stalled_until:
            world.after(self._stalled_until - world.now, self.publish, publisher, message)
            return
        targets = self._targets(message)
        options = world.options
        if options.cluster:
            for connection in targets:
                delay = int(world.random.choice((0, MS, 300 * MS)) * world.random.random())
                world.after(delay, self._enqueue, connection, message)
            return
        if not options.serial:
            for connection in targets:
                connection.deliver(message)
            return
        at = max(world.now, self._busy_until.get(publisher, 0))
        world.random.shuffle(targets)
        for connection in targets:
            at += int(world.random.choice((0, 0, MS, 20 * MS)) * world.random.random())
            world.after(at - world.now, self._enqueue, connection, message)
        self._busy_until[publisher] = at

    def _targets(self, message: Message) -> list[Connection]:
        topic, payload = message
        if "/e/" in topic:
            return [c for c in self.subscribers if topic.endswith("/" + c.name)]
        if "/s/" in topic:
            self.retained[topic] = message
        else:
            kept = self.history if payload.endswith(b'"y":{}}') else self.yields
            kept.append(message)
            del kept[:-_HISTORY]
        return list(self.subscribers)

    def _enqueue(self, connection: Connection, message: Message) -> None:
        if self.up and connection in self.subscribers:
            connection.deliver(message)

    def _make_noise(self) -> None:
        for connection in self.subscribers:
            connection.deliver(NOISE)
        self.world.after(S // self.world.options.noise_per_s, self._make_noise)


class Connection:
    """One connection of one agent, with a FIFO in each direction."""

    def __init__(self, world: World, agent: SimAgent, broker: SimBroker, name: str) -> None:
        self.world = world
        self.agent = agent
        self.broker = broker
        self.name = name
        self.alive = True
        """The broker's end and the wire."""
        self.open = True
        """The client believes in it."""
        self.waiting = 0
        """Messages sent to the client and not yet handled by it."""
        self.will: Message | None = None
        self._up_at = 0
        self._down_at = 0
        self._echo_at = 0
        self._in_flight: list[Message] = []
        world.after(2 * world.latency(), self._subscribe)

    def _subscribe(self) -> None:
        if self.alive and self.broker.up:
            self._down_at = self.world.now + self.world.latency()
            self.world.after(self._down_at - self.world.now, self.agent.on_subscribed, self)
            self.broker.enter(self)  # what is retained follows the SUBACK, as Mosquitto has it
        else:
            self.cut(10 * MS)

    def send(self, message: Message) -> None:
        """The client publishes."""
        if self.alive:
            if "/s/" not in message[0]:
                self._in_flight = [*self._in_flight[-2:], message]
            self._up_at = max(self._up_at, self.world.now + self.world.latency())
            self.world.after(self._up_at - self.world.now, self._read, message)

    def _read(self, message: Message) -> None:
        if self.alive:
            self.broker.publish(self, message)

    def deliver(self, message: Message) -> None:
        """The broker has a message for this subscriber."""
        world, options = self.world, self.world.options
        if options.queue and self.waiting >= options.queue:
            world.counts["dropped"] += 1
            return
        if options.lossy and message is not NOISE and world.random.random() < options.lossy:
            return
        at = world.now + world.latency()
        if "/e/" in message[0] and not options.queue:  # no order among topics is promised
            self._echo_at = at = max(at, self._echo_at)
        else:
            self._down_at = at = max(at, self._down_at)
        self._arrive_at(at, message)
        if message is not NOISE and not world.calm and world.random.random() < 0.02:
            self._down_at = at = max(at, self._down_at) + world.latency()
            self._arrive_at(at, message)  # a duplicate of QoS 1

    def _arrive_at(self, at: int, message: Message) -> None:
        self.waiting += 1
        self.world.after(at - self.world.now, self._arrive, message)

    def _arrive(self, message: Message) -> None:
        if self.open:
            self.agent.on_message(self, message)

    def clog(self, span_ns: int, *, down: bool) -> None:
        """One direction stands still for a while."""
        self.world.disturb(span_ns)
        until = self.world.now + span_ns
        if down:
            self._down_at = max(self._down_at, until)
        else:
            self._up_at = max(self._up_at, until)

    def cut(self, notice_ns: int, absence_ns: int = _ABSENCE_NS) -> None:
        """The broker's end is gone at once; the client notices later, and others its absence."""
        if not self.alive:
            return
        self.alive = False
        self.broker.leave(self)
        world = self.world
        for message in self._in_flight:
            if world.random.random() < 0.3:  # read late from the old socket
                late = int(world.random.choice((1, 50, 1000, 3000)) * MS * world.random.random())
                world.after(late, self.broker.publish, self, message)
        if self.will is not None:
            world.after(absence_ns, self.broker.publish, None, self.will)
        world.after(notice_ns, self._notice)

    def close(self, absence_ns: int = _ABSENCE_NS) -> None:
        """The client closes it."""
        self.open = False
        self.cut(0, absence_ns)

    def in_flight(self) -> list[Message]:
        """What a client library might send again on its next connection."""
        return self._in_flight

    def _notice(self) -> None:
        if self.open:
            self.open = False
            self.agent.on_closed(self)
