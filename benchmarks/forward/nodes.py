"""The ways to forward that are compared, each with a node of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyroute2 import NFCTSocket

from benchmarks.forward.lab import (
    BACKEND_MAC,
    FORWARD_CPU,
    N_BACKENDS,
    PORT,
    ROUTED,
    Ends,
    Node,
    backend,
    run,
)
from fastpath.forwarding import Forwarder
from fastpath.forwards import Forward, Target
from fastpath.packet.attachment import How
from fastpath.packet.flow_cache import FlowCache
from piagent.adapters import netns
from piagent.adapters.forward_fence import ForwardFence
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.packet_filter import program

MTU = 1500
NAT_PORTS = (32768, 60999)
FLOWS_MAX = 1 << 17
"""In a flow cache."""
NFT = """\
table ip bench {{
  chain in {{
    type nat hook prerouting priority dstnat;
    ip daddr {vip} meta l4proto {{ tcp, udp }} th dport {port} dnat to numgen inc mod {n} map {{
      {backends}
    }}
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    ct status dnat masquerade
  }}
}}
"""


class Way:
    """One way to forward."""

    is_translated = False
    """Whether it sends to another address, from one of its own, so that answers come back to it."""
    is_dsr = False
    """Whether it sends to the VIP that it was asked for."""
    cache: FlowCache | None = None

    def __init__(self, node: Node) -> None:
        self.node = node
        self.address = node.vip
        """What clients ask."""

    def begin(self, ends: Ends, stack: contextlib.ExitStack) -> None:
        """Set it up."""

    def threads(self) -> list[int]:
        """Of this process, those that forward."""
        return []

    def forget(self) -> None:
        """No flow is known any more."""


class Routing(Way):
    """The kernel's: `ip_forward`."""

    def begin(self, ends: Ends, stack: contextlib.ExitStack) -> None:
        self.node.routes()
        self.address = f"{ROUTED['backend']}.1"


class Nft(Way):
    """nftables: DNAT and masquerade."""

    is_translated = True

    def begin(self, ends: Ends, stack: contextlib.ExitStack) -> None:
        backends = ", ".join(f"{i} : {backend(i)}" for i in range(N_BACKENDS))
        rules = NFT.format(vip=self.node.vip, port=PORT, n=N_BACKENDS, backends=backends)
        run(self.node.host, "nft", "-f", "-", given=rules)

    def forget(self) -> None:
        with self.node.host.entered(), NFCTSocket() as conntrack:
            conntrack.flush()


class Piagent(Way):
    """The forwarder, with a flow cache in the kernel or without."""

    def __init__(self, node: Node, how: str, cache: How | None) -> None:
        super().__init__(node)
        self._how, self._cache = how, cache
        self.is_translated = how == "nat"
        self.is_dsr = how == "dsr"
        self._threads: set[str] = set()

    def begin(self, ends: Ends, stack: contextlib.ExitStack) -> None:
        self._fence = ForwardFence()
        stack.callback(self._fence.close)
        if self._cache == "xdp":
            self.node.wants_checksums()
        if self.is_dsr:
            ends.accept(self.node.vip)
        with self.node.host.entered():
            if self._cache is not None:
                self.cache = FlowCache(FLOWS_MAX, 1 << 18)
                self.cache.open([self.node.index], self._cache)
            self.forwarder = Forwarder(
                self.node.index, MTU, hash_key=bytes(range(16)), ports=NAT_PORTS, cache=self.cache,
                new_flows_per_s=0,
            )  # fmt: skip
        before = set(os.listdir("/proc/self/task"))
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {FORWARD_CPU})  # its thread begins with what we have
        try:
            self.forwarder.start()
        finally:
            os.sched_setaffinity(0, own)
        self._threads = set(os.listdir("/proc/self/task")) - before
        stack.callback(self.forwarder.stop)
        self._publish(self._forwards())

    def _forwards(self) -> list[Forward]:
        targets = tuple(
            Target(
                f"b{i}", backend(i), PORT, 1, up=True, interface=self.node.index, mac=BACKEND_MAC,
                own_mac=self.node.mac, source=self.node.vip, mtu=MTU,
            )
            for i in range(N_BACKENDS)
        )  # fmt: skip
        return [
            Forward("udp" if udp else "tcp", self.node.vip, PORT, udp, self._how, targets)
            for udp in (False, True)
        ]

    def _publish(self, forwards: Sequence[Forward]) -> None:
        ports = [(PORT, PORT), *([NAT_PORTS] if self._how == "nat" else [])]
        taken = [Forwarded(self.node.vip, p, *each) for p in (TCP, UDP) for each in ports]
        with self.node.host.entered():
            self._fence.take(netns.INTERFACE, taken)
        self.forwarder.publish(forwards, program(taken))

    def threads(self) -> list[int]:
        return [int(name) for name in self._threads]

    def forget(self) -> None:
        self._publish(())
        self._publish(self._forwards())


class Kind(NamedTuple):
    """A way to forward, and what it is called."""

    title: str
    make: Callable[[Node], Way]


def _piagent(how: str, cache: How | None) -> Callable[[Node], Way]:
    return lambda node: Piagent(node, how, cache)


KINDS = {
    "routing": Kind("ip_forward", Routing),
    "nft": Kind("nftables", Nft),
    "dsr-xdp": Kind("dsr, XDP", _piagent("dsr", "xdp")),
    "dsr-tc": Kind("dsr, tc", _piagent("dsr", "tc")),
    "dsr": Kind("dsr, no BPF", _piagent("dsr", None)),
    "nat-xdp": Kind("nat, XDP", _piagent("nat", "xdp")),
    "nat-tc": Kind("nat, tc", _piagent("nat", "tc")),
    "nat": Kind("nat, no BPF", _piagent("nat", None)),
}


@contextlib.contextmanager
def ways(network: netns.Network, ends: Ends) -> Iterator[dict[str, Way]]:
    """All of them at the same time."""
    with contextlib.ExitStack() as stack:
        found = {name: kind.make(Node(network, i)) for i, (name, kind) in enumerate(KINDS.items())}
        for way in found.values():
            way.begin(ends, stack)
        yield found


def cpu_ns(way: Way) -> int:
    """Nanoseconds of FORWARD_CPU that went into forwarding, by the kernel's threads and ours."""
    threads = [way.node.receiver, _softirq_thread(), *way.threads()]
    return sum(int(Path(f"/proc/{thread}/schedstat").read_text().split()[0]) for thread in threads)


def _softirq_thread() -> int:
    """The ksoftirqd of FORWARD_CPU: what does not fit into the others' time is done there."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().strip() == f"ksoftirqd/{FORWARD_CPU}":
                return int(comm.parent.name)
    raise RuntimeError("no ksoftirqd: does this process see the host's processes?")
