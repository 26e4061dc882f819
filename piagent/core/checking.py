"""Health checks: what is asked of which backend."""

from __future__ import annotations

from msgspec import Struct

from piagent.core.model import Backend, HealthCheck, Service, checked_port
from piagent.core.proxying import ProxyHeader


class Question(Struct, frozen=True):
    """What one check asks."""

    service: str
    backend: str
    """Its id within the service."""
    address: str
    port: int
    """0: the service has no port that this kind of check could ask."""
    check: HealthCheck
    preface: bytes = b""
    """What the backend's connections begin with: a PROXY header that names no client."""


PREFACES = {
    None: b"",
    ProxyHeader.V1: b"PROXY UNKNOWN\r\n",
    ProxyHeader.V2: b"\r\n\r\n\0\r\nQUIT\n" + b"\x20\0\0\0",
}
"""The PROXY protocol's own words for a connection of the proxy itself (sections 2.1 and 2.2)."""


def question(service: Service, check: HealthCheck, backend: Backend) -> Question:
    """What is asked of a backend of the service."""
    port = checked_port(service, check, backend)
    # Another port is another program's, which says nothing of the service's connections.
    preface = PREFACES[service.proxying.header if check.port is None else None]
    return Question(service.name, backend.id, backend.address, port, check, preface)
