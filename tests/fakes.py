"""Fakes of the ports, for tests of what stands behind them.

They keep to the ports' words: a FakeBus delivers in order and only on the connection that is up,
FakeAddresses expire, FakeProber answers at once, FakeDataPlane refuses as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from piagent.core.checking import Question
from piagent.core.dsr import Accepted
from piagent.core.flow import Flow, FlowQuestion
from piagent.core.model import Protocol
from piagent.core.packets import ForwardingState
from piagent.core.plan import Plan
from piagent.ports import (
    BusEvent,
    ConnectionEnd,
    Disconnected,
    LanEvent,
    LinkState,
    ProbeResult,
    Received,
    RequestEnd,
    Subscribed,
    Will,
)


class FakeClock:
    """A lease clock that moves when told."""

    def __init__(self, now_ns: int = 1_000_000_000_000) -> None:
        self.now = now_ns
        self.slept = 0

    def now_ns(self) -> int:
        return self.now

    def slept_ns(self) -> int:
        return self.slept

    def advance_ms(self, ms: float) -> None:
        self.now += int(ms * 1_000_000)


def topic_matches(pattern: str, topic: str) -> bool:
    """MQTT 3.1.1 section 4.7, without `$` topics."""
    wanted, given = pattern.split("/"), topic.split("/")
    for index, part in enumerate(wanted):
        if part == "#":
            return True
        if index >= len(given) or part not in ("+", given[index]):
            return False
    return len(wanted) == len(given)


class FakeBroker:
    """One memory-less sequencer that several FakeBuses share."""

    def __init__(self, label: str = "b1") -> None:
        self.label = label
        self.up = True
        self.retained: dict[str, bytes] = {}
        self.log: list[tuple[str, bytes]] = []
        """Everything that was ever published, in order."""
        self._members: list[FakeBus] = []

    def join(self, bus: FakeBus) -> None:
        self._members.append(bus)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.log.append((topic, payload))
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)  # MQTT 3.1.1 section 3.3.1.3
        for member in self._members:
            member.take(self.label, topic, payload, retain=False)

    def stop(self) -> None:
        """Gone, with everything it knew."""
        self.up = False
        self.retained.clear()
        for member in self._members:
            member.close(self.label, "connection lost")

    def start(self) -> None:
        """Back, empty; members reconnect at once."""
        self.up = True
        for member in self._members:
            member.connect(self.label)


class FakeBus:
    """`ports.Bus` over FakeBrokers, in one event loop; a closed connection comes back at once."""

    def __init__(self, brokers: Iterable[FakeBroker], subscriptions: Iterable[str]) -> None:
        self.brokers = {broker.label: broker for broker in brokers}
        self._subscriptions = tuple(subscriptions)
        self._connections: dict[str, str] = {}
        self._made = 0
        self._events: asyncio.Queue[BusEvent] = asyncio.Queue()
        self.closed: list[tuple[str, str]] = []
        """(broker, reason) of each `close`."""

    async def run(self, deliver: Callable[[BusEvent], None]) -> None:
        for label, broker in self.brokers.items():
            broker.join(self)
            self.connect(label)
        while True:
            event = await self._events.get()
            if isinstance(event, Received) and event.connection != self._connections.get(
                event.broker
            ):
                continue
            deliver(event)

    def publish(self, broker: str, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if broker not in self._connections:
            return False
        self.brokers[broker].publish(topic, payload, retain=retain)
        return True

    def close(self, broker: str, reason: str) -> None:
        self.closed.append((broker, reason))
        if self._connections.pop(broker, None) is not None:
            self._events.put_nowait(Disconnected(broker=broker, reason=reason))
            self.connect(broker)

    def connect(self, label: str) -> None:
        """A fresh connection, if the broker is up."""
        broker = self.brokers[label]
        if not broker.up:
            return
        self._made += 1
        name = f"fake-{id(self):x}-{self._made}"
        self._connections[label] = name
        self._events.put_nowait(Subscribed(broker=label, connection=name))
        for topic, payload in broker.retained.items():
            self.take(label, topic, payload, retain=True)

    def take(self, label: str, topic: str, payload: bytes, *, retain: bool) -> None:
        """What a broker forwards."""
        name = self._connections.get(label)
        if name is not None and any(topic_matches(p, topic) for p in self._subscriptions):
            self._events.put_nowait(Received(label, name, topic, payload, retain))


class FakeAddresses:
    """`ports.Addresses` with a kernel that keeps lifetimes by a FakeClock."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self._clock = clock or FakeClock()
        self._until_ns: dict[str, int] = {}
        self.announced: list[str] = []
        self.events: list[tuple[str, str]] = []
        """("add" | "renew" | "remove" | "announce", address), in order."""
        self.removable = True
        """False: removals cannot be confirmed."""
        self.failure: Exception | None = None
        """Raised by `add`."""
        self.own: tuple[str, ...] = ("10.0.0.100/8",)

    @property
    def present(self) -> set[str]:
        """The addresses that are there now."""
        return {a for a, until in self._until_ns.items() if until > self._clock.now_ns()}

    async def add(self, address: str, valid_ms: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.events.append(("renew" if address in self.present else "add", address))
        self._until_ns[address] = self._clock.now_ns() + valid_ms * 1_000_000

    async def renew(self, addresses: Collection[str], valid_ms: int) -> None:
        for address in addresses:
            await self.add(address, valid_ms)

    async def remove(self, address: str) -> bool:
        self.events.append(("remove", address))
        if self.removable:
            self._until_ns.pop(address, None)
        return self.removable and address not in self.present

    async def announce(self, address: str) -> None:
        self.events.append(("announce", address))
        self.announced.append(address)

    def mac(self) -> bytes:
        return bytes((2, 0, 0, 0, 0, 1))

    def networks(self) -> tuple[str, ...]:
        return self.own


class FakeFence:
    """`ports.Fence` that remembers until when what is open."""

    def __init__(self, clock: FakeClock | None = None, why_not: str | None = None) -> None:
        self._clock = clock or FakeClock()
        self._why_not = why_not
        self.guarded: set[str] = set()
        self.accepted: set[str] = set()
        self._held: dict[str, int] = {}
        self._served: dict[str, int] = {}
        self.passed_on: dict[str, bytes] = {}
        self.failure: OSError | None = None
        """Raised by what changes something."""

    @property
    def why_not(self) -> str | None:
        return self._why_not

    @property
    def held(self) -> set[str]:
        """What may answer ARP now."""
        return {vip for vip, at in self._held.items() if at > self._clock.now_ns()}

    @property
    def served(self) -> set[str]:
        """What IP packets pass for now."""
        return {vip for vip, at in self._served.items() if at > self._clock.now_ns()}

    def guard(self, interface: str, vips: Collection[str], accepted: Collection[str] = ()) -> None:
        self.guarded, self.accepted = set(vips), set(accepted)

    def open(self, left_ms: Mapping[str, int]) -> None:
        self._may_fail()
        for vip, ms in left_ms.items():
            self._held[vip] = self._served[vip] = self._clock.now_ns() + ms * 1_000_000

    def hide(self, vip: str, serve_ms: int) -> None:
        self._may_fail()
        self._held.pop(vip, None)
        self._served[vip] = self._clock.now_ns() + serve_ms * 1_000_000

    def close(self, vip: str) -> None:
        self._may_fail()
        self._held.pop(vip, None)
        self._served.pop(vip, None)
        self.passed_on.pop(vip, None)

    def take_over(self, vip: str, mac: bytes, left_ms: int) -> None:
        self._may_fail()
        self.passed_on[vip] = mac

    def _may_fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeLan:
    """`ports.Lan` with a link, on which nobody is but who is told to be."""

    def __init__(self) -> None:
        self.watched: set[str] = set()
        self.strangers: dict[str, str] = {}
        """VIP -> the hardware address that answers for it."""
        self.deliver: Callable[[LanEvent], None] = lambda _: None

    async def run(self, deliver: Callable[[LanEvent], None]) -> None:
        self.deliver = deliver
        deliver(LinkState(up=True, reason="carrier"))
        await asyncio.Event().wait()

    def watch(self, vips: Collection[str]) -> None:
        self.watched = set(vips)

    async def probe(self, vip: str) -> str | None:
        await asyncio.sleep(0.01)
        return self.strangers.get(vip)


class FakeGuardian:
    """`ports.Guardian` that remembers the wills."""

    def __init__(self) -> None:
        self.wills: list[Will] = []

    def entrust(self, will: Will) -> None:
        self.wills.append(will)


class FakeProber:
    """`ports.Prober` that answers what it was told to."""

    def __init__(self) -> None:
        self.bad: dict[str, str] = {}
        """Backend address -> reason."""
        self.count = 0
        self.hold: asyncio.Event | None = None
        """Nothing is answered before it is set."""
        self.own_trouble = False
        """Whether this host cannot check anything."""
        self.asked: list[Question] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, question: Question, answered: Callable[[ProbeResult], None]) -> None:
        self.count += 1
        self.asked.append(question)
        reason = self.bad.get(question.address)
        task = asyncio.ensure_future(self._answer(reason, answered))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _answer(self, reason: str | None, answered: Callable[[ProbeResult], None]) -> None:
        await (self.hold.wait() if self.hold is not None else asyncio.sleep(0))
        if self.own_trouble:
            answered(ProbeResult(good=None, reason="not checked"))
        else:
            answered(ProbeResult(good=reason is None, reason=reason or "connected"))


