"""The engines: plans become tables. The only importer of fastpath."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from fastpath import engine
from fastpath.explain_forwarded import Node, explain
from fastpath.forwarding import Forwarder
from fastpath.forwards import Forward, Target
from fastpath.packet.attachment import How
from fastpath.packet.conversation import Ends
from fastpath.packet.flow_cache import FlowCache, Unavailable
from piagent.core.flow import Flow, FlowQuestion
from piagent.core.forwarding import FlowCache as Kind
from piagent.core.forwarding import Forwarding, Mode
from piagent.core.model import Protocol, Wildcard
from piagent.core.packets import NAT_PORTS, fitness, is_reached
from piagent.core.paths import Path, PathReason
from piagent.core.plan import Plan, PlannedBackend, PlannedForward, PlannedService
from piagent.core.proxying import ProxyHeader
from piagent.core.routing import PlannedGateway
from piagent.ports import ConnectionEnd, ListenError

DRAIN_POLL_S = 0.05
NEW_FLOWS, FLOWS = 16384, 65536
"""How many forwarded flows are known at most: those that nobody has confirmed, and the others."""
_HOOKS: dict[Kind, How] = {
    Kind.AUTO: "auto",
    Kind.XDP: "xdp",
    Kind.TC: "tc",
    Kind.XDP_GENERIC: "xdp-generic",
}
_HEADER_VERSIONS = {None: 0, ProxyHeader.V1: 1, ProxyHeader.V2: 2}


class EngineDataPlane:
    """One engine with its worker threads, from construction to `stop`."""

    def __init__(self, workers: int, secret: bytes) -> None:
        """Start `workers` threads; `secret` keys the flow hash: nobody outside can predict it."""
        self._engine = engine.Engine(workers=workers, hash_key=flow_hash_key(secret))
        self._engine.start()

    def apply(self, plan: Plan) -> None:
        """Make the plan true in one step.

        Raises ListenError, and nothing has changed: that listener cannot be had.
        """
        try:
            self._engine.publish(tables(plan))
        except engine.ListenError as error:
            raise _explained(error) from error

    def stats(self) -> dict[str, Any]:
        """Counters since the start, as `fastpath.engine.Engine.stats` gives them."""
        return self._engine.stats()

    def log_fd(self) -> int:
        """A descriptor that is readable when `read_log` has something to say."""
        return self._engine.log_fd()

    def read_log(self) -> list[ConnectionEnd]:
        """The connections that ended since the last call, of services with an access log.

        After `stop` those that it ended, once.
        """
        return [ConnectionEnd._make(record) for record in self._engine.read_log()]

    def explain(self, flow: Flow) -> dict[str, Any]:
        """What becomes of a flow that came now, and why, as `Engine.explain` gives it."""
        udp = flow.protocol is Protocol.UDP
        return self._engine.explain(flow.src, flow.src_port, flow.dst, flow.dst_port, udp)

    def connections(self, address: str) -> int:
        """Client connections open now that came to this address."""
        return self._engine.active_on(address)

    def cut(self, address: str) -> int:
        """Reset the client connections that came to this address; how many there were.

        Call it before the address is removed, or the resets do not get out.
        """
        return self._engine.cut(address)

    def cut_backends(self, backends: Collection[tuple[str, str]]) -> None:
        """Reset the connections that these backends of the plan, (service, backend), serve now."""
        self._engine.cut_backends(backends)

    def relay(self, client: socket.socket, backend: socket.socket) -> None:
        """Hand two connected streams over: the engine relays between them and closes them.

        Both objects are detached then. OSError: it takes no more, and both are the caller's still.
        No duplicate of either may stay open, or its peer does not see the end.
        """
        self._engine.relay(client.fileno(), backend.fileno())
        client.detach()
        backend.detach()

    async def drain(self, timeout_ms: int) -> int:
        """Accept nothing new, wait for what is under way; the number of connections still open."""
        self._engine.drain()
        end = asyncio.get_running_loop().time() + timeout_ms / 1000
        # The workers signal nothing.
        while (left := self._engine.active()) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)
        return left

    def stop(self) -> None:
        """End the workers."""
        self._engine.stop()


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


def flow_hash_key(secret: bytes) -> bytes:
    """16 bytes that every node of a cluster derives alike, and that tell nothing of its secret."""
    return hmac.new(secret, b"piagent flow hash", hashlib.sha256).digest()[:16]


def tables(plan: Plan) -> engine.Tables:
    """The engine's form of a plan."""
    return engine.Tables(
        listeners=tuple(
            engine.Listener(
                item.address, item.port, item.target, item.http, item.draining, item.udp
            )
            for item in plan.listeners
        ),
        services=tuple(_service(item) for item in plan.services),
        gateways=tuple(_gateway(item) for item in plan.gateways),
    )


def _service(service: PlannedService) -> engine.Service:
    backends = tuple(
        engine.Backend(b.name, b.address, b.port, b.weight, b.up) for b in service.backends
    )
    how = service.proxying
    return engine.Service(
        service.name,
        backends,
        connect_timeout_ms=how.timeouts.connect_ms,
        idle_timeout_ms=how.timeouts.idle_ms,
        affinity=how.affinity_ms is not None,
        balance=how.balance.value,
        affinity_timeout_ms=how.affinity_ms or 0,
        allowed=how.allowed,
        trusted=how.trusted,
        proxy_header=_HEADER_VERSIONS[how.header],
        sources=how.sources,
        connections_max=how.limits.connections,
        connections_per_source=how.limits.connections_per_source,
        accept_rate=how.limits.accept_rate,
        slow_start_ms=how.slow_start_ms,
        eject_failures=how.ejection.failures if how.ejection else 0,
        eject_ms=how.ejection.time_ms if how.ejection else 0,
        logs=how.access_log is not None,
    )


def _gateway(gateway: PlannedGateway) -> engine.Gateway:
    routes = tuple(
        engine.Route(
            r.name,
            r.host,
            r.path,
            r.exact,
            r.service,
            r.request_timeout_ms,
            r.backend_timeout_ms,
        )
        for r in gateway.routes
    )
    return engine.Gateway(gateway.name, gateway.wildcard is Wildcard.ANY_DEPTH, routes)


_CURES = {
    errno.EADDRINUSE: "another program listens there; `ss -lntup` shows which",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
}


def _explained(error: engine.ListenError) -> ListenError:
    """The same error with the place and the cure in its text."""
    cure = _CURES.get(error.errno or 0)
    text = f"cannot listen on {error.filename}: {error.strerror}"
    if cure:
        text = f"{text} ({cure})"
    return ListenError(
        error.errno or 0, text, address=error.address, port=error.port, udp=error.udp
    )
