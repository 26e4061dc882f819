"""Everything a node believes -> what it listens on, and where that traffic goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.model import (
    Backend,
    Config,
    Gateway,
    PathKind,
    Protocol,
    Route,
    Service,
    ServicePort,
    TrafficPolicy,
    host_port,
)
from piagent.core.proxying import Proxying
from piagent.core.routing import PlannedGateway, PlannedRoute, ordered, prefix_of

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 -- where node ports are, and others may be
"""What stands for every address of the node."""
LOCAL = "@local"
"""Ends the name of a service port for its backends of this node only."""


class PlannedBackend(Struct, frozen=True):
    """One backend of one service port."""

    name: str
    """`address:port` (`[address]:port` for IPv6): its stable name, hashed by Maglev."""
    address: str
    port: int
    weight: int
    up: bool


class PlannedService(Struct, frozen=True):
    """One port of a service, balanced over its backends."""

    name: str
    """`service:port`, with the port's number; see `service_key`."""
    backends: tuple[PlannedBackend, ...]
    proxying: Proxying = Proxying()


class PlannedListener(Struct, frozen=True):
    """A port to accept connections on, or datagrams."""

    address: str
    port: int
    target: str
    """The name of a PlannedGateway when `http`, else of a PlannedService."""
    http: bool
    draining: bool = False
    """Its VIP is on the way to another node: what it serves is to come to an end."""
    udp: bool = False


class Plan(Struct, frozen=True):
    """What the engine is to do."""

    listeners: tuple[PlannedListener, ...]
    services: tuple[PlannedService, ...]
    gateways: tuple[PlannedGateway, ...]


def plan(
    config: Config,
    owned: frozenset[str],
    down: frozenset[tuple[str, str]],
    draining: frozenset[str] = frozenset(),
) -> Plan:
    """Say what this node listens on and where that goes.

    `owned`: the VIPs that this node owns now. `down`: (service name, backend id) of the backends
    that get no new connection. `draining`: the VIPs that were handed over, and whose connections
    are served here until they end; whether they are still owned does not matter.

    Listeners on VIPs are always there: they are bound (IP_FREEBIND) before the address is, so that
    a take-over opens nothing. A VIP that is a loopback address exists on every host; listening on
    it is owning it, so it has its listeners only while it is owned. A node that never owns a VIP
    (`vip_weight` 0) has none on VIPs; cluster addresses and node ports are on every node. Services
    of every type are there, since routes use them.
    """
    return Plan(
        listeners=tuple(
            replace(listener, draining=listener.address in draining)
            for listener in _listeners(config)
            if listener.address in owned or not _is_loopback_vip(config, listener.address)
        ),
        services=tuple(_services(config, down)),
        gateways=tuple(_gateway(config, gateway) for gateway in config.gateways),
    )


def with_leaving(wanted: Plan, before: Plan, vips: frozenset[str]) -> Plan:
    """Add to a plan what serves VIPs that are not in it any more, until their connections end.

    Their listeners drain, and lead where the plan now says that their target leads; what it does
    not know any more stays as it was.
    """
    listeners = tuple(
        replace(one, draining=True) for one in before.listeners if one.address in vips
    )
    targets = {one.target for one in listeners}
    known = {gateway.name for gateway in wanted.gateways}
    gateways = tuple(g for g in before.gateways if g.name in targets - known)
    needed = targets | {route.service for gateway in gateways for route in gateway.routes}
    served = {service.name for service in wanted.services}
    services = tuple(s for s in before.services if s.name in needed - served)
    return Plan(
        listeners=(*wanted.listeners, *listeners),
        services=(*wanted.services, *services),
        gateways=(*wanted.gateways, *gateways),
    )


def service_key(service: Service, port: ServicePort, *, local: bool = False) -> str:
    """Return the name of one port of a service: `web:80`, `dns:53/udp`, `web:80@local`.

    `local`: balanced over the backends of this node only.
    """
    protocol = "" if port.protocol is Protocol.TCP else f"/{port.protocol}"
    return f"{service.name}:{port.port}{protocol}{LOCAL if local else ''}"


