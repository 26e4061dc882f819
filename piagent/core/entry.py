"""What a gateway lets in and whom it believes (docs/reference/http.md)."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Underscores(StrEnum):
    """What becomes of header fields whose names have an underscore."""

    DROP = "drop"
    KEEP = "keep"
    """But for those that would be the gateway's own with a dash."""
    REJECT = "reject"


class LogFormat(StrEnum):
    """How a line of a gateway's access log is written."""

    JSON = "json"
    COMBINED = "combined"


class Entry(Struct, frozen=True, kw_only=True):
    """The limits of a gateway, and its trust."""

    trusted: tuple[str, ...] = ()
    """CIDR prefixes of proxies that may say who asks."""
    underscores: Underscores = Underscores.DROP
    head_size: int = 16384
    fields: int = 100
    target_size: int = 8192
    body_size: int = 0
    """0: no limit; the same for those that follow."""
    connections: int = 0
    connections_per_source: int = 0
    header_ms: int = 10_000
    """For a request's head, from its first byte on."""
    idle_ms: int = 75_000
    """Between requests."""
    access_log: str | None = None
    """"-" or a path: a line for each request; None: there is none."""
    log_format: LogFormat = LogFormat.JSON
