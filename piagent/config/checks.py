"""What the tables of a file must be to each other: names, references, addresses.

A check skips blank values: they have been reported when they were read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from piagent.config.addresses import check_addresses
from piagent.config.asked import asked_by, check_asked
from piagent.config.bgp import check_bgp
from piagent.config.build import port_name
from piagent.config.entry import check_entry
from piagent.config.filters import check_filters, needs_no_backend
from piagent.config.forwarding import check_forwarding, check_shared
from piagent.config.health import check_health
from piagent.config.names import check_dns
from piagent.config.predicates import check_predicates, check_spelling
from piagent.config.problems import did_you_mean, elements, key_path, unique
from piagent.config.proxying import (
    OF_CONNECTIONS,
    OF_LISTENERS,
    check_hashed,
    check_own_sources,
    check_proxying,
    check_route_to,
    refuse,
)
from piagent.core.model import (
    NODE_PORTS,
    PoolType,
    Protocol,
    ServiceType,
    TrafficPolicy,
    host_port,
)
from piagent.core.plan import EVERYWHERE, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from piagent.config.filter_schema import ForwardAuth, Mirror
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import (
        Admin,
        DefaultBackend,
        File,
        Gateway,
        Mqtt,
        Route,
        RouteBackend,
        Service,
        ServicePort,
    )

HOSTS_MAX: Final = 64
"""Of one of a gateway's ports."""
BROKER_COUNTS: Final = (1, 3, 5)
TARGETS_MAX: Final = 16
"""Backends of one route, as in the Gateway API."""


def check(file: File, report: Report) -> None:
    """Check a whole file."""
    for kind in ("pool", "service", "gateway", "route"):
        unique(report, (((kind, i, "name"), t.name) for i, t in enumerate(getattr(file, kind))))
    unique(report, elements(("election", "candidates"), file.election.candidates))
    _check_brokers(file.mqtt, report)
    _check_secrecy(file, report)
    _check_tls(file.mqtt, report)
    check_addresses(file, report)
    for i, service in enumerate(file.service):
        check_service(service, ("service", i), report)
        check_policy(service, ("service", i), file.election.candidates, report)
    check_shared(file, report)
    unique(report, _listeners(file), "another port or address")
    _check_everywhere(file, report)
    _check_admin(file.admin, report)
    check_own_sources(file, report)
    check_dns(file, report)
    check_bgp(file, report)
    services = {service.name: service for service in file.service}
    gateways = {gateway.name: gateway for gateway in file.gateway}
    for i, gateway in enumerate(file.gateway):
        check_gateway(gateway, ("gateway", i), report)
        check_entry(gateway, ("gateway", i), report)
        if gateway.default_backend is not None:
            place = ("gateway", i, "default_backend")
            _check_backend(gateway.default_backend, services, place, report)
    for i, route in enumerate(file.route):
        check_route(route, ("route", i), report)
        _refers(("route", i, "gateway"), route.gateway, gateways, report)
        if route.gateway in gateways:
            check_spelling(route, gateways[route.gateway], ("route", i), report)
        for j, backend in enumerate(route.backends):
            _check_backend(backend, services, ("route", i, "backends", j), report)
            if route.hash_on is not None and backend.service in services:
                check_hashed(services[backend.service], ("route", i, "hash_on"), report)
        for where, asked in asked_by(route, ("route", i)):
            _check_backend(asked, services, where, report)
            check_asked(asked, services.get(asked.service), where, report)
    _check_uses(file, report)


def _check_brokers(mqtt: Mqtt, report: Report) -> None:
    path = ("mqtt", "brokers")
    brokers = [broker for broker in mqtt.brokers if broker is not None]
    if mqtt.brokers and len(mqtt.brokers) not in BROKER_COUNTS:
        what = f"{len(mqtt.brokers)} brokers: decisions take a majority of 1, 3 or 5"
        report.error(path, what, "add or remove one" if len(mqtt.brokers) < 6 else "keep 5")
    places = (host_port(b.host, b.port) if b else "" for b in mqtt.brokers)
    unique(report, elements(path, places), "each broker counts once")
    if mqtt.password_file is not None and not any(broker.username for broker in brokers):
        what = "no broker has a user that the password could belong to"
        report.error(("mqtt", "password_file"), what, 'write "mqtt://user@host", or leave it out')
    if len(mqtt.brokers) == 1 and brokers and (_is_here(brokers[0].host) or mqtt.embedded):
        what = "the only broker is on this host: when it dies, no VIP finds a new owner"
        report.warn(path, what, "three brokers on three hosts survive the loss of one")


