"""What the tables of a file must be to each other: names, references, addresses.

A check skips blank values: they have been reported when they were read.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from piagent.config.problems import did_you_mean, key_path
from piagent.core.model import HealthKind, ServiceType, TrafficPolicy
from piagent.core.plan import host_port, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import File, Mqtt, Route, Service

BROKER_COUNTS: Final = (1, 3, 5)
EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 -- compared with, not bound to


def check(file: File, report: Report) -> None:
    """Check a whole file."""
    for kind in ("pool", "service", "gateway", "route"):
        _unique(report, (((kind, i, "name"), t.name) for i, t in enumerate(getattr(file, kind))))
    _unique(report, _elements(("election", "candidates"), file.election.candidates))
    _check_brokers(file.mqtt, report)
    _check_secrecy(file, report)
    _check_tls(file.mqtt, report)
    _check_pools(file, report)
    for i, service in enumerate(file.service):
        _check_service(service, ("service", i), report)
        _check_policy(service, ("service", i), file.election.candidates, report)
    for path, address in vips(file):
        _check_vip(path, address, file, report)
    _unique(report, _listeners(file), "another port or address")
    _check_embedded(file, report)
    for i, route in enumerate(file.route):
        _check_route(route, file, ("route", i), report)
    _check_uses(file, report)


def _elements(path: KeyPath, values: Iterable[object]) -> Iterator[tuple[KeyPath, object]]:
    return (((*path, i), value) for i, value in enumerate(values))


def _unique(
    report: Report, values: Iterable[tuple[KeyPath, object]], cure: str = "one of them must change"
) -> None:
    first: dict[object, KeyPath] = {}
    for path, value in values:
        if value and value in first:
            report.error(path, f'"{value}" is already taken by {key_path(first[value])}', cure)
        elif value:
            first[value] = path


def _check_brokers(mqtt: Mqtt, report: Report) -> None:
    path = ("mqtt", "brokers")
    brokers = [broker for broker in mqtt.brokers if broker is not None]
    if mqtt.brokers and len(mqtt.brokers) not in BROKER_COUNTS:
        what = f"{len(mqtt.brokers)} brokers: decisions take a majority of 1, 3 or 5"
        report.error(path, what, "add or remove one" if len(mqtt.brokers) < 6 else "keep 5")
    places = (host_port(b.host, b.port) if b else "" for b in mqtt.brokers)
    _unique(report, _elements(path, places), "each broker counts once")
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
    places = [*_elements(("mqtt", "brokers"), (b and b.host for b in file.mqtt.brokers))]
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


def _check_pools(file: File, report: Report) -> None:
    for i, pool in enumerate(file.pool):
        _unique(report, _elements(("pool", i, "interfaces"), pool.interfaces), "once is enough")
    ranges = [
        (ip_address(one.first).version, int(ip_address(one.first)), int(ip_address(one.last)), path)
        for i, pool in enumerate(file.pool)
        for j, one in enumerate(pool.addresses)
        if one is not None
        for path in [("pool", i, "addresses", j)]
    ]
    ranges.sort()
    reaching: tuple[int, int, KeyPath] | None = None
    for version, first, last, path in ranges:
        if reaching is not None and reaching[0] == version and first <= reaching[1]:
            later, earlier = max(path, reaching[2]), min(path, reaching[2])
            report.error(later, f"overlaps {key_path(earlier)}", "an address is in one pool only")
        if reaching is None or (version, last) > reaching[:2]:
            reaching = (version, last, path)


def vips(file: File) -> Iterator[tuple[KeyPath, str]]:
    """Yield each address of our own, with its place."""
    for kind in ("service", "gateway"):
        for i, table in enumerate(getattr(file, kind)):
            if table.address:
                yield (kind, i, "address"), table.address


def _check_vip(path: KeyPath, address: str, file: File, report: Report) -> None:
    ranges = [one for pool in file.pool for one in pool.addresses]
    if is_loopback(address) or None in ranges or any(one and one.holds(address) for one in ranges):
        return
    if file.pool:
        report.error(path, f"{address} is in no pool", "add it to the addresses of one")
    else:
        cure = f'write [[pool]] with a name and addresses = ["{address}"]'
        report.error(path, f"{address} is in no pool: the file has none", cure)


def _check_service(service: Service, path: KeyPath, report: Report) -> None:
    if service.type is ServiceType.LOAD_BALANCER and service.address is None:
        report.error((*path, "address"), "a load-balancer service needs one", "write its VIP")
    if service.type is ServiceType.CLUSTER and service.address:
        cure = 'write type = "load-balancer", or leave the address out'
        report.error((*path, "address"), "a cluster service has none in this version", cure)
    ports = list(enumerate(service.ports))
    _unique(report, (((*path, "ports", i, "port"), port.port) for i, port in ports))
    _unique(report, (((*path, "ports", i, "name"), port.name) for i, port in ports))
    backends = list(enumerate(service.backends))
    _unique(report, (((*path, "backends", i), backend.address) for i, backend in backends))
    if not backends:
        report.warn(path, "has no backends: it serves nothing", 'write backends = ["address"]')
    loops = [port.port for port in service.ports if port.target_port in {None, port.port}]
    for i, backend in backends:
        if backend.address and backend.address == service.address and loops:
            what = f"port {loops[0]} would send its connections to itself"
            report.error((*path, "backends", i), what, "name the host behind the VIP")
    _check_health(service, path, report)


def _check_policy(
    service: Service, path: KeyPath, candidates: tuple[str, ...], report: Report
) -> None:
    """Check what a VIP's owner needs when it serves from its own backends only."""
    if service.traffic_policy is not TrafficPolicy.LOCAL:
        return
    backends = list(enumerate(service.backends))
    if service.type is ServiceType.CLUSTER:
        what = '"local" is about who may own a VIP, and a cluster service has none'
        cure = 'write type = "load-balancer", or leave it out'
        report.error((*path, "traffic_policy"), what, cure)
    elif backends and all(backend.node is None for _, backend in backends):
        what = '"local", and no backend says which node it runs on: nobody could own the VIP'
        cure = 'write backends = [{ address = "192.168.1.21", node = "pi-1" }]'
        report.error((*path, "traffic_policy"), what, cure)
    else:
        for i, backend in backends:
            place = (*path, "backends", i)
            if backend.node is None:
                what = 'has no node: with traffic_policy = "local" it gets no connection'
                report.warn(place, what, 'write node = "pi-1"')
            elif backend.node and candidates and all(candidates) and backend.node not in candidates:
                what = f'"{backend.node}" is no candidate, so it gets no connection'
                report.warn((*place, "node"), what, did_you_mean(backend.node, candidates))


