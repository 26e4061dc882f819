"""Health checks: what is asked of which backend."""

from __future__ import annotations

from msgspec import Struct

from piagent.core.model import Backend, HealthCheck, Service, checked_port


class Question(Struct, frozen=True):
    """What one check asks."""

    service: str
    backend: str
    """Its id within the service."""
    address: str
    port: int
    """0: the service has no port that this kind of check could ask."""
    check: HealthCheck


def question(service: Service, check: HealthCheck, backend: Backend) -> Question:
    """What is asked of a backend of the service."""
    port = checked_port(service, check, backend)
    return Question(service.name, backend.id, backend.address, port, check)
