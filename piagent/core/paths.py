"""How frames get from this host to a backend: through which interface, to whose hardware."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from piagent.core.forwarding import Forwarding, Mode


class PathReason(StrEnum):
    """Whether packets can be forwarded to a backend from here, or why not."""

    RESOLVED = "resolved"
    HERE = "here"
    """The backend is this host: its own stack gets the packets."""
    UNRESOLVED = "unresolved"
    """Nobody has asked for its hardware address: the kernel did not let us."""
    RESOLVING = "resolving"
    """It was asked for, and the answer is still out."""
    FAILED = "failed"
    """Nobody answers; it is asked for again and again."""
    OFF_LINK = "off-link"
    """It is behind a router, and packets are to get there as they are."""
    NO_ROUTE = "no-route"
    NOT_ETHERNET = "not-ethernet"
    """The route leads through an interface without hardware addresses, a tunnel."""


class Path(Struct, frozen=True, kw_only=True):
    """The way to one backend, as the kernel would go it now."""

    backend: str
    """Its address."""
    reason: PathReason
    interface: int = 0
    """Its index; 0: there is none."""
    gateway: str | None = None
    """The router whose `mac` it is; None: the backend's own."""
    mac: bytes = b""
    own_mac: bytes = b""
    """The interface's."""
    source: str = ""
    """The address that this host would send from."""
    mtu: int = 0
    """The longest IP packet on the way, as far as this host knows."""

    def fitness(self, how: Forwarding) -> PathReason:
        """Whether packets that are forwarded in this way get there."""
        as_they_are = how.mode is Mode.DSR and how.encapsulation is None
        return PathReason.OFF_LINK if as_they_are and self.gateway is not None else self.reason
