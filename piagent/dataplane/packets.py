"""The forwarder: plans become its tables. It takes a MiB, which most nodes need not have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastpath.explain_forwarded import Node, explain
from fastpath.forwarding import Forwarder
from fastpath.forwards import Forward, Target
from fastpath.packet.attachment import How
from fastpath.packet.conversation import Ends
from fastpath.packet.flow_cache import FlowCache, Unavailable
from piagent.core.flow import FlowQuestion
from piagent.core.forwarding import FlowCache as Kind
from piagent.core.forwarding import Forwarding, Mode
from piagent.core.model import Protocol
from piagent.core.packets import NAT_PORTS, fitness, is_reached
from piagent.core.paths import Path, PathReason
from piagent.core.plan import Plan, PlannedBackend, PlannedForward
from piagent.dataplane import flow_hash_key

NEW_FLOWS, FLOWS = 16384, 65536
"""How many forwarded flows are known at most: those that nobody has confirmed, and the others."""
_HOOKS: dict[Kind, How] = {
    Kind.AUTO: "auto",
    Kind.XDP: "xdp",
    Kind.TC: "tc",
    Kind.XDP_GENERIC: "xdp-generic",
}


class PacketEngine:
    """The forwarder of one interface: a thread, and the kernel's flow cache before it.

    It works in the network namespace of the thread that makes it.
    """

    def __init__(self, interface: int, mtu: int, secret: bytes, kind: Kind) -> None:
        """Forward nothing yet; `mtu` is the interface's. Raises OSError, cure included."""
        self._cache, self.mode, self.reason = _flow_cache(interface, kind)
        self._interface, self._mtu, self._hash_key = interface, mtu, flow_hash_key(secret)
        self._forwarder = Forwarder(
            interface,
            mtu,
            hash_key=self._hash_key,
            ports=NAT_PORTS,
            new_flows=NEW_FLOWS,
            flows=FLOWS,
            cache=self._cache,
        )
        self._forwarder.start()

    @property
    def is_gone(self) -> bool:
        """Whether the interface has gone for good: one of the same name takes another engine."""
        return self._forwarder.is_gone

    def publish(
        self,
        plan: Plan,
        forwards: Iterable[PlannedForward],
        paths: Mapping[str, Path],
        program: Sequence[tuple[int, int, int, int]],
    ) -> None:
        """Go over to these forwards, which lead to services of the plan, in one step.

        `program`: the socket filter that lets their packets through. Raises OSError or ValueError,
        and nothing has changed.
        """
        wanted = tables_of(plan, forwards, paths)
        self._forwarder.publish(wanted, program)

    def explain(
        self,
        plan: Plan,
        forwards: Sequence[PlannedForward],
        paths: Mapping[str, Path],
        asked: FlowQuestion,
        mac: bytes,
    ) -> dict[str, Any]:
        """What becomes of a flow to the first of these forwards; `mac`: the interface's.

        As `fastpath.explain_forwarded.explain` has it, with the way to each backend. Raises
        ValueError for a size that no packet has, and OSError when the kernel refuses its programs.
        """
        flow = asked.flow
        node = Node(self._hash_key, self._interface, mac, self._mtu, NAT_PORTS, self._cache)
        udp = flow.protocol is Protocol.UDP
        ends = Ends(flow.src, flow.src_port, flow.dst, flow.dst_port, udp)
        wanted, *others = tables_of(plan, forwards, paths)
        told = explain(wanted, others, node, ends, size=asked.size, bpf=asked.bpf)
        addresses = {target.name: target.address for target in wanted.targets}
        for each in told["backends"]:
            path = paths.get(addresses[each["name"]])
            each["reason"] = fitness(forwards[0], path).value
        return told | {
            "service": forwards[0].target,
            "flow_cache": self.mode,
            "cache_reason": self.reason,
        }

    def export_flows(self, vip: str, most: int, each: int) -> list[bytes]:
        """See `fastpath.forwarding.Forwarder.export`."""
        return self._forwarder.export(vip, most, each)

    def adopt_flows(self, vip: str, batch: bytes) -> dict[str, int]:
        """See `fastpath.forwarding.Forwarder.adopt`."""
        return self._forwarder.adopt(vip, batch)

    def end_flows(self, vip: str) -> int:
        """See `fastpath.forwarding.Forwarder.end`."""
        return self._forwarder.end(vip)

    def hold(self, ms: int) -> None:
        """Let `nat` speak in the name of VIPs for so long from now on."""
        self._forwarder.hold(ms)

    def stats(self) -> dict[str, Any]:
        """Counters, as `fastpath.forwarding.Forwarder.stats` gives them."""
        return self._forwarder.stats()

    def stop(self) -> None:
        """End the thread, and what the kernel carries."""
        self._forwarder.stop()
        if self._cache is not None:
            self._cache.close()


def _flow_cache(interface: int, kind: Kind) -> tuple[FlowCache | None, str, str]:
    """The cache, if there is one; what carries flows; and why that."""
    how = _HOOKS.get(kind)
    if how is None:
        return None, "forwarder", 'flow_cache = "off"'
    try:
        cache = FlowCache(2 * FLOWS, 2 * (NEW_FLOWS + FLOWS))
        cache.open([interface], how)
    except Unavailable as error:
        return None, "forwarder", str(error)
    return cache, cache.mode, cache.reason


def tables_of(
    plan: Plan, forwards: Iterable[PlannedForward], paths: Mapping[str, Path]
) -> tuple[Forward, ...]:
    """The forwarder's form of some of a plan's forwards."""
    services = {service.name: service for service in plan.services}
    return tuple(
        Forward(
            name=f"{one.target} {one.address}",
            address=one.address,
            port=one.port,
            udp=one.udp,
            how=_how(one.how),
            targets=tuple(
                _target(one, backend, paths.get(backend.address))
                for backend in services[one.target].backends
            ),
            allowed=services[one.target].proxying.allowed,
            affinity_ms=services[one.target].proxying.affinity_ms,
            draining=one.draining,
        )
        for one in forwards
    )


def _how(how: Forwarding) -> str:
    return how.mode.value if how.encapsulation is None else how.encapsulation.value


def _target(forward: PlannedForward, backend: PlannedBackend, path: Path | None) -> Target:
    target = Target(backend.name, backend.address, backend.port, backend.weight, backend.up)
    reason = fitness(forward, path)
    if path is None or not is_reached(forward, reason):
        return target
    if reason is PathReason.HERE:
        return target.here()
    # Answers to what nat sends from the VIP come to whoever owns it, before and after a move.
    source = forward.address if forward.how.mode is Mode.NAT else path.source
    return target._replace(
        interface=path.interface,
        mac=path.mac,
        own_mac=path.own_mac,
        source=source,
        mtu=path.mtu,
    )
