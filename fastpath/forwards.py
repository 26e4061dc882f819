"""What Python tells the forwarder to do, and the check that it makes sense."""

from __future__ import annotations

from typing import NamedTuple

from fastpath.prefixes import merged
from fastpath.sockets import resolve

HOWS = ("dsr", "nat", "ipip")
"""How packets get to backends, in the order of packet/flow.pxd's REWRITE_*."""

LOOPBACK = 1
"""Index of `lo`, in every network namespace: a target that is behind it is this host itself."""
LOCAL_MTU = 65535
_WEIGHT_MAX = 65535
_MTU_MIN, _MTU_MAX = 576, 65535
_MAC_SIZE = 6


class Target(NamedTuple):
    """A backend, and how frames get there from here."""

    name: str
    """Stable name: Maglev hashes it, flows are kept by it."""
    address: str
    port: int
    weight: int
    up: bool
    interface: int = 0
    """Index of the one that frames leave by; 0: they do not get there."""
    mac: bytes = b""
    """Of the next hop."""
    own_mac: bytes = b""
    source: str = ""
    """Our address towards it: what nat connects from, and what outer headers come from."""
    mtu: int = 1500
    """The longest IP packet on the way, in bytes."""

    @property
    def is_open(self) -> bool:
        """Whether new flows may go to it."""
        return self.up and self.weight > 0

    @property
    def is_reachable(self) -> bool:
        """Whether frames get there."""
        return self.interface > 0

    @property
    def is_here(self) -> bool:
        """Whether it is this host itself: packets go to its own IP stack, as they are."""
        return self.interface == LOOPBACK

    def here(self) -> Target:
        """The same one on this host."""
        nobody = bytes(_MAC_SIZE)
        return self._replace(interface=LOOPBACK, mac=nobody, own_mac=nobody, mtu=LOCAL_MTU)


class Forward(NamedTuple):
    """A port of a VIP."""

    name: str
    """Stable; packets are counted by it."""
    address: str
    port: int
    udp: bool
    how: str
    """One of HOWS."""
    targets: tuple[Target, ...]
    allowed: tuple[str, ...] = ()
    """CIDR prefixes of the sources that may; none: every one."""
    affinity_ms: int | None = None
    """What one client address sends goes to one backend: the one that its latest flow went to, less
    than so long ago; 0: which the hash of the address says. None: each flow for itself."""
    draining: bool = False
    """The VIP is about to move. With nat, flows that are known go on and there are no new ones; dsr
    goes on, since the next owner sends each packet where this one does."""

    @property
    def place(self) -> tuple[bool, bytes, int]:
        """What it is found by, in the order of packet/forwards.pxd's place_compare."""
        return self.udp, packed(self.address), self.port


def packed(address: str) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d; ValueError."""
    found = resolve(address, 1).packed
    return found if len(found) == 16 else bytes(10) + b"\xff\xff" + found


def check(forwards: tuple[Forward, ...]) -> None:
    """ValueError when the forwarder cannot do that."""
    places = set()
    for each in forwards:
        if each.how not in HOWS:
            raise ValueError(f"{each.name}: {each.how!r} is not one of {', '.join(HOWS)}")
        if not 0 < each.port < 1 << 16:
            raise ValueError(f"{each.name}: port {each.port}")
        if each.place in places:
            raise ValueError(f"{each.name}: {each.address} port {each.port} is there twice")
        places.add(each.place)
        merged(each.allowed)
        if not 0 <= (each.affinity_ms or 0) < 1 << 32:
            raise ValueError(f"{each.name}: an affinity of {each.affinity_ms} ms")
        for target in each.targets:
            _check_target(each, target)


def _check_target(forward: Forward, target: Target) -> None:
    where = f"{forward.name}, backend {target.name}"
    packed(target.address)
    if not 0 < target.port < 1 << 16:
        raise ValueError(f"{where}: port {target.port}")
    if not 0 <= target.weight <= _WEIGHT_MAX:
        raise ValueError(f"{where}: weight {target.weight}")
    if not target.is_reachable:
        return
    if len(target.mac) != _MAC_SIZE or len(target.own_mac) != _MAC_SIZE:
        raise ValueError(f"{where}: a hardware address has {_MAC_SIZE} bytes")
    if not _MTU_MIN <= target.mtu <= _MTU_MAX:
        raise ValueError(f"{where}: an MTU of {target.mtu}")
    if target.is_here:
        if forward.how == "nat":
            raise ValueError(f"{where}: nat does not get to this host itself")
    elif forward.how != "dsr":
        packed(target.source)
