"""Everything a node believes -> what it listens on, and where that traffic goes."""

from __future__ import annotations

from msgspec import Struct

from piagent.core.model import Wildcard


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


class PlannedRoute(Struct, frozen=True):
    """One entry of a gateway's match table; entries are in order of precedence."""

    name: str
    host: str
    """"" any host, "a.b" exact, "*.b" wildcard; lower case."""
    path: str
    exact: bool
    service: str
    """A PlannedService's name; "": no backend, answered with 500."""
    request_timeout_ms: int
    backend_timeout_ms: int


class PlannedGateway(Struct, frozen=True):
    """The HTTP router behind some listeners."""

    name: str
    wildcard: Wildcard
    routes: tuple[PlannedRoute, ...]


class PlannedListener(Struct, frozen=True):
    """A TCP port to accept connections on."""

    address: str
    port: int
    target: str
    """The name of a PlannedGateway when `http`, else of a PlannedService."""
    http: bool


class Plan(Struct, frozen=True):
    """What the engine is to do."""

    listeners: tuple[PlannedListener, ...]
    services: tuple[PlannedService, ...]
    gateways: tuple[PlannedGateway, ...]
