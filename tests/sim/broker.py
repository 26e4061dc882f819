"""Simulated brokers and the connections to them.

A broker keeps nothing but the list of its present subscribers. With a total order a message enters
all queues at once; with serial fan-out (assumption A1) a publisher's message enters one queue after
the other, interleaved with those of other publishers, before that publisher's next one is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.world import MS, World

if TYPE_CHECKING:
    from tests.sim.node import SimNode

Message = tuple[str, bytes]
NOISE: Message = ("", b"")


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
        self._stalled_until = 0
        self._busy_until: dict[Connection | None, int] = {}
        if world.options.noise_per_s:
            self._make_noise()

    def crash(self, down_ns: int) -> None:
        """Lose everything, and come back empty."""
        self.world.log("broker", self.label, "crashes")
        self.up = False
        self._busy_until.clear()
        for connection in list(self.subscribers):
            connection.cut(self.world.random.randrange(50 * MS))
        self.world.after(down_ns, self._restart)

    def _restart(self) -> None:
        self.up = True

    def stall(self, span_ns: int) -> None:
        """Stop for a while (SIGSTOP): what comes waits in the sockets."""
        self.world.log("broker", self.label, "stalls", span_ns / 1e9)
        self._stalled_until = max(self._stalled_until, self.world.now + span_ns)

    def publish(self, publisher: Connection | None, message: Message) -> None:
        """A PUBLISH was read from a socket."""
        world = self.world
        if not self.up:
            return
        if world.now < self._stalled_until:
            world.after(self._stalled_until - world.now, self.publish, publisher, message)
            return
        topic = message[0]
        if "/l/" in topic:
            kept = self.history if message[1].endswith(b'"y":{}}') else self.yields
            kept.append(message)
            del kept[:-20]
            targets = list(self.subscribers)
        else:
            targets = [c for c in self.subscribers if topic.endswith("/" + c.name)]
        if not world.options.serial:
            for connection in targets:
                connection.deliver(message)
            return
        at = max(world.now, self._busy_until.get(publisher, 0))
        world.random.shuffle(targets)
        for connection in targets:
            at += int(world.random.choice((0, 0, MS, 20 * MS)) * world.random.random())
            world.after(at - world.now, self._enqueue, connection, message)
        self._busy_until[publisher] = at

    def _enqueue(self, connection: Connection, message: Message) -> None:
        if self.up and connection in self.subscribers:
            connection.deliver(message)

    def _make_noise(self) -> None:
        for connection in self.subscribers:
            connection.deliver(NOISE)
        self.world.after(10**9 // self.world.options.noise_per_s, self._make_noise)


class Connection:
    """One connection of one node, with a FIFO in each direction."""

    def __init__(self, world: World, node: SimNode, broker: SimBroker, name: str) -> None:
        self.world = world
        self.node = node
        self.broker = broker
        self.name = name
        self.alive = True
        """The broker's end and the wire."""
        self.open = True
        """The client believes in it."""
        self.waiting = 0
        """Messages sent to the client and not yet handled by it."""
        self._up_at = 0
        self._down_at = 0
        self._echo_at = 0
        self._in_flight: list[Message] = []
        world.after(2 * world.latency(), self._subscribe)

    def _subscribe(self) -> None:
        if self.alive and self.broker.up:
            self.broker.subscribers.append(self)
            self._down_at = self.world.now + self.world.latency()
            self.world.after(self._down_at - self.world.now, self.node.on_subscribed, self)
        else:
            self.cut(10 * MS)

    def send(self, message: Message) -> None:
        """The client publishes."""
        if self.alive:
            self._in_flight = [*self._in_flight[-2:], message]
            self._up_at = max(self._up_at, self.world.now + self.world.latency())
            self.world.after(self._up_at - self.world.now, self._read, message)

    def _read(self, message: Message) -> None:
        if self.alive:
            self.broker.publish(self, message)

    def deliver(self, message: Message) -> None:
        """The broker has a message for this subscriber."""
        options = self.world.options
        if options.queue and self.waiting >= options.queue:
            self.world.dropped += 1
            return
        now = self.world.now
        at = now + self.world.latency()
        if "/e/" in message[0] and not options.queue:  # no order among topics is promised
            self._echo_at = at = max(at, self._echo_at)
        else:
            self._down_at = at = max(at, self._down_at)
        self._arrive_at(at, message)
        if message is not NOISE and not self.world.calm and self.world.random.random() < 0.02:
            self._down_at = at = max(at, self._down_at) + self.world.latency()
            self._arrive_at(at, message)  # a duplicate of QoS 1

    def _arrive_at(self, at: int, message: Message) -> None:
        self.waiting += 1
        self.world.after(at - self.world.now, self._arrive, message)

    def _arrive(self, message: Message) -> None:
        if self.open:
            self.node.on_message(self, message)

    def clog(self, span_ns: int, *, down: bool) -> None:
        """One direction stands still for a while."""
        until = self.world.now + span_ns
        if down:
            self._down_at = max(self._down_at, until)
        else:
            self._up_at = max(self._up_at, until)

    def cut(self, notice_ns: int) -> None:
        """The broker's end is gone at once; the client notices later."""
        if not self.alive:
            return
        self.alive = False
        if self in self.broker.subscribers:
            self.broker.subscribers.remove(self)
        random = self.world.random
        for message in self._in_flight:
            if random.random() < 0.3:  # read late from the old socket
                late = int(random.choice((1, 50, 1000, 3000)) * MS * random.random())
                self.world.after(late, self.broker.publish, self, message)
        self.world.after(notice_ns, self._notice)

    def close(self) -> None:
        """The client closes it."""
        self.open = False
        self.cut(0)

    def in_flight(self) -> list[Message]:
        """What a client library might send again on its next connection."""
        return self._in_flight

    def _notice(self) -> None:
        if self.open:
            self.open = False
            self.node.on_closed(self)
