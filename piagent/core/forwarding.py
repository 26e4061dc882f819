"""How packets get to backends when they are forwarded: what a service says, and what that carries.

Forwarded packets end at no node: no connection is accepted, and none is made. `nat` gives them the
backend's address and takes the answers back. `dsr` (direct server return) leaves them as they are
and sends them to the backend's hardware address, or in an outer IP header (RFC 2003, RFC 2473); the
backend has the VIP, too, and answers the client itself.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Mode(StrEnum):
    """How traffic gets to a service's backends."""

    PROXY = "proxy"
    """Each connection ends here, and another one leads to a backend."""
    NAT = "nat"
    """Packets get other addresses and ports, in both directions."""
    DSR = "dsr"
    """Packets get to the backend as they are, and it answers the client itself."""


class Encapsulation(StrEnum):
    """What is around a packet on its way to a backend."""

    IPIP = "ipip"
    """An IP header: the backend may be behind a router."""


class FlowCache(StrEnum):
    """Where the kernel carries what the forwarder has decided about."""

    AUTO = "auto"
    """Native XDP where the driver has it, else tc."""
    XDP = "xdp"
    TC = "tc"
    XDP_GENERIC = "xdp-generic"
    OFF = "off"
    """Nowhere: the forwarder carries every packet."""


class Forwarding(Struct, frozen=True):
    """What becomes of the packets that come to a service's VIP."""

    mode: Mode = Mode.PROXY
    encapsulation: Encapsulation | None = None

    @property
    def proxied(self) -> bool:
        """Whether they are none of the forwarder's."""
        return self.mode is Mode.PROXY

    def carries(self, vip: str, backend: str) -> bool:
        """Tell whether a packet to the VIP can get to this backend address.

        Nobody translates between IP versions. An outer header may be of another one than what is
        in it; only IPv6 in IPv4 (RFC 4213) is not made.
        """
        same = (":" in vip) == (":" in backend)
        return same or (self.encapsulation is not None and ":" in backend)

    def keeps(self, port: int, target_port: int) -> bool:
        """Tell whether a packet to the one port can get to the other one."""
        return self.mode is not Mode.DSR or port == target_port
