"""Who is on the network with this host, as its kernel remembers: neighbours and gateways."""

from __future__ import annotations

import socket
import time

from msgspec import Struct

from piagent.adapters import netlink_messages
from piagent.adapters.frames import MAC_SIZE
from piagent.adapters.netlink_messages import (
    RTM_GETNEIGH,
    RTM_GETROUTE,
    NeighbourMessage,
    read_gateway,
    read_neighbour,
)

NEIGHBOURS_MAX = 64
"""The most recent ones; a crowd is told by broadcast."""
REMEMBER_S = 1.0
"""Who takes many addresses at once does not ask for each of them."""

_REACHABLE, _STALE, _DELAY, _PROBE, _PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80
_KNOWN = _REACHABLE | _STALE | _DELAY | _PROBE | _PERMANENT


class Neighbour(Struct, frozen=True):
    """A host on the network, by one of its addresses."""

    address: str
    mac: bytes


class Neighbours:
    """Asks the kernel of the calling thread's namespace; errors are OSError."""

    def __init__(self) -> None:
        # Opened once, as all that may be needed when descriptors have run out.
        self._channel: socket.socket | None = None
        self._recent: list[Neighbour] = []
        self._asked_for = 0
        self._asked_s = 0.0

    def recent(self, index: int) -> list[Neighbour]:
        """Whom this host spoke with on the interface: gateways first, then the latest first."""
        now = time.monotonic()
        if index != self._asked_for or now - self._asked_s >= REMEMBER_S:
            self._recent = self._ask(index)
            self._asked_for, self._asked_s = index, now
        return self._recent

    def _ask(self, index: int) -> list[Neighbour]:
        gateways = self.gateways(index)
        bodies = netlink_messages.dump(self._opened(), RTM_GETNEIGH)
        found = [
            message
            for message in (read_neighbour(body, index) for body in bodies)
            if message is not None and message.state & _KNOWN and len(message.mac) == MAC_SIZE
        ]

        def rank(message: NeighbourMessage) -> tuple[bool, int]:
            return message.address not in gateways, message.unused_ticks

        found.sort(key=rank)
        return [Neighbour(message.address, message.mac) for message in found[:NEIGHBOURS_MAX]]

    def gateways(self, index: int) -> list[str]:
        """Where default routes through the interface lead, IPv4 first."""
        found: list[str] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            bodies = netlink_messages.dump(self._opened(), RTM_GETROUTE, family)
            routes = [route for route in map(read_gateway, bodies) if route is not None]
            found += [gateway for through, gateway in routes if through == index]
        return list(dict.fromkeys(found))

    def received_packets(self, index: int) -> int:
        """How many packets the interface has received so far."""
        return netlink_messages.received_packets(self._opened(), index)

    def close(self) -> None:
        """Nothing is open afterwards; the next question opens it again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _opened(self) -> socket.socket:
        if self._channel is None:
            self._channel = netlink_messages.open_socket()
        return self._channel
