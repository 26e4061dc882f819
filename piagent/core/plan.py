"""Everything a node believes -> what it listens on, and where that traffic goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.filters import Filters
from piagent.core.forwarding import Forwarding
from piagent.core.identity import once
from piagent.core.model import (
    Backend,
    Config,
    EncodedSlash,
    Gateway,
    PathKind,
    Protocol,
    Route,
    RouteBackend,
    Service,
    ServicePort,
    TrafficPolicy,
    host_port,
)
from piagent.core.proxying import Proxying
from piagent.core.routing import DEFAULT, PlannedGateway, PlannedRoute, Target, ordered, prefix_of

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 -- where node ports are, and others may be
"""What stands for every address of the node."""
LOCAL = "@local"
"""Ends the name of a service port for its backends of this node only."""
DEFAULT_TIMEOUT_MS = 60_000
"""For a default backend to begin its response, as for a route that says nothing else."""
_VERSIONS = {4: "@ipv4", 6: "@ipv6"}
"""Ends the name of a service port for the backends that packets of this IP version get to."""


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
    hosts: tuple[str, ...] = ()
    """The hosts that it serves, when `http`; none: every one."""


class PlannedForward(Struct, frozen=True):
    """A port of a VIP whose packets go to backends as they come: nobody accepts anything here."""

    address: str
    port: int
    target: str
    """The name of a PlannedService: its backends, who may come, how long what leaves drains."""
    how: Forwarding
    udp: bool = False
    owned: bool = False
    """Else its packets are for this host itself, if it is a backend, or nobody's."""
    draining: bool = False
    """The VIP is on the way to another node: flows that are known go on, there are no new ones."""


class Plan(Struct, frozen=True):
    """What the engine is to do."""

    listeners: tuple[PlannedListener, ...]
    services: tuple[PlannedService, ...]
    gateways: tuple[PlannedGateway, ...]
    forwards: tuple[PlannedForward, ...] = ()


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
    of every type are there, since routes use them. What is forwarded has no listener on its VIPs;
    its cluster addresses and node ports do, and routes lead to it as to any other service.
    """
    return Plan(
        listeners=tuple(
            replace(listener, draining=listener.address in draining)
            for listener in _listeners(config)
            if listener.address in owned or not _is_loopback_vip(config, listener.address)
        ),
        services=tuple(_services(config, down)),
        gateways=_gateways(config),
        forwards=tuple(
            replace(one, owned=one.address in owned, draining=one.address in draining)
            for one in _forwards(config)
        ),
    )


def with_leaving(wanted: Plan, before: Plan, vips: frozenset[str]) -> Plan:
    """Add to a plan what serves VIPs that are not in it any more, until their connections end.

    Their listeners drain, and lead where the plan now says that their target leads; what it does
    not know any more stays as it was.
    """
    listeners = tuple(
        replace(one, draining=True) for one in before.listeners if one.address in vips
    )
    forwards = tuple(replace(one, draining=True) for one in before.forwards if one.address in vips)
    targets = {one.target for one in listeners} | {one.target for one in forwards}
    known = {gateway.name for gateway in wanted.gateways}
    gateways = tuple(g for g in before.gateways if g.name in targets - known)
    needed = targets | {
        name for gateway in gateways for route in gateway.routes for name in route.services
    }
    served = {service.name for service in wanted.services}
    services = tuple(s for s in before.services if s.name in needed - served)
    return Plan(
        listeners=(*wanted.listeners, *listeners),
        services=(*wanted.services, *services),
        gateways=(*wanted.gateways, *gateways),
        forwards=(*wanted.forwards, *forwards),
    )


def service_key(
    service: Service, port: ServicePort, *, version: int | None = None, local: bool = False
) -> str:
    """Return the name of one port of a service: `web:80`, `dns:53/udp`, `web:80@local`.

    `version`: for what is forwarded, balanced over the backends that packets of this IP version
    get to: `web:80@ipv4`. `local`: balanced over the backends of this node only.
    """
    protocol = "" if port.protocol is Protocol.TCP else f"/{port.protocol}"
    forwarded = "" if version is None else _VERSIONS[version]
    return f"{service.name}:{port.port}{protocol}{forwarded}{LOCAL if local else ''}"


def places_of(service: Service, backend: Backend) -> frozenset[tuple[str, str]]:
    """Under which names of PlannedService and PlannedBackend a backend may be in a plan."""
    return frozenset(
        (service_key(service, port, version=version, local=local), _name(backend, port))
        for port in service.ports
        for version in (None, *_VERSIONS)
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
            for vip in service.vips if owns and service.forwarding.proxied else ():
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
                hosts = gateway.hosts.get(number, ())
                yield PlannedListener(vip, number, gateway.name, http=True, hosts=hosts)


def _forwards(config: Config) -> Iterator[PlannedForward]:
    for service in config.services:
        local = service.traffic_policy is TrafficPolicy.LOCAL
        for port in service.ports:
            for vip in _forwarded_vips(config, service):
                target = service_key(service, port, version=_version(vip), local=local)
                udp = port.protocol is Protocol.UDP
                yield PlannedForward(vip, port.port, target, service.forwarding, udp=udp)


def _forwarded_vips(config: Config, service: Service) -> tuple[str, ...]:
    here = config.node.vip_weight > 0 and not service.forwarding.proxied
    return service.vips if here else ()


def _version(vip: str) -> int:
    return 6 if ":" in vip else 4


def unreached(config: Config) -> tuple[tuple[str, str], ...]:
    """(service, backend id) of the backends that nothing of what is forwarded gets to.

    A file with such backends is refused, if that can be told from it; but a VIP may come from a
    pool, and backends may register themselves.
    """
    return tuple(
        (service.name, backend.id)
        for service in config.services
        for backend in service.backends
        if service.vips
        and not any(
            is_reached(service, vip, port, backend)
            for vip in service.vips
            for port in service.ports
            if backend.only in {None, port.name}
        )
    )


def is_reached(service: Service, vip: str, port: ServicePort, backend: Backend) -> bool:
    """Tell whether packets to the VIP's port get to this backend."""
    how = service.forwarding
    if how.proxied:
        return True
    target = backend.port or port.target_port
    return how.carries(vip, backend.address) and how.keeps(port.port, target)


