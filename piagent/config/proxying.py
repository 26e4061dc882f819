"""What a service says of its connections: what its keys must be to each other, and the model."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from msgspec.structs import fields

from piagent.config.key_files import STDOUT, log_path
from piagent.config.problems import elements, key_path, unique
from piagent.core.model import HealthKind, Protocol
from piagent.core.plan import is_loopback
from piagent.core.proxying import (
    Affinity,
    Balance,
    Ejection,
    Limits,
    Proxying,
    Timeouts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from piagent.config import schema
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import File, Service

AFFINITY_MS: Final = 3 * 3_600_000
"""What Kubernetes' ClientIP has."""
SOURCES_MAX: Final = 16

OF_LISTENERS: Final = (
    "allowed_sources", "trusted_proxies", "proxy_protocol", "limits", "access_log",
)  # fmt: skip
"""About who connects to the service itself: requests that a gateway brings do not."""
OF_CONNECTIONS: Final = (
    "balance", "affinity", "affinity_timeout", "source_addresses", "timeouts", "slow_start",
    "drain_timeout", "ejection",
)  # fmt: skip
"""About connections to the backends."""
OF_TCP: Final = ("trusted_proxies", "proxy_protocol", "timeouts", "access_log")
"""They say nothing of UDP."""


def check_proxying(service: Service, path: KeyPath, report: Report) -> None:
    """Check what one service says of its connections."""
    if service.affinity is Affinity.NONE and service.affinity_timeout is not None:
        what = "no client stays with its backend, so nothing ends"
        cure = 'write affinity = "client-ip", or leave it out'
        report.error((*path, "affinity_timeout"), what, cure)
    if service.affinity is Affinity.CLIENT_IP and service.balance not in {"", Balance.MAGLEV}:
        what = 'with affinity = "client-ip" it is the hash of the client\'s address that chooses'
        report.warn((*path, "balance"), what, "leave one of the two out")
    for key in ("allowed_sources", "trusted_proxies", "source_addresses"):
        unique(report, elements((*path, key), getattr(service, key)), "once is enough")
    if service.headless:
        what = "clients of a headless service connect to its backends themselves"
        refuse(service, OF_LISTENERS, path, what, report)
    _check_udp(service, path, report)
    _check_limits(service, path, report)
    _check_sources(service, path, report)


def refuse(
    service: Service,
    keys: Sequence[str],
    path: KeyPath,
    what: str,
    report: Report,
    *,
    cure: str = "leave it out",
) -> None:
    """Report those of the keys that are not as they are when they are left out."""
    defaults = {field.name: field.default for field in fields(service)}
    for key in keys:
        value = getattr(service, key)
        if value and value != defaults[key]:
            report.error((*path, key), what, cure)


def _check_udp(service: Service, path: KeyPath, report: Report) -> None:
    if not service.ports or any(port.protocol is not Protocol.UDP for port in service.ports):
        return
    what = "is about TCP connections, and no port of the service is TCP"
    refuse(service, OF_TCP, path, what, report)
    if service.limits is not None and service.limits.accept_rate is not None:
        report.error((*path, "limits", "accept_rate"), what, "leave it out")


def _check_limits(service: Service, path: KeyPath, report: Report) -> None:
    limits = service.limits
    if limits is None or not limits.connections or not limits.connections_per_source:
        return
    if limits.connections_per_source > limits.connections:
        what = f"one client would have more than the {limits.connections} of all together"
        report.warn((*path, "limits", "connections_per_source"), what, "a lower one")


def _check_sources(service: Service, path: KeyPath, report: Report) -> None:
    place = (*path, "source_addresses")
    sources = [source for source in service.source_addresses if source]
    if len(sources) > SOURCES_MAX:
        what = f"{len(sources)} addresses: at most {SOURCES_MAX}"
        report.error(place, what, "each is good for 28000 connections to each backend")
    for backend in filter(None, (backend.address for backend in service.backends)):
        version = ip_address(backend).version
        fit = [source for source in sources if ip_address(source).version == version]
        if sources and not fit:
            what = f"none is IPv{version}, as backend {backend} is: the kernel will choose"
            report.warn(place, what, f"add an IPv{version} address of this node")
            return
        if fit and not is_loopback(backend) and all(map(is_loopback, fit)):
            what = f"backend {backend} cannot answer to {fit[0]}, an address that every host has"
            report.error(place, what, "an address of this node's interface")
            return


