"""The engine behind `ports.DataPlane`: plans become tables. Nobody else imports fastpath."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import socket
from collections.abc import Collection
from typing import Any

from fastpath import engine
from fastpath.requests import RequestRecord
from piagent.core.flow import Flow
from piagent.core.identity import once
from piagent.core.model import HashOn, Protocol, Retries, Sticky, Wildcard
from piagent.core.patterns import compile_pattern
from piagent.core.plan import Plan, PlannedService
from piagent.core.predicates import Predicate
from piagent.core.proxying import ProxyHeader
from piagent.core.routing import PlannedGateway, PlannedRoute
from piagent.dataplane.entry import engine_options
from piagent.dataplane.filters import engine_edits, engine_filters
from piagent.ports import ConnectionEnd, ListenError, RequestEnd

DRAIN_POLL_S = 0.05
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

    def read_log(self) -> list[ConnectionEnd | RequestEnd]:
        """What ended since the last call, of services and gateways with an access log.

        After `stop` what it ended, once.
        """
        return [
            RequestEnd._make(record)
            if isinstance(record, RequestRecord)
            else ConnectionEnd._make(record)
            for record in self._engine.read_log()
        ]

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


def flow_hash_key(secret: bytes) -> bytes:
    """16 bytes that every node of a cluster derives alike, and that tell nothing of its secret."""
    return hmac.new(secret, b"piagent flow hash", hashlib.sha256).digest()[:16]


def tables(plan: Plan) -> engine.Tables:
    """The engine's form of a plan."""
    return engine.Tables(
        listeners=tuple(
            engine.Listener(
                item.address, item.port, item.target, item.http, item.draining, item.udp, item.hosts
            )
            for item in plan.listeners
        ),
        services=tuple(_service(item) for item in plan.services),
        gateways=_gateways_once(plan.gateways),
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
    routes = tuple(map(_route, gateway.routes))
    return engine.Gateway(
        gateway.name,
        gateway.wildcard is Wildcard.ANY_DEPTH,
        routes,
        header_timeout_ms=gateway.entry.header_ms,
        keepalive_timeout_ms=gateway.entry.idle_ms,
        options=engine_options(gateway.entry),
        keeps_slashes=not gateway.merges_slashes,
        refuses_slash=not gateway.takes_encoded_slash,
    )


def _gateways(gateways: tuple[PlannedGateway, ...]) -> tuple[engine.Gateway, ...]:
    return tuple(map(_gateway, gateways))


_gateways_once = once(_gateways, kept=2)
"""With 10,000 routes that is most of the work, and other parts of a plan change more often."""


def _route(route: PlannedRoute) -> engine.Route:
    return engine.Route(
        route.name,
        route.host,
        route.path,
        route.exact,
        tuple(
            engine.Target(
                target.service,
                target.weight,
                engine_edits(target.request_headers),
                engine_edits(target.response_headers),
            )
            for target in route.targets
        ),
        route.request_timeout_ms,
        route.backend_timeout_ms,
        retries=_retries(route.retries),
        sticky=_sticky(route.sticky),
        hash_on=_hash_on(route.hash_on),
        program=compile_pattern(route.path).program if route.regex else b"",
        methods=route.methods,
        headers=tuple(map(_predicate, route.headers)),
        query=tuple(map(_predicate, route.query)),
        filters=engine_filters(route.filters),
    )


def _predicate(predicate: Predicate) -> engine.Predicate:
    program = compile_pattern(predicate.value).program if predicate.regex else b""
    return engine.Predicate(predicate.name, predicate.value.encode(), program)


def _retries(retries: Retries | None) -> engine.Retries | None:
    if retries is None:
        return None
    on = tuple(each.value for each in retries.on)
    return engine.Retries(retries.attempts, on, retries.statuses, retries.backoff_ms)


def _sticky(sticky: Sticky | None) -> engine.Sticky | None:
    return None if sticky is None else engine.Sticky(sticky.cookie, sticky.ttl_ms // 1000)


def _hash_on(hash_on: HashOn | None) -> engine.HashOn | None:
    return None if hash_on is None else engine.HashOn(hash_on.name, hash_on.cookie)


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