def _services(config: Config, down: frozenset[tuple[str, str]]) -> Iterator[PlannedService]:
    for service in config.services:
        here = tuple(one for one in service.backends if one.node == config.node.name)
        local = service.traffic_policy is TrafficPolicy.LOCAL
        for port in service.ports:
            wanted = {service_key(service, port): service.backends}
            if local:
                wanted[service_key(service, port, local=True)] = here
            for vip in _forwarded_vips(config, service):
                key = service_key(service, port, version=_version(vip), local=local)
                outside = here if local else service.backends
                wanted[key] = tuple(b for b in outside if is_reached(service, vip, port, b))
            for key, backends in wanted.items():
                planned = _backends(service, port, backends, down)
                yield PlannedService(key, planned, service.proxying)


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


def _planned_gateways(config: Config) -> tuple[PlannedGateway, ...]:
    services = {service.name: service for service in config.services}
    return tuple(_gateway(config, gateway, services) for gateway in config.gateways)


_gateways = once(_planned_gateways, kept=2)
"""Plans change with every backend that goes down; 10,000 routes take 0.1 s to put in order."""


def _gateway(config: Config, gateway: Gateway, services: dict[str, Service]) -> PlannedGateway:
    routes = [route for route in config.routes if route.gateway == gateway.name]
    return PlannedGateway(
        name=gateway.name,
        wildcard=gateway.wildcard,
        routes=(
            *(_route(route, host, services) for route, host in ordered(routes)),
            *_default(gateway, services),
        ),
        merges_slashes=gateway.merge_slashes,
        takes_encoded_slash=gateway.encoded_slash is EncodedSlash.KEEP,
        entry=gateway.entry,
    )


def _default(gateway: Gateway, services: dict[str, Service]) -> Iterator[PlannedRoute]:
    """Yield what comes after all others: every path matches an empty regular expression."""
    if gateway.default_backend is not None:
        targets = (_target(gateway.default_backend, services),)
        yield PlannedRoute(DEFAULT, "", "", False, targets, 0, DEFAULT_TIMEOUT_MS, regex=True)


def _route(route: Route, host: str, services: dict[str, Service]) -> PlannedRoute:
    is_prefix = route.path_kind is PathKind.PREFIX
    return PlannedRoute(
        name=route.name,
        host=host,
        path=prefix_of(route.path) if is_prefix else route.path,
        exact=route.path_kind is PathKind.EXACT,
        targets=tuple(_target(one, services) for one in route.backends),
        request_timeout_ms=route.request_timeout_ms,
        backend_timeout_ms=route.backend_timeout_ms,
        retries=route.retries,
        sticky=route.sticky,
        hash_on=route.hash_on,
        regex=route.path_kind is PathKind.REGEX,
        methods=route.methods,
        headers=route.headers,
        query=route.query,
        filters=_filters(route.filters, services),
    )


def _filters(filters: Filters, services: dict[str, Service]) -> Filters:
    """The services that they name by the names that a plan has for them."""
    if not filters.asked:
        return filters
    auth, mirror = filters.forward_auth, filters.mirror
    if auth is not None:
        auth = replace(auth, service=_key_of(auth.service, auth.port, services))
    if mirror is not None:
        mirror = replace(mirror, service=_key_of(mirror.service, mirror.port, services))
    return replace(filters, forward_auth=auth, mirror=mirror)


def _target(backend: RouteBackend, services: dict[str, Service]) -> Target:
    edits = (backend.request_headers, backend.response_headers)
    key = _key_of(backend.service, backend.port, services)
    return Target(key, backend.weight, *edits)


def _key_of(name: str, number: int | None, services: dict[str, Service]) -> str:
    """The name of a TCP port of a service, its first one for None; "": it is not there."""
    service = services.get(name)
    if service is None:
        return ""
    ports = (port for port in service.ports if port.protocol is Protocol.TCP)
    port = next((port for port in ports if number in {None, port.port}), None)
    return service_key(service, port) if port else ""
