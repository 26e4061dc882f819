"""Health checks: what is asked of which backend."""

from __future__ import annotations

from msgspec import Struct

from piagent.core.model import Backend, HealthCheck, Service, checked_port
from piagent.core.proxying import NOBODYS_HEADER


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


def question(service: Service, check: HealthCheck, backend: Backend) -> Question:
    """What is asked of a backend of the service."""
    port = checked_port(service, check, backend)
    # Another port is another program's, which says nothing of the service's connections.
    preface = NOBODYS_HEADER[service.proxying.header if check.port is None else None]
    return Question(service.name, backend.id, backend.address, port, check, preface)