class FakeLines:
    """A file in memory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.trouble: str | None = None
        self.dropped = 0
        self.lines: list[bytes] = []
        self.opened = 1
        self.closed = False

    def write(self, lines: Sequence[bytes]) -> None:
        self.lines += lines

    def reopen(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed = True


class FakeForwarding:
    """`ports.Forwarding` that remembers its plans."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.failure: OSError | None = None
        """Raised by `apply`, which then changes nothing."""
        self.explanation: dict[str, Any] | Exception | None = None
        """What becomes of every flow, or why that is not said; None: it is not forwarded."""
        self.stopped = False
        self.flows: dict[str, list[bytes]] = {}
        """VIP -> the connections that are forwarded, 4 bytes each."""
        self.held_ms: list[int] = []
        self.cut_off: list[tuple[str, str]] = []

    def apply(self, plan: Plan) -> None:
        if self.failure is not None and plan.forwards:
            raise self.failure
        self.plans.append(plan)

    def explain(self, asked: FlowQuestion) -> dict[str, Any] | None:
        if isinstance(self.explanation, Exception):
            raise self.explanation
        return self.explanation

    def cut_backends(self, backends: Collection[tuple[str, str]]) -> None:
        self.cut_off += sorted(backends)

    def hold(self, ms: int) -> None:
        self.held_ms.append(ms)

    def tabled(self) -> set[tuple[str, bool]]:
        """Address of each VIP whose packets are forwarded, and whether it drains."""
        latest = self.plans[-1].forwards if self.plans else ()
        return {(one.address, one.draining) for one in latest if one.owned or one.draining}

    def export_flows(self, vip: str, most: int, each: int) -> list[bytes]:
        flows = self.flows.get(vip, [])[:most]
        return [b"".join(flows[at : at + each]) for at in range(0, len(flows), each)]

    def adopt_flows(self, vip: str, batch: bytes) -> dict[str, int]:
        if len(batch) % 4:
            raise ValueError(f"flows: {len(batch)} bytes")
        came = [batch[at : at + 4] for at in range(0, len(batch), 4)]
        self.flows.setdefault(vip, []).extend(came)
        return {"adopted": len(came)}

    def end_flows(self, vip: str) -> int:
        return len(self.flows.pop(vip, []))

    def state(self) -> ForwardingState | None:
        return None

    def stats(self) -> dict[str, Any]:
        return {"packets": {}}

    async def run(self) -> None:
        await asyncio.Event().wait()

    def stop(self) -> None:
        self.stopped = True