def check_own_sources(file: File, report: Report) -> None:
    """Check that connections to backends come from addresses that stay at this node."""
    for i, service in enumerate(file.service):
        for j, source in enumerate(service.source_addresses):
            path = ("service", i, "source_addresses", j)
            for place in _owners(file, source):
                what = f"{source} is of {place}, so other nodes may have it as well"
                report.error(path, what, "an address that only this node has")
                break


def _owners(file: File, address: str) -> Iterator[str]:
    for kind in ("service", "gateway"):
        for i, table in enumerate(getattr(file, kind)):
            if address and address in table.address:
                yield key_path((kind, i))
    for pool in file.pool:
        if address and any(span and span.holds(address) for span in pool.addresses):
            yield f'pool "{pool.name}"'


def check_route_to(service: Service, place: KeyPath, report: Report) -> None:
    """Check what a route leads to: not all that is said of clients' connections counts there."""
    limits = ("connections_per_source", "accept_rate")
    uncounted = [f"limits.{key}" for key in limits if getattr(service.limits, key, None)]
    for key in ("allowed_sources", *uncounted) if service.allowed_sources else uncounted:
        what = f'{key} of "{service.name}" does not count for what comes through a gateway'
        report.warn(place, what, "a service of its own for the route says so more clearly")


def check_hashed(service: Service, place: KeyPath, report: Report) -> None:
    """Check that a hash of what a route names chooses among this service's backends."""
    if service.balance not in {"", Balance.MAGLEV}:
        what = f'balance = "{service.balance}" of "{service.name}" looks at no hash'
        report.error(place, what, 'write balance = "maglev" there, or leave hash_on out')
    elif service.affinity is Affinity.CLIENT_IP:
        what = f'"{service.name}" goes by the client\'s address: affinity = "client-ip"'
        report.error(place, what, "leave one of the two out")


def check_applied(service: Service, path: KeyPath, report: Report) -> None:
    """Check that what is applied, which counts on every node, takes nothing that is a node's."""
    if service.access_log not in {None, "", STDOUT}:
        what = "who may apply services may not write to files of every node"
        report.error((*path, "access_log"), what, 'write "-", or keep it in the nodes\' files')
    if service.source_addresses:
        what = "each node has addresses of its own"
        report.error((*path, "source_addresses"), what, "keep the service in the nodes' files")
    if service.health is not None and service.health.kind is HealthKind.EXEC:
        what = "who may apply services may not run programs on every node"
        report.error((*path, "health", "kind"), what, "keep the service in the nodes' files")


def build_proxying(service: Service, folder: Path | None) -> Proxying:
    """What becomes of its connections; `folder`: what the log's path is relative to."""
    timeout = AFFINITY_MS if service.affinity_timeout is None else service.affinity_timeout
    return Proxying(
        balance=service.balance,
        affinity_ms=timeout if service.affinity is Affinity.CLIENT_IP else None,
        allowed=service.allowed_sources,
        trusted=service.trusted_proxies,
        header=service.proxy_protocol,
        sources=service.source_addresses,
        limits=_limits(service.limits),
        timeouts=Timeouts(connect_ms=service.timeouts.connect, idle_ms=service.timeouts.idle),
        slow_start_ms=service.slow_start,
        drain_ms=service.drain_timeout,
        ejection=_ejection(service.ejection),
        access_log=log_path(service.access_log, folder),
    )


def _limits(limits: schema.Limits | None) -> Limits:
    if limits is None:
        return Limits()
    return Limits(
        connections=limits.connections or 0,
        connections_per_source=limits.connections_per_source or 0,
        accept_rate=limits.accept_rate or 0,
    )


def _ejection(ejection: schema.Ejection | None) -> Ejection | None:
    if ejection is None:
        return None
    return Ejection(failures=ejection.failures, time_ms=ejection.time)