def _check_tls(mqtt: Mqtt, report: Report) -> None:
    brokers = [broker for broker in mqtt.brokers if broker is not None]
    for key in ("ca_file", "cert_file", "key_file"):
        if getattr(mqtt, key) is not None and mqtt.brokers and not any(b.tls for b in brokers):
            what = "no broker is reached by TLS"
            report.error(("mqtt", key), what, 'write "mqtts://host", or leave it out')
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if getattr(mqtt, one) is not None and getattr(mqtt, other) is None:
            report.error(("mqtt", one), f"needs {other}, too", f'write {other} = "…"')
    plain = [b.host for b in brokers if b.username and not b.tls and not _is_here(b.host)]
    if mqtt.password_file is not None and plain:
        what = f"it goes to {', '.join(plain)} unencrypted: who listens on the network has it"
        report.warn(("mqtt", "password_file"), what, 'write "mqtts://user@host"')


def _check_secrecy(file: File, report: Report) -> None:
    if file.cluster.secret_file is not None:
        return
    path = ("cluster", "secret_file")
    report.warn(path, "there is none: messages are not authenticated", "only for trying it out")
    places = [*elements(("mqtt", "brokers"), (b and b.host for b in file.mqtt.brokers))]
    if file.mqtt.embedded is not None:
        places.append((("mqtt", "embedded"), file.mqtt.embedded.address))
    for place, host in places:
        if host and not _is_127(str(host)):
            what = f"{host} is not in 127.0.0.0/8 and the cluster has no secret"
            report.error(place, what, "give [cluster] a secret_file, the same for every node")


def _is_here(host: str) -> bool:
    return _is_127(host) or host in {"::1", "localhost"}


def _is_127(host: str) -> bool:
    return re.fullmatch(r"127(\.[0-9]+){3}", host) is not None


def check_service(service: Service, path: KeyPath, report: Report) -> None:
    """Check a service for itself; what it is to others and to pools is checked elsewhere."""
    if service.type is ServiceType.EXTERNAL:
        _check_external(service, path, report)
        return
    if service.external_name is not None:
        report.error((*path, "external_name"), "is for external services",
                     'write type = "external", or leave it out')  # fmt: skip
    if not service.ports:
        report.error((*path, "ports"), "is missing", "write ports = [{ port = 80 }]")
    own = service.address or service.pool
    if service.headless and (service.type is not ServiceType.CLUSTER or own):
        what = "a headless service is a cluster service without an address"
        report.error((*path, "headless"), what, "leave it out")
    _check_ports(service, path, report)
    backends = list(enumerate(service.backends))
    unique(report, (((*path, "backends", i), backend.address) for i, backend in backends))
    if not backends:
        report.warn(path, "has no backends: it serves nothing", 'write backends = ["address"]')
    loops = [port.port for port in service.ports if port.target_port in {None, port.port}]
    for i, backend in backends:
        if backend.address and backend.address in service.address and loops:
            what = f"port {loops[0]} would send its connections to itself"
            report.error((*path, "backends", i), what, "name the host behind the VIP")
    check_health(service, path, report)
    check_proxying(service, path, report)
    check_forwarding(service, path, report)


def _check_external(service: Service, path: KeyPath, report: Report) -> None:
    if service.external_name is None:
        what = "an external service stands for a name"
        report.error((*path, "external_name"), what, 'write external_name = "db.example.com"')
    keys = ("address", "pool", "ports", "backends", "health", "headless")
    refuse(service, keys, path, "an external service has none", report)
    what = "nothing of an external service goes through a node"
    of_traffic = (*OF_LISTENERS, *OF_CONNECTIONS, "mode", "encapsulation")
    refuse(service, of_traffic, path, what, report)


def _check_ports(service: Service, path: KeyPath, report: Report) -> None:
    ports = list(enumerate(service.ports))
    unique(report, (((*path, "ports", i, "port"), _number(port)) for i, port in ports))
    once = {_number(port): (i, port) for i, port in reversed(ports)}.values()
    names = sorted(((*path, "ports", i, "name"), _name(port)) for i, port in once)
    unique(report, names)
    if service.type is ServiceType.NODE_PORT and not service.node_ports:
        what = "a node-port service without node ports"
        report.error((*path, "node_ports"), what, 'leave it out, or write type = "cluster"')
    for i, port in ports:
        place = (*path, "ports", i, "node_port")
        if not port.node_port:
            continue
        if service.type is ServiceType.CLUSTER:
            cure = 'write type = "node-port" or "load-balancer", or leave it out'
            report.error(place, "a cluster service has no node port", cure)
        elif service.type is ServiceType.LOAD_BALANCER and not service.node_ports:
            report.error(place, "with node_ports = false there is none", "leave one of the two out")
        elif port.node_port not in NODE_PORTS:
            what = f"{port.node_port} is not between {NODE_PORTS[0]} and {NODE_PORTS[-1]}"
            report.error(place, what, "leave it out: one is assigned")


