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
    state_directory: str | None = None
    """Where systemd lets this service keep what outlives it (systemd.exec(5), StateDirectory=)."""
    ipv4: dict[str, str] = {}
    """Interface -> its first IPv4 address."""


def has_library(name: str) -> bool:
    """Tell whether a shared library can be loaded."""
    import ctypes  # few files need it

    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def this_host() -> Host:
    """Look."""
    return Host(
        name=socket.gethostname(),
        interface=default_interface(),
        cpus=len(os.sched_getaffinity(0)),
        state_directory=os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or None,
        ipv4=first_addresses(),
    )


def first_addresses() -> dict[str, str]:
    """Return the first IPv4 address of each interface that has one."""
    found = {name: netifaces.ifaddresses(name) for name in netifaces.interfaces()}
    return {
        name: str(addresses[netifaces.AF_INET][0]["addr"])
        for name, addresses in found.items()
        if addresses.get(netifaces.AF_INET)
    }


def default_interface() -> str | None:
    """Return the interface of the default route."""
    defaults = netifaces.gateways()["default"]
    for family in (netifaces.AF_INET, netifaces.AF_INET6):
        if family in defaults:
            return str(defaults[family][1])
    return None
