"""What many nodes cost: messages at each broker, and CPU at each node, without any faults.

`python -m tests.sim.scale` plays clusters of up to 1000 nodes under virtual time: groups of five
candidates (clusters of their own: decision 009) at three brokers, the `kilo` profile. The CPU
is that of this machine, measured around the lease core and around the codec.
"""

from __future__ import annotations

import argparse
import time

from msgspec import Struct

from piagent.core import wire
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    Acquired,
    EchoReturned,
    Effect,
    Event,
    Heard,
    LeaseMessage,
    Released,
    Send,
    SendEcho,
    Subscribed,
    Tick,
)
from piagent.core.model import Timing
from tests.sim.world import MS, WALL_MS, Options, S, World

KILO = Timing(
    lease_ms=6000,
    renew_ms=1500,
    wait_ms=6140,
    guard_ms=300,
    attempt_ms=500,
    stagger_ms=80,
    lag_ms=2000,
)
CANDIDATES = 5
BROKERS = ("b1", "b2", "b3")
SECRET = b"the cluster's secret"
TOPICS = wire.Topics("sim")
_ONE_WAY_NS = MS
_BOOT_NS = S
"""All groups start within this time, and the nodes of one together: so each owns its part."""
_TOGETHER_NS = 50 * MS
_SETTLED_NS = 12 * S
_MEASURED_NS = 9 * S
CLUSTERS = ((100, 100), (300, 300), (1000, 1000), (1000, 3000))
"""(nodes, VIPs)"""


class Cost(Struct, frozen=True):
    """What one cluster costs, per second."""

    nodes: int
    vips: int
    owned: int
    """VIPs that have an owner in the end."""
    owners: int
    """Nodes that own one."""
    moves: int
    """Releases; there is no cause for any."""
    messages_in: float
    """Per broker."""
    messages_out: float
    bytes_out: float
    core_us: float
    """Per node."""
    codec_us: float


