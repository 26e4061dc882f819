"""What becomes of a service's connections: who may come, which backend gets them, how they end.

Units are in the names, as in `model`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Balance(StrEnum):
    """Which of the usable backends a connection or UDP session gets."""

    MAGLEV = "maglev"
    """By a hash of the client's address and port that all nodes share."""
    ROUND_ROBIN = "round-robin"
    """In turn, by weight."""
    LEAST_CONNECTIONS = "least-connections"
    """The one with the fewest for its weight."""
    RANDOM_TWO = "random-two"
    """Of two that are drawn by weight the one with fewer."""


class Affinity(StrEnum):
    """Whether what comes from one client goes to one backend."""

    NONE = "none"
    CLIENT_IP = "client-ip"


class ProxyHeader(StrEnum):
    """In which form of the PROXY protocol backends are told who the client is."""

    V1 = "v1"
    V2 = "v2"


NOBODYS_HEADER: Final = {
    None: b"",
    ProxyHeader.V1: b"PROXY UNKNOWN\r\n",
    ProxyHeader.V2: b"\r\n\r\n\0\r\nQUIT\n" + b"\x20\0\0\0",
}
"""What a connection begins with that the proxy makes for itself (PROXY protocol, 2.1 and 2.2)."""


class Limits(Struct, frozen=True, kw_only=True):
    """How much a service takes; 0: no limit of its own."""

    connections: int = 0
    """Open ones at a time."""
    connections_per_source: int = 0
    """The same, of one client address."""
    accept_rate: int = 0
    """New ones a second."""


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long a service waits."""

    connect_ms: int = 3_000
    """For a backend to answer; then the next one is tried."""
    idle_ms: int = 3_600_000
    """For a byte from either side; 0: for ever."""


class Ejection(Struct, frozen=True, kw_only=True):
    """When a backend that connections fail at is passed over, whatever its checks say."""

    failures: int = 5
    """In a row."""
    time_ms: int = 10_000
    """For how long at first."""


class Proxying(Struct, frozen=True, kw_only=True):
    """What becomes of a service's connections."""

    balance: Balance = Balance.MAGLEV
    affinity_ms: int | None = None
    """A client's backend is remembered for so long after its last connection began. 0: not at all,
    the client's address alone decides. None: each connection is chosen for by itself."""
    allowed: tuple[str, ...] = ()
    """CIDRs of the clients that may connect; none: every one."""
    trusted: tuple[str, ...] = ()
    """CIDRs of the proxies that say in a PROXY header who the client is."""
    header: ProxyHeader | None = None
    """What backends are told."""
    sources: tuple[str, ...] = ()
    """Addresses of this node that backends are connected to from; none: the kernel's choice."""
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    slow_start_ms: int = 0
    """A backend that has come back gets its whole share only after so long."""
    drain_ms: int = 600_000
    """How long connections live on at a backend that is to get no more of them."""
    ejection: Ejection | None = Ejection()
    access_log: str | None = None
    """A file that gets a line for each connection; `-`: standard output. None: no lines."""