def places_of(service: Service, backend: Backend) -> frozenset[tuple[str, str]]:
    """Under which names of PlannedService and PlannedBackend a backend may be in a plan."""
    return frozenset(
        (service_key(service, port, local=local), _name(backend, port))
        for port in service.ports
        for local in (False, True)
    )


def is_loopback(address: str) -> bool:
    """Tell whether every host has this address by itself: 127.0.0.0/8 and ::1."""
    return address.startswith("127.") or address == "::1"


def _is_loopback_vip(config: Config, address: str) -> bool:
    return is_loopback(address) and address in config.vips()


def _listeners(config: Config) -> Iterator[PlannedListener]:
    owns = config.node.vip_weight > 0
    for service in config.services:
        local = service.traffic_policy is TrafficPolicy.LOCAL
        for port in service.ports:
            udp = port.protocol is Protocol.UDP
            outside = service_key(service, port, local=local)
            for vip in service.vips if owns else ():
                yield PlannedListener(vip, port.port, outside, http=False, udp=udp)
            for address in service.cluster_ips:
                inside = service_key(service, port)
                yield PlannedListener(address, port.port, inside, http=False, udp=udp)
            for address in EVERYWHERE if port.node_port is not None else ():
                node_port = port.node_port or 0
                yield PlannedListener(address, node_port, outside, http=False, udp=udp)
    for gateway in config.gateways if owns else ():
        for vip in gateway.vips:
            for number in gateway.ports:
                yield PlannedListener(vip, number, gateway.name, http=True)


def _services(config: Config, down: frozenset[tuple[str, str]]) -> Iterator[PlannedService]:
    for service in config.services:
        here = tuple(one for one in service.backends if one.node == config.node.name)
        for port in service.ports:
            every = _backends(service, port, service.backends, down)
            yield PlannedService(service_key(service, port), every, service.proxying)
            if service.traffic_policy is TrafficPolicy.LOCAL:
                key = service_key(service, port, local=True)
                local = _backends(service, port, here, down)
                yield PlannedService(key, local, service.proxying)


def _name(backend: Backend, port: ServicePort) -> str:
    return host_port(backend.address, backend.port or port.target_port)


def _backends(
    service: Service,
    port: ServicePort,
    backends: Iterable[Backend],
    down: frozenset[tuple[str, str]],
) -> tuple[PlannedBackend, ...]:
    return tuple(
        PlannedBackend(
            name=_name(backend, port),
            address=backend.address,
            port=backend.port or port.target_port,
            weight=backend.weight,
            up=(service.name, backend.id) not in down,
        )
        for backend in backends
        if backend.only in {None, port.name}
    )


def _gateway(config: Config, gateway: Gateway) -> PlannedGateway:
    services = {service.name: service for service in config.services}
    routes = [route for route in config.routes if route.gateway == gateway.name]
    return PlannedGateway(
        name=gateway.name,
        wildcard=gateway.wildcard,
        routes=tuple(_route(route, host, services) for route, host in ordered(routes)),
    )


def _route(route: Route, host: str, services: dict[str, Service]) -> PlannedRoute:
    exact = route.path_kind is PathKind.EXACT
    return PlannedRoute(
        name=route.name,
        host=host,
        path=route.path if exact else prefix_of(route.path),
        exact=exact,
        service=_target(route, services),
        request_timeout_ms=route.request_timeout_ms,
        backend_timeout_ms=route.backend_timeout_ms,
    )


def _target(route: Route, services: dict[str, Service]) -> str:
    if route.service is None:
        return ""
    service = services[route.service]
    wanted = route.service_port
    ports = (port for port in service.ports if port.protocol is Protocol.TCP)
    return service_key(service, next(port for port in ports if wanted in {None, port.port}))
