"""Ports that the kernel does not pick for a socket by itself: net.ipv4.ip_local_reserved_ports.

The forwarder gives such ports to flows (nat). A socket that asks for one of them by its number
still gets it; one that takes any port does not. The setting is of both IP versions, and of the
network namespace.
"""

from __future__ import annotations

import errno
from pathlib import Path

from msgspec import Struct

PATH = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


class ReservedPorts:
    """Adds a range to what is reserved, and takes away later what was not reserved before.

    After a crash the range stays reserved until the host starts anew: who made it so is not known
    then, and it does no harm.
    """

    def __init__(self) -> None:
        self._added: set[int] = set()

    def reserve(self, first: int, last: int) -> None:
        """Reserve exactly these of ours from now on; OSError, with the cure."""
        wanted = set(range(first, last + 1))
        try:
            there = parse(PATH.read_text())
            foreign = there - self._added
            if there != foreign | wanted:
                PATH.write_text(spell(foreign | wanted) + "\n")
            self._added = wanted - foreign
        except OSError as error:
            raise OSError(error.errno, why(error), str(PATH)) from error

    def release(self) -> None:
        """Have reserved what was without us; OSError."""
        if self._added:
            self.reserve(1, 0)


class _Range(Struct):
    first: int
    last: int


def parse(text: str) -> set[int]:
    """The ports of a list as the kernel has it: `8080,9148-9150`."""
    ports: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            ports.update(range(int(first), int(last or first) + 1))
    return ports


def spell(ports: set[int]) -> str:
    """The list of these ports, the kernel's way."""
    ranges: list[_Range] = []
    for port in sorted(ports):
        if ranges and ranges[-1].last == port - 1:
            ranges[-1].last = port
        else:
            ranges.append(_Range(port, port))
    return ",".join(
        str(one.first) if one.first == one.last else f"{one.first}-{one.last}" for one in ranges
    )


def why(error: OSError) -> str:
    """What is missing, and the cure."""
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            "ports for nat cannot be reserved: this needs root, or in sysctl.d"
            " net.ipv4.ip_local_reserved_ports with the range"
        )
    return f"ports for nat cannot be reserved: {error.strerror}"