class FakeDataPlane:
    """`ports.DataPlane` that remembers its plans."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.failure: OSError | None = None
        """Raised by `apply`, which then changes nothing."""
        self.draining = False
        self.stopped = False
        self.open: dict[str, int] = {}
        """Address -> how many connections clients have to it."""
        self.counted: dict[str, dict[str, dict[str, Any]]] = {}
        """Service port -> backend -> what `stats` says of it."""
        self.cut_off: list[tuple[str, str]] = []
        """Backends whose connections were cut, each (service, backend)."""
        self.ends: list[ConnectionEnd | RequestEnd] = []
        """What `read_log` has to say; see `wake`."""
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self.relays: list[tuple[int, int]] = []
        """Descriptors that were handed over, for the test to use and close."""

    def apply(self, plan: Plan) -> None:
        if self.failure is not None:
            raise self.failure
        self.plans.append(plan)

    def stats(self) -> dict[str, Any]:
        http: dict[str, Any] = {
            "requests": {},
            "durations": {},
            "retries": {},
            "waiting": 0,
            "mirrored": dict.fromkeys(("answered", "failed"), 0),
            "compressed": {},
            "compressing": 0,
            "uncompressed": 0,
            "checking": 0,
            "checks": 0,
            "rejected": {},
        }
        http["others"] = {"requests": 0, "durations": {"count": 0}}
        return {
            "services": self.counted,
            "ends": {},
            "listeners": {},
            "relays": {"total": 0, "active": 0, "bytes_in": 0, "bytes_out": 0},
            "udp": {"sessions": 0, "evicted": {}, "dropped": {}, "segments": {}},
            "rejected": {},
            "log_dropped": 0,
            "workers": [],
            "http": http,
        }

    async def drain(self, timeout_ms: int) -> int:
        self.draining = True
        return 0

    def connections(self, address: str) -> int:
        return self.open.get(address, 0)

    def cut(self, address: str) -> int:
        return self.open.pop(address, 0)

    def cut_backends(self, backends: Collection[tuple[str, str]]) -> None:
        here = {(s.name, b.name) for s in self.plans[-1].services for b in s.backends}
        self.cut_off += sorted(here & set(backends))

    def explain(self, flow: Flow) -> dict[str, Any]:
        place = flow.dst, flow.dst_port, flow.protocol is Protocol.UDP
        keys = (
            "listener", "gateway", "service", "allowed", "header", "policy", "affinity", "hash",
            "entry", "table", "remembered", "chosen", "orders", "backends",
        )  # fmt: skip
        said: dict[str, Any] = dict.fromkeys(keys)
        for one in self.plans[-1].listeners:
            if (one.address, one.port, one.udp) == place:
                said |= {"listener": "it", "service": one.target, "allowed": True}
        return said

    def log_fd(self) -> int:
        if self._wake is None:
            self._wake = socket.socketpair()
        return self._wake[0].fileno()

    def read_log(self) -> list[ConnectionEnd | RequestEnd]:
        if self._wake is not None and self.stopped:
            for end in self._wake:
                end.close()
        elif self._wake is not None and self.ends:
            self._wake[0].recv(4096)
        ends, self.ends = self.ends, []
        return ends

    def wake(self, *ends: ConnectionEnd | RequestEnd) -> None:
        """Connections and requests that have ended."""
        self.ends += ends
        if self._wake is not None:
            self._wake[1].send(b"x")

    def relay(self, client: socket.socket, backend: socket.socket) -> None:
        if self.draining:
            raise OSError(errno.ESHUTDOWN, "draining")
        self.relays.append((client.detach(), backend.detach()))

    def stop(self) -> None:
        self.stopped = True


class FakeLocalAddresses:
    """The loopback interface, which has what it is told to."""

    def __init__(self) -> None:
        self.why_not: str | None = None
        self.inside: set[str] = set()
        self.routed: set[str] = set()
        self.accepted: set[Accepted] = set()
        self.addresses: frozenset[str] = frozenset()
        self.refused: dict[str, str] = {}

    def own(self) -> frozenset[str]:
        return self.addresses

    def configure(
        self,
        inside: Collection[str],
        routed: Collection[str],
        accepted: Collection[Accepted] = (),
    ) -> dict[str, str]:
        self.inside = {one for one in inside if one not in self.refused}
        self.routed = {one for one in routed if one not in self.refused}
        self.accepted = {one for one in accepted if one.vip not in self.refused}
        asked = {*inside, *routed, *(one.vip for one in accepted)}
        return {one: why for one, why in self.refused.items() if one in asked}

    def remove_all(self) -> None:
        self.inside, self.routed, self.accepted = set(), set(), set()


class FakeSpeaker:
    """Routers that hear everything at once."""

    def __init__(self) -> None:
        self.bgp: object = None
        self.routes: frozenset[object] = frozenset()

    def configure(self, bgp: object) -> None:
        self.bgp = bgp

    def announce(self, routes: frozenset[object]) -> None:
        self.routes = routes

    async def run(self, deliver: Callable[[object], None]) -> None:
        await asyncio.Event().wait()


class FakeStore:
    """Remembers in memory."""

    def __init__(self, saved: object) -> None:
        self.saved = saved

    def load(self) -> Any:
        return self.saved

    def save(self, value: object) -> None:
        self.saved = value

    async def close(self) -> None:
        pass