def _check_health(service: Service, path: KeyPath, report: Report) -> None:
    health = service.health
    if health is None or health.kind is not HealthKind.TCP:
        return
    for key, value in (("path", health.path), ("expect", health.expect)):
        if value:
            what = "a tcp check looks at no answer"
            report.error((*path, "health", key), what, 'write kind = "http", or leave it out')


def _listeners(file: File) -> Iterator[tuple[KeyPath, str]]:
    """Yield each port that this node would listen on as "address:port"."""
    for i, service in enumerate(file.service):
        ports = {port.port: j for j, port in reversed([*enumerate(service.ports)])}
        for port, j in sorted(ports.items()):
            if service.address and port:
                yield ("service", i, "ports", j), host_port(service.address, port)
    for i, gateway in enumerate(file.gateway):
        for j, one in enumerate(gateway.listen):
            if gateway.address and one.port:
                yield ("gateway", i, "listen", j), host_port(gateway.address, one.port)
    if file.mqtt.embedded:
        yield ("mqtt", "embedded"), host_port(file.mqtt.embedded.address, file.mqtt.embedded.port)


def _check_embedded(file: File, report: Report) -> None:
    """Check the broker that listens on every address (`::`: IPv4's, too) against the VIPs."""
    embedded = file.mqtt.embedded
    if embedded is None or embedded.address not in EVERYWHERE:
        return
    for path, place in _listeners(file):
        address, _, port = place.rpartition(":")
        taken = embedded.address == "::" or ":" not in address
        if path != ("mqtt", "embedded") and taken and port == str(embedded.port):
            what = f"port {embedded.port} on every address is also {key_path(path)}"
            report.error(("mqtt", "embedded"), what, "another port, or one address")


def _check_route(route: Route, file: File, path: KeyPath, report: Report) -> None:
    _refers((*path, "gateway"), route.gateway, [one.name for one in file.gateway], report)
    _unique(report, _elements((*path, "hosts"), route.hosts), "once is enough")
    if route.path_prefix is not None and route.path_exact is not None:
        report.error((*path, "path_exact"), "a route has one path, this one also has path_prefix",
                     "leave one out, or write two routes")  # fmt: skip
    if not route.backends:
        what = "has no backend: its requests are answered with 500"
        report.warn(path, what, 'write backends = [{ service = "…" }]')
    if len(route.backends) > 1:
        what = f"{len(route.backends)} backends: several in one route come in a later version"
        report.error((*path, "backends"), what, "one service with all the addresses")
    for i, backend in enumerate(route.backends):
        place = (*path, "backends", i)
        _refers((*place, "service"), backend.service, [s.name for s in file.service], report)
        ports = [p.port for s in file.service if s.name == backend.service for p in s.ports]
        if backend.port and ports and all(ports) and backend.port not in ports:
            what = f'service "{backend.service}" has no port {backend.port}'
            report.error((*place, "port"), what, f"its ports: {', '.join(map(str, ports))}")


def _refers(path: KeyPath, name: str, names: list[str], report: Report) -> None:
    if name and name not in names and all(names):
        report.error(path, f'there is no {path[-1]} "{name}"', did_you_mean(name, names))


def _check_uses(file: File, report: Report) -> None:
    routed = {route.gateway for route in file.route}
    for i, gateway in enumerate(file.gateway):
        if gateway.name and gateway.name not in routed:
            what = "has no routes: it answers every request with 404"
            report.warn(("gateway", i), what, f'write [[route]] with gateway = "{gateway.name}"')
    if not any(vips(file)):
        what = "no load-balancer service and no gateway: this node listens on nothing"
        report.warn((), what, "write a [[service]] or a [[gateway]]")
