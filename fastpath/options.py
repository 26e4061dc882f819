"""What Python tells the engine of what a gateway lets in, and the check that it makes sense."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

UNDERSCORES = ("drop", "keep", "reject")
"""In the order of http/options.pxd's UNDERSCORES_*."""
HEAD_SIZE_MAX = 16384
FIELDS_MAX = 100
TARGET_SIZE_MAX = 8192
"""As in http/http1.pxd."""
_BODY_SIZE_MAX = 1 << 62
_CONNECTIONS_MAX = 1 << 30


class Options(NamedTuple):
    """What a gateway lets in and whom it believes, beside its times."""

    trusted: tuple[str, ...] = ()
    """CIDR prefixes of proxies that may say who asks."""
    underscores: str = "drop"
    """What becomes of fields whose names have an underscore: one of UNDERSCORES."""
    head_size: int = HEAD_SIZE_MAX
    fields: int = FIELDS_MAX
    target_size: int = TARGET_SIZE_MAX
    body_size: int = 0
    """Bytes of a request's body; 0: no limit."""
    connections: int = 0
    connections_per_source: int = 0
    """Open ones at a time, in all and from one client address; 0: no limit of its own."""
    logs: bool = False
    """Whether there is a RequestRecord of each request when it is over."""


def check_options(place: str, options: Options) -> None:
    """Raise ValueError, naming the place, for options that cannot be."""
    for prefix in options.trusted:
        ipaddress.ip_network(prefix)
    if options.underscores not in UNDERSCORES:
        raise ValueError(f"{place}: underscores {options.underscores!r} is none of {UNDERSCORES}")
    for name, least, most in (
        ("head_size", 1, HEAD_SIZE_MAX),
        ("fields", 1, FIELDS_MAX),
        ("target_size", 1, TARGET_SIZE_MAX),
        ("body_size", 0, _BODY_SIZE_MAX),
        ("connections", 0, _CONNECTIONS_MAX),
        ("connections_per_source", 0, _CONNECTIONS_MAX),
    ):
        value = getattr(options, name)
        if not least <= value <= most:
            raise ValueError(f"{place}: {name} {value} is not between {least} and {most}")
