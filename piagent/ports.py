"""The edge as the agent sees it: what an adapter has to offer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from msgspec import Struct

from piagent.core.model import Backend, HealthCheck
from piagent.core.plan import Plan


class Clock(Protocol):
    """The lease clock."""

    def now_ns(self) -> int:
        """CLOCK_BOOTTIME in nanoseconds: it counts suspend and is never set."""
        ...


class Subscribed(Struct, frozen=True):
    """A fresh connection is up and the broker confirmed its subscriptions (SUBACK)."""

    broker: str
    connection: str
    """The client id of this connection."""


class Disconnected(Struct, frozen=True):
    """The connection is gone, or an attempt failed."""

    broker: str
    reason: str


class Received(Struct, frozen=True):
    """A message as it came; nothing is checked yet."""

    broker: str
    connection: str
    topic: str
    payload: bytes
    retain: bool


BusEvent = Subscribed | Disconnected | Received


class Bus(Protocol):
    """A separate connection to each broker, each with its own back-off."""

    async def run(self, deliver: Callable[[BusEvent], None]) -> None:
        """Connect, and connect again, until cancelled; `deliver` is called in the event loop."""
        ...

    def publish(self, broker: str, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send at QoS 1 now, or not at all: False when that connection is not up."""
        ...

    def close(self, broker: str, reason: str) -> None:
        """Drop the connection; a fresh one follows."""
        ...


class AddressError(Exception):
    """An address could not be configured; the text names the interface and the cure."""


class Addresses(Protocol):
    """VIPs on this host's interface."""

    async def add(self, address: str, valid_ms: int) -> None:
        """Configure the address, or renew it; the kernel removes it in `valid_ms` or earlier.

        Raises AddressError: no such interface, interface down, not allowed, or the address was
        configured by somebody else.
        """
        ...

    async def renew(self, addresses: Collection[str], valid_ms: int) -> None:
        """The same for addresses that are configured, all of them in one go."""
        ...

    async def remove(self, address: str) -> bool:
        """Remove the address; True when the kernel confirms that it is not there (any more)."""
        ...

    async def announce(self, address: str) -> None:
        """Tell the LAN: gratuitous ARP (request, reply) or unsolicited neighbour advertisements.

        Raises AddressError: the address is not there, or sending is not allowed.
        """
        ...


class ProbeResult(Struct, frozen=True):
    """The outcome of one health check."""

    good: bool
    reason: str
    """Why, in words for people: "connected", "refused", "status 503", "timeout" …"""


class Prober(Protocol):
    """Health checks."""

    async def probe(self, backend: Backend, port: int, check: HealthCheck) -> ProbeResult:
        """Check once; never raises for what a backend does, never takes longer than its timeout."""
        ...


class DataPlane(Protocol):
    """The engine."""

    def apply(self, plan: Plan) -> None:
        """Make the plan true in one step, or raise OSError (a port in use) and change nothing."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters since the start, as `fastpath.engine.Engine.stats` gives them."""
        ...

    async def drain(self, timeout_ms: int) -> int:
        """Accept nothing new, wait for what is under way; the number of connections still open."""
        ...

    def stop(self) -> None:
        """End the workers."""
        ...