class Sequencer:
    """A broker that takes every message in order, and counts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._members: dict[str, list[Node]] = {}
        self.messages_in = self.messages_out = self.bytes_out = 0

    def subscribe(self, group: str, node: Node) -> None:
        """The node hears its group."""
        self._members.setdefault(group, []).append(node)

    def publish(self, label: str, topic: str, payload: bytes, targets: list[Node]) -> None:
        """One in, as many out as there are subscribers."""
        self.messages_in += 1
        self.messages_out += len(targets)
        self.bytes_out += (len(topic) + len(payload)) * len(targets)
        for node in targets:
            self._world.after(_ONE_WAY_NS, node.receive, label, topic, payload)

    def members(self, group: str) -> list[Node]:
        """Those that hear it."""
        return self._members[group]


class Node:
    """The core and the codec of one node, and nothing that fails."""

    def __init__(self, cluster: Cluster, place: int, group: str, ranks: dict[str, int]) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._name = f"node{place:04}"
        self._group = group
        self._topic = TOPICS.lease(group, self._name)
        self.owned: set[str] = set()
        self.releases = 0
        self._alarm_at = 0
        self._core = LeaseGroup(
            KILO,
            BROKERS,
            self._name,
            f"{place:016x}",
            ranks,
            config_hash="c0ffee00",
            seed=place,
            now_ns=self._world.now,
            wall_ms=WALL_MS,
        )
        for label in BROKERS:
            cluster.brokers[label].subscribe(group, self)
            self._world.after(
                2 * _ONE_WAY_NS, self._step, Subscribed(label, self._connection(label))
            )
        self._set_alarm()

    def _connection(self, label: str) -> str:
        return f"pa-{self._name}-{label}"

    def receive(self, label: str, topic: str, payload: bytes) -> None:
        """A message has arrived."""
        connection = self._connection(label)
        if topic.split("/")[2] == "e":
            self._step(EchoReturned(label, connection, payload.decode()))
            return
        began = time.process_time_ns()
        read = wire.decode((SECRET,), topic, payload)
        self._cluster.codec_ns += time.process_time_ns() - began
        assert isinstance(read, LeaseMessage)
        self._step(Heard(label, connection, read))

    def _step(self, event: Event) -> None:
        began = time.process_time_ns()
        effects = self._core.step(event, self._world.now)
        self._cluster.core_ns += time.process_time_ns() - began
        for effect in effects:
            self._run(effect)
        self._set_alarm()

    def _run(self, effect: Effect) -> None:
        match effect:
            case Send(broker, message):
                began = time.process_time_ns()
                payload = wire.encode(SECRET, self._topic, message)
                self._cluster.codec_ns += time.process_time_ns() - began
                self._publish(broker, self._topic, payload, own=False)
            case SendEcho(broker, connection, nonce):
                topic = TOPICS.echo(self._name, connection)
                self._publish(broker, topic, nonce.encode(), own=True)
            case Acquired(key):
                self.owned.add(key)
            case Released(key):
                self.owned.discard(key)
                self.releases += 1

    def _publish(self, label: str, topic: str, payload: bytes, *, own: bool) -> None:
        broker = self._cluster.brokers[label]
        targets = [self] if own else broker.members(self._group)
        self._world.after(_ONE_WAY_NS, broker.publish, label, topic, payload, targets)

    def _set_alarm(self) -> None:
        began = time.process_time_ns()
        at = max(self._core.next_wakeup_ns(), self._world.now + 1)
        self._cluster.core_ns += time.process_time_ns() - began
        if at < self._alarm_at or self._alarm_at <= self._world.now:
            self._alarm_at = at
            self._world.after(at - self._world.now, self._alarm, at)

    def _alarm(self, at: int) -> None:
        if at == self._alarm_at:
            self._step(Tick())


class Cluster:
    """All of it under one clock."""

    def __init__(self, nodes: int, vips: int) -> None:
        self.world = World(0, Options())
        self.core_ns = self.codec_ns = 0
        self.brokers = {label: Sequencer(self.world) for label in BROKERS}
        self.nodes: list[Node] = []
        self._vips = vips
        self._groups = nodes // CANDIDATES
        random = self.world.random
        for group in range(self._groups):
            at = random.randrange(_BOOT_NS)
            for place in range(group * CANDIDATES, (group + 1) * CANDIDATES):
                self.world.after(at + random.randrange(_TOGETHER_NS), self._boot, place)

    def _boot(self, place: int) -> None:
        group, position = divmod(place, CANDIDATES)
        keys = range(group, self._vips, self._groups)
        ranks = {
            f"10.{key >> 16}.{key >> 8 & 255}.{key & 255}": (position - nth) % CANDIDATES
            for nth, key in enumerate(keys)
        }
        self.nodes.append(Node(self, place, f"g{group}", ranks))

    def cost(self) -> Cost:
        """Let everything find its owner, then measure."""
        self.world.run(_SETTLED_NS)
        brokers, seconds = list(self.brokers.values()), _MEASURED_NS / S
        before = [(b.messages_in, b.messages_out, b.bytes_out) for b in brokers]
        self.core_ns = self.codec_ns = 0
        self.world.run(_SETTLED_NS + _MEASURED_NS)
        after = [(b.messages_in, b.messages_out, b.bytes_out) for b in brokers]
        into, out, size = (
            sum(now[i] - then[i] for now, then in zip(after, before, strict=True))
            / len(brokers)
            / seconds
            for i in range(3)
        )
        return Cost(
            nodes=len(self.nodes),
            vips=self._vips,
            owned=sum(len(node.owned) for node in self.nodes),
            owners=sum(bool(node.owned) for node in self.nodes),
            moves=sum(node.releases for node in self.nodes),
            messages_in=into,
            messages_out=out,
            bytes_out=size,
            core_us=self.core_ns / 1000 / len(self.nodes) / seconds,
            codec_us=self.codec_ns / 1000 / len(self.nodes) / seconds,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, help="only this many, in groups of five")
    parser.add_argument("--vips", type=int, default=1000)
    args = parser.parse_args()
    clusters = ((args.nodes, args.vips),) if args.nodes else CLUSTERS
    print(f"{len(BROKERS)} brokers, groups of {CANDIDATES} candidates, profile kilo, no faults;")
    print("per second of the cluster's time:\n")
    print(f"{'':22}{'at each broker':^32}{'CPU of each node':^24}")
    print("nodes  VIPs  owners  messages in      out  KiB out     core    codec  of a core")
    for nodes, vips in clusters:
        cost = Cluster(nodes, vips).cost()
        assert cost.owned == vips, f"{vips - cost.owned} VIPs have no owner"
        print(
            f"{cost.nodes:5} {cost.vips:5} {cost.owners:7} {cost.messages_in:12.0f} "
            f"{cost.messages_out:8.0f} {cost.bytes_out / 1024:8.0f} "
            f"{cost.core_us / 1000:5.2f} ms {cost.codec_us / 1000:5.2f} ms "
            f"{(cost.core_us + cost.codec_us) / 1e6:9.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
