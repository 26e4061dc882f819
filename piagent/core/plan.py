"""Everything a node believes -> what it listens on, and where that traffic goes."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.model import (
    Config,
    Gateway,
    PathKind,
    Route,
    Service,
    ServicePort,
)
from piagent.core.routing import PlannedGateway, PlannedRoute, ordered, prefix_of


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
    """`service:port`, with the port's number."""
    backends: tuple[PlannedBackend, ...]


class PlannedListener(Struct, frozen=True):
    """A TCP port to accept connections on."""

    address: str
    port: int
    target: str
    """The name of a PlannedGateway when `http`, else of a PlannedService."""
    http: bool
    draining: bool = False
    """Its VIP is on the way to another node: what it serves is to come to an end."""


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

    `owned`: the VIPs that this node owns now. `down`: (service name, backend address) of the
    backends that get no new connection. `draining`: the VIPs that were handed over, and whose
    connections are served here until they end; whether they are still owned does not matter.

    Listeners on VIPs are always there: they are bound (IP_FREEBIND) before the address is, so that
    a take-over opens nothing. A VIP that is a loopback address exists on every host; listening on
    it is owning it, so it has its listeners only while it is owned. A node that never owns a VIP
    (`vip_weight` 0) has none. Services of every type are there, since routes use them.
    """
    listeners = _listeners(config) if config.node.vip_weight > 0 else ()
    return Plan(
        listeners=tuple(
            replace(listener, draining=listener.address in draining)
            for listener in listeners
            if listener.address in owned or not is_loopback(listener.address)
        ),
        services=tuple(
            PlannedService(service_key(service, port), _backends(service, port, down))
            for service in config.services
            for port in service.ports
        ),
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


def service_key(service: Service, port: ServicePort) -> str:
    """Return the name of one port of a service: `service:port`."""
    return f"{service.name}:{port.port}"


def is_loopback(address: str) -> bool:
    """Tell whether every host has this address by itself: 127.0.0.0/8 and ::1."""
    return address.startswith("127.") or address == "::1"


def _listeners(config: Config) -> tuple[PlannedListener, ...]:
    of_services = (
        PlannedListener(service.address, port.port, service_key(service, port), http=False)
        for service in config.services
        for port in service.ports
        if service.address is not None
    )
    of_gateways = (
        PlannedListener(gateway.address, port, gateway.name, http=True)
        for gateway in config.gateways
        for port in gateway.ports
    )
    return *of_services, *of_gateways


def _backends(
    service: Service, port: ServicePort, down: frozenset[tuple[str, str]]
) -> tuple[PlannedBackend, ...]:
    return tuple(
        PlannedBackend(
            name=host_port(backend.address, port.target_port),
            address=backend.address,
            port=port.target_port,
            weight=backend.weight,
            up=(service.name, backend.address) not in down,
        )
        for backend in service.backends
    )


def host_port(address: str, port: int) -> str:
    """Write an address and port as one word: `10.0.0.1:80`, `[fd00::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


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
    return service_key(service, next(port for port in service.ports if wanted in {None, port.port}))
