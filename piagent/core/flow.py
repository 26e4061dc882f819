"""A flow: who sends to whom, from which port to which, by what."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final

from msgspec import Struct

from piagent.core.model import Protocol, host_port

_PLACE: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f]*:[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})"
)


class Flow(Struct, frozen=True, kw_only=True):
    """One flow."""

    src: str
    src_port: int
    dst: str
    dst_port: int
    protocol: Protocol

    def __str__(self) -> str:
        """`10.0.0.9:51234 -> 10.0.0.1:80/tcp`."""
        source, target = host_port(self.src, self.src_port), host_port(self.dst, self.dst_port)
        return f"{source} -> {target}/{self.protocol}"


class FlowQuestion(Struct, frozen=True, kw_only=True):
    """What is to be known of a flow."""

    flow: Flow
    size: int = 0
    """Of the packet that goes through the forwarder, in bytes; 0: as small as one can be."""
    bpf: bool = False
    """Whether the kernel's programs are to have packets of it, too."""

    @property
    def about_packets(self) -> bool:
        """Whether it makes sense only of what is forwarded."""
        return self.bpf or self.size > 0


def flow_of(src: str, dst: str, protocol: str) -> Flow:
    """Read a flow; raises ValueError with what is wrong, for people."""
    if protocol not in list(Protocol):
        raise ValueError(f"{protocol!r} is not one of {', '.join(Protocol)}")
    source, target = _place(src), _place(dst)
    if ip_address(source[0]).version != ip_address(target[0]).version:
        raise ValueError(f"{src} and {dst} are not of one IP version")
    return Flow(
        src=source[0],
        src_port=source[1],
        dst=target[0],
        dst_port=target[1],
        protocol=Protocol(protocol),
    )


def _place(text: str) -> tuple[str, int]:
    found = _PLACE.fullmatch(text)
    try:
        address = ip_address(found["v6"] or found["v4"]) if found else None
    except ValueError:
        address = None
    port = int(found["port"]) if found else 0
    if address is None or not 1 <= port <= 65535:
        raise ValueError(f"{text[:64]!r} is not address:port, as in 10.0.0.9:51234 or [fd00::9]:80")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped), port
    return str(address), port
