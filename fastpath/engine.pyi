"""The engine's face to Python. Everything below it runs without the interpreter."""

from typing import Any, NamedTuple

class Backend(NamedTuple):
    """A place to connect to."""

    name: str
    """Stable name: Maglev hashes it, counters are kept by it."""
    address: str
    port: int
    weight: int
    up: bool

class Service(NamedTuple):
    """A balanced set of backends."""

    name: str
    backends: tuple[Backend, ...]
    connect_timeout_ms: int = 3000
    idle_timeout_ms: int = 3_600_000

class Route(NamedTuple):
    """One entry of a gateway's table; the first that matches wins."""

    name: str
    host: str
    path: str
    exact: bool
    service: str
    request_timeout_ms: int
    backend_timeout_ms: int

class Gateway(NamedTuple):
    """An HTTP router."""

    name: str
    any_depth: bool
    """Whether `*` in a host stands for one label or for one and more."""
    routes: tuple[Route, ...]
    header_timeout_ms: int = 10_000
    body_idle_timeout_ms: int = 60_000
    keepalive_timeout_ms: int = 75_000
    tunnel_idle_timeout_ms: int = 3_600_000

class Listener(NamedTuple):
    """A port to accept on. Its identity is (address, port): a kept one is never closed."""

    address: str
    port: int
    target: str
    http: bool

class Tables(NamedTuple):
    """Everything the workers need to know."""

    listeners: tuple[Listener, ...]
    services: tuple[Service, ...]
    gateways: tuple[Gateway, ...]

class Engine:
    """Worker threads and the tables they work by."""

    def __init__(
        self, *, workers: int = 1, connections: int = 16384, hash_key: bytes = ...
    ) -> None:
        """Set aside memory for `connections` in all; `hash_key`: the 16 bytes of the flow hash."""

    def start(self) -> None:
        """Start the workers."""

    def publish(self, tables: Tables) -> int:
        """Swap in new tables in one step and return their generation.

        Raises OSError with the address in `filename` when a listener cannot be bound, ValueError
        for tables that contradict themselves; nothing has changed then.
        """

    def drain(self) -> None:
        """Close the listeners; HTTP connections end with the exchange under way."""

    def active(self) -> int:
        """Client connections open now."""

    def turns(self) -> list[int]:
        """How often each worker has turned; a stuck worker's number stands still under work."""

    def stats(self) -> dict[str, Any]:
        """Counters, summed over the workers."""

    def stop(self) -> None:
        """End the workers and free everything; the engine cannot be started again."""
