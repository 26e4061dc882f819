"""What the forwarder takes out of what comes to this host's addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

TCP, UDP = 6, 17
"""Protocol numbers (IANA)."""


class Forwarded(Struct, frozen=True):
    """Ports of an address that no socket of this host serves: the forwarder has their packets.

    A forwarded service has one at its VIP. Where `nat` connects to backends from an address of this
    host, its ports for that are forwarded, too: replies come to them.
    """

    address: str
    protocol: int
    """TCP or UDP."""
    first: int
    last: int
    """Both within; equal for a service."""
    by_flow: bool = False
    """Of `nat`: when the VIP has just come, flows that are not known here go on by its former
    owner, so their packets are passed on to it (adapters/fence.py)."""

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        """The address, parsed; ValueError."""
        return ip_address(self.address)