def _name(port: ServicePort) -> str:
    return port_name(port) if port.name is None else port.name


def _number(port: ServicePort) -> str:
    return f"{port.port}/{port.protocol}" if port.port else ""


def check_policy(
    service: Service, path: KeyPath, candidates: tuple[str, ...], report: Report
) -> None:
    """Check what a VIP's owner needs when it serves from its own backends only."""
    if service.traffic_policy is not TrafficPolicy.LOCAL:
        return
    backends = list(enumerate(service.backends))
    if service.type in {ServiceType.CLUSTER, ServiceType.EXTERNAL}:
        kind = f'type = "{service.type}"'
        what = f'"local" is about traffic from outside, and none comes to a service with {kind}'
        cure = 'write type = "load-balancer", or leave it out'
        report.error((*path, "traffic_policy"), what, cure)
    elif backends and all(backend.node is None for _, backend in backends):
        what = '"local", and no backend says which node it runs on: none would get a connection'
        cure = 'write backends = [{ address = "192.168.1.21", node = "pi-1" }]'
        report.error((*path, "traffic_policy"), what, cure)
    else:
        owners = candidates if service.type is ServiceType.LOAD_BALANCER else ()
        for i, backend in backends:
            place = (*path, "backends", i)
            if backend.node is None:
                what = 'has no node: with traffic_policy = "local" it gets no connection'
                report.warn(place, what, 'write node = "pi-1"')
            elif backend.node and owners and all(owners) and backend.node not in owners:
                what = f'"{backend.node}" is no candidate, so it gets no connection'
                report.warn((*place, "node"), what, did_you_mean(backend.node, owners))


def _listeners(file: File) -> Iterator[tuple[KeyPath, str]]:
    """Yield each port that this node would listen on: "address:port", "address:port/udp"."""
    for i, service in enumerate(file.service):
        ports = {_number(port): (j, port) for j, port in reversed([*enumerate(service.ports)])}
        for j, port in sorted(ports.values(), key=lambda found: found[0]):
            udp = "/udp" if port.protocol is Protocol.UDP else ""
            for address in filter(None, service.address if port.port else ()):
                yield ("service", i, "ports", j), host_port(address, port.port) + udp
            if port.node_port:
                yield ("service", i, "ports", j, "node_port"), f"*:{port.node_port}{udp}"
    for i, gateway in enumerate(file.gateway):
        for j, one in enumerate(gateway.listen):
            for address in filter(None, gateway.address if one.port else ()):
                yield ("gateway", i, "listen", j), host_port(address, one.port)
    if file.mqtt.embedded:
        yield ("mqtt", "embedded"), host_port(file.mqtt.embedded.address, file.mqtt.embedded.port)
    if file.admin.listen:
        yield ("admin", "listen"), host_port(file.admin.listen.address, file.admin.listen.port)
    if file.dns and file.dns.listen:
        place = host_port(file.dns.listen.address, file.dns.listen.port)
        yield ("dns", "listen"), place
        yield ("dns", "listen"), f"{place}/udp"


def _check_everywhere(file: File, report: Report) -> None:
    """Check what listens on every address (`::`: IPv4's, too) against the others."""
    for own, listen in (
        (("mqtt", "embedded"), file.mqtt.embedded),
        (("admin", "listen"), file.admin.listen),
    ):
        if listen is None:
            continue
        for path, place in _listeners(file):
            address, _, port = place.rpartition(":")
            taken = address == "*" or _covers(listen.address, address)
            same = place == host_port(listen.address, listen.port)  # has been reported
            if path != own and taken and not same and port == str(listen.port):
                what = f"port {listen.port} on every address is also {key_path(path)}"
                report.error(own, what, "another port, or one address")


def _covers(everywhere: str, address: str) -> bool:
    """Tell whether who listens on `0.0.0.0` or `::` (IPv4, too) takes what comes to an address."""
    return everywhere == "::" or (everywhere in EVERYWHERE and ":" not in address)


