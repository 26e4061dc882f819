"""What this host gives when the file leaves it out. All that looks at the host is here."""

from __future__ import annotations

import os
import socket

import netifaces
from msgspec import Struct


class Host(Struct, frozen=True, kw_only=True):
    """Defaults."""

    name: str
    interface: str | None
    """The default route's, IPv4 before IPv6; None when there is no default route."""
    cpus: int


def this_host() -> Host:
    """Look."""
    return Host(
        name=socket.gethostname(),
        interface=default_interface(),
        cpus=len(os.sched_getaffinity(0)),
    )


def default_interface() -> str | None:
    """Return the interface of the default route."""
    defaults = netifaces.gateways()["default"]
    for family in (netifaces.AF_INET, netifaces.AF_INET6):
        if family in defaults:
            return str(defaults[family][1])
    return None