def _check_admin(admin: Admin, report: Report) -> None:
    path = ("admin", "listen")
    if admin.listen is None:
        if admin.token_file is not None:
            what = "nobody asks for the token: the API is not served by TCP"
            report.error(("admin", "token_file"), what, 'write listen = "127.0.0.1:9180"')
    elif not is_loopback(admin.listen.address):
        if admin.token_file is None:
            what = f"{admin.listen.address} is not only for this host, and there is no token"
            cure = 'write token_file = "admin.token", or listen = "127.0.0.1:9180"'
            report.error(path, what, cure)
        else:
            what = "the token goes over the network unencrypted: who listens there has it"
            report.warn(path, what, "only on a network that you trust; else 127.0.0.1 and ssh -L")


def check_route(route: Route, path: KeyPath, report: Report) -> None:
    """Check a route for itself."""
    unique(report, elements((*path, "hosts"), route.hosts), "once is enough")
    check_predicates(route, path, report)
    check_filters(route, path, report)
    if not route.backends and not needs_no_backend(route):
        what = "has no backend: its requests are answered with 500"
        report.warn(path, what, 'write backends = [{ service = "…" }]')
    elif route.backends and all(backend.weight == 0 for backend in route.backends):
        what = "no backend has a weight above 0: its requests are answered with 500"
        report.warn((*path, "backends"), what, "write weight = 1 for one of them")
    if len(route.backends) > TARGETS_MAX:
        what = f"{len(route.backends)} backends, {TARGETS_MAX} at most"
        report.error((*path, "backends"), what, "one service with several of the addresses")
    if route.retries is not None:
        unique(report, elements((*path, "retries", "on"), map(str, route.retries.on)), "once")
    if route.sticky is not None and route.sticky.ttl % 1000:
        report.error((*path, "sticky", "ttl"), "cookies count whole seconds", 'write "1s"')
    places = (f"{one.service}:{one.port or 'its first port'}" for one in route.backends)
    unique(report, elements((*path, "backends"), places), "one backend with both weights")


def check_gateway(gateway: Gateway, path: KeyPath, report: Report) -> None:
    """Check a gateway for itself."""
    for i, one in enumerate(gateway.listen):
        place = (*path, "listen", i, "hosts")
        unique(report, elements(place, one.hosts), "once is enough")
        if len(one.hosts) > HOSTS_MAX:
            report.error(place, f"{len(one.hosts)} hosts, {HOSTS_MAX} at most", "leave hosts out")


def _check_backend(
    backend: RouteBackend | DefaultBackend | ForwardAuth | Mirror,
    services: Mapping[str, Service],
    path: KeyPath,
    report: Report,
) -> None:
    """Check that requests can go there."""
    _refers((*path, "service"), backend.service, services, report)
    service = services.get(backend.service) if backend.service else None
    if service is None:
        return
    if service.type is ServiceType.EXTERNAL:
        what = f'"{backend.service}" is external: it has no backends to send requests to'
        report.error((*path, "service"), what, "a service with its addresses as backends")
    check_route_to(service, (*path, "service"), report)
    ports = [port.port for port in service.ports if port.protocol is not Protocol.UDP]
    if service.ports and not ports:
        what = f'service "{backend.service}" has no TCP port, and requests come by TCP'
        report.error((*path, "service"), what, "a service with a TCP port")
    elif backend.port and ports and all(ports) and backend.port not in ports:
        what = f'service "{backend.service}" has no port {backend.port}'
        cure = f"its TCP ports: {', '.join(map(str, ports))}"
        report.error((*path, "port"), what, cure)


def _refers(path: KeyPath, name: str, names: Mapping[str, object], report: Report) -> None:
    if name and name not in names and all(names):
        report.error(path, f'there is no {path[-1]} "{name}"', did_you_mean(name, names))


def _check_uses(file: File, report: Report) -> None:
    routed = {route.gateway for route in file.route}
    for i, gateway in enumerate(file.gateway):
        if gateway.name and gateway.name not in routed and gateway.default_backend is None:
            what = "has no routes: it answers every request with 404"
            report.warn(("gateway", i), what, f'write [[route]] with gateway = "{gateway.name}"')
    inside = any(pool.type is PoolType.CLUSTER for pool in file.pool)
    outside = {ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER}
    if not file.gateway and not any(
        service.type in outside or service.address or (inside and service.ports)
        for service in file.service
    ):
        what = "no service has an address or a node port: this node listens on nothing"
        report.warn((), what, "write a [[service]] or a [[gateway]]")
