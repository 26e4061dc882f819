"""rtnetlink(7) read by hand: the few fields that watching a network needs, in microseconds.

Links, addresses, neighbours and routes change at any time and in large numbers (containers, a
crowd of clients); decoding them in full, as pyroute2 does, would hold up the event loop.
Integers are in the host's byte order, addresses in the network's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from msgspec import Struct

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_GETSTATS = 94
GROUP_LINK, GROUP_NEIGHBOUR = 0x1, 0x4
GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS = 0x10, 0x100
GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE = 0x40, 0x400
RTN_UNICAST, RTN_LOCAL = 1, 2

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
_NLM_F_REPLACE, _NLM_F_CREATE = 0x100, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTE_TYPE = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IF_STATS_MSG = struct.Struct("=BxxxII")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_WIRELESS, _IFLA_IFALIAS = 1, 3, 4, 11, 20
_IFA_ADDRESS, _IFA_LOCAL, _IFA_PROTO = 1, 2, 11
_IFA_F_PERMANENT = 0x80
_NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO = 1, 2, 3
_NTF_USE = 0x01
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS, _RTA_VIA = 1, 4, 5, 7, 8, 18
_RTAX_MTU = 2
_RT_TABLE_MAIN = 254
_STATS_LINK_64 = 1
_BUFFER_SIZE = 64 * 1024
_ANSWER_TIMEOUT_S = 5.0
_DUMP_ATTEMPTS = 5
_READS_MAX = 1024


class LinkMessage(Struct, frozen=True):
    """struct ifinfomsg and what belongs to it."""

    index: int
    name: str
    flags: int
    """IFF_ of netdevice(7)."""
    mac: bytes
    mtu: int = 0
    alias: str = ""
    """A note that somebody made on it."""


class AddressMessage(Struct, frozen=True):
    """struct ifaddrmsg and what belongs to it."""

    index: int
    address: str
    prefix: int
    proto: int
    """Who configured it (IFA_PROTO); 0 when not said."""
    permanent: bool
    """It has no lifetime."""


class NeighbourMessage(Struct, frozen=True):
    """struct ndmsg and what belongs to it."""

    state: int
    """NUD_ bits."""
    address: str
    mac: bytes
    unused_ticks: int
    """Since it was last used or confirmed, in USER_HZ."""


class NextHopMessage(Struct, frozen=True):
    """struct ndmsg of any neighbour, with or without a hardware address."""

    index: int
    address: str
    state: int
    """NUD_ bits."""
    mac: bytes


class RouteMessage(Struct, frozen=True):
    """Where the kernel would send a packet to one address."""

    kind: int
    """RTN_ of rtnetlink(7)."""
    index: int
    gateway: str | None
    """Of either IP version; None: the address itself is on the link."""
    source: str
    """Empty when the kernel does not say."""
    mtu: int
    """0: the interface's."""


def open_socket(groups: int = 0) -> socket.socket:
    """A netlink socket in the calling thread's namespace that hears the groups; OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    opened = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    opened.bind((0, groups))
    opened.settimeout(_ANSWER_TIMEOUT_S)
    return opened


def receive(channel: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """(kind, flags, body) of what one read brings; none unless the kernel sent it."""
    data, (port, _) = channel.recvfrom(_BUFFER_SIZE)
    if port != 0:
        return
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size:
            return
        yield kind, flags, data[offset + _HEADER.size : offset + size]
        offset += (size + 3) & ~3


def events(channel: socket.socket) -> Iterator[tuple[int, bytes] | None]:
    """(kind, body) of what has come in to a channel that does not block; None: some was lost.

    At most so much that the event loop is not held up; the rest makes it readable again. OSError.
    """
    for _ in range(_READS_MAX):
        try:
            messages = list(receive(channel))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None
            continue
        for kind, _, body in messages:
            yield kind, body


def dump(channel: socket.socket, kind: int, family: int = 0) -> list[bytes]:
    """The body of every object of a kind (RTM_GET…); the channel is in no group.

    Asked again when the kernel's list changed meanwhile; OSError.
    """
    for _ in range(_DUMP_ATTEMPTS):
        _ask(channel, kind, _NLM_F_DUMP, _IFINFOMSG.pack(family, 0, 0, 0, 0))
        bodies, whole = _answers(channel)
        if whole:
            return bodies
    msg = "the kernel's list kept changing while it was read"
    raise OSError(msg)


def received_packets(channel: socket.socket, index: int) -> int:
    """How many packets an interface has received so far; OSError."""
    _ask(channel, RTM_GETSTATS, 0, _IF_STATS_MSG.pack(0, index, 1 << (_STATS_LINK_64 - 1)))
    for kind, _, body in receive(channel):
        if kind == _NLMSG_ERROR:
            _raise(body)
        statistics = _attributes(body, _IF_STATS_MSG.size).get(_STATS_LINK_64, bytes(8))
        return int(struct.unpack_from("=Q", statistics)[0])
    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))


def read_link(body: bytes) -> LinkMessage | None:
    """None for what speaks of a bridge's port or of a scan for networks, not of the interface."""
    family, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    found = _attributes(body, _IFINFOMSG.size)
    if family != socket.AF_UNSPEC or _IFLA_WIRELESS in found:
        return None
    name, alias = (
        found.get(kind, b"").rstrip(b"\0").decode(errors="replace")
        for kind in (_IFLA_IFNAME, _IFLA_IFALIAS)
    )
    mtu = struct.unpack("=I", found.get(_IFLA_MTU, bytes(4)))[0]
    return LinkMessage(index, name, flags, found.get(_IFLA_ADDRESS, b""), mtu, alias)


def read_address(body: bytes) -> AddressMessage | None:
    """None for what is no IPv4 or IPv6 address."""
    family, prefix, flags, _, index = _IFADDRMSG.unpack_from(body)
    found = _attributes(body, _IFADDRMSG.size)
    address = _address(family, found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS))
    if address is None:
        return None
    proto = found.get(_IFA_PROTO, b"\0")[0]
    return AddressMessage(index, address, prefix, proto, bool(flags & _IFA_F_PERMANENT))


def read_neighbour(body: bytes, interface: int) -> NeighbourMessage | None:
    """None for what is no IPv4 or IPv6 neighbour on the interface with a hardware address."""
    family, index, state, _, _ = _NDMSG.unpack_from(body)
    if index != interface:
        return None
    found = _attributes(body, _NDMSG.size)
    address, mac = _address(family, found.get(_NDA_DST)), found.get(_NDA_LLADDR)
    if address is None or mac is None:
        return None
    confirmed, used = struct.unpack_from("=II", found.get(_NDA_CACHEINFO, bytes(8)))
    return NeighbourMessage(state, address, mac, min(confirmed, used))


def read_gateway(body: bytes) -> tuple[int, str] | None:
    """(interface, gateway) of a default route of the main table; None for all others."""
    family, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(body)
    if (prefix, table, kind) != (0, _RT_TABLE_MAIN, RTN_UNICAST):
        return None
    found = _attributes(body, _RTMSG.size)
    gateway, index = _address(family, found.get(_RTA_GATEWAY)), found.get(_RTA_OIF)
    if gateway is None or index is None:
        return None
    return int(struct.unpack("=i", index)[0]), gateway


def read_next_hop(body: bytes) -> NextHopMessage | None:
    """None for what is no IPv4 or IPv6 neighbour (a bridge's table of MACs)."""
    family, index, state, _, _ = _NDMSG.unpack_from(body)
    found = _attributes(body, _NDMSG.size)
    address = _address(family, found.get(_NDA_DST))
    if address is None:
        return None
    return NextHopMessage(index, address, state, found.get(_NDA_LLADDR, b""))


def route_to(channel: socket.socket, address: str) -> RouteMessage:
    """What the kernel would do with a packet to the address; OSError when it has no route."""
    family, packed = _packed(address)
    body = _RTMSG.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + _attribute(_RTA_DST, packed)
    answer = _one_answer(channel, RTM_GETROUTE, 0, body)
    kind = _RTMSG.unpack_from(answer)[7]
    found = _attributes(answer, _RTMSG.size)
    metrics = _attributes(found.get(_RTA_METRICS, b""), 0)
    return RouteMessage(
        kind=kind,
        index=struct.unpack("=i", found.get(_RTA_OIF, bytes(4)))[0],
        gateway=_address(family, found.get(_RTA_GATEWAY)) or _via(found.get(_RTA_VIA)),
        source=_address(family, found.get(_RTA_PREFSRC)) or "",
        mtu=struct.unpack("=I", metrics.get(_RTAX_MTU, bytes(4)))[0],
    )


def next_hop(channel: socket.socket, index: int, address: str) -> NextHopMessage | None:
    """What the kernel knows of a neighbour on an interface; None: nothing. OSError."""
    family, packed = _packed(address)
    body = _NDMSG.pack(family, index, 0, 0, 0) + _attribute(_NDA_DST, packed)
    try:
        return read_next_hop(_one_answer(channel, RTM_GETNEIGH, 0, body))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


def use_neighbour(channel: socket.socket, index: int, address: str) -> None:
    """Have the kernel find out where a neighbour is, as if there were a packet for it; OSError.

    A stale entry is confirmed by asking again, a fresh one stays as it is. Like the kernel's own
    entries it ends when nobody needs it; needs CAP_NET_ADMIN.
    """
    family, packed = _packed(address)
    body = _NDMSG.pack(family, index, 0, _NTF_USE, 0) + _attribute(_NDA_DST, packed)
    _one_answer(channel, RTM_NEWNEIGH, _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_REPLACE, body)


def _one_answer(channel: socket.socket, kind: int, flags: int, body: bytes) -> bytes:
    """The body of what the kernel answers; empty when it only acknowledges."""
    _ask(channel, kind, flags, body)
    while True:
        for answered, _, answer in receive(channel):
            if answered != _NLMSG_ERROR:
                return answer
            if answer[:4] != bytes(4):
                _raise(answer)
            return b""


def _ask(channel: socket.socket, kind: int, flags: int, body: bytes) -> None:
    size = _HEADER.size + len(body)
    channel.sendto(_HEADER.pack(size, kind, flags | _NLM_F_REQUEST, 0, 0) + body, (0, 0))


def _answers(channel: socket.socket) -> tuple[list[bytes], bool]:
    """All up to the one that says done; False when the list changed meanwhile."""
    bodies: list[bytes] = []
    whole = True
    while True:
        for kind, flags, body in receive(channel):
            whole = whole and not flags & _NLM_F_DUMP_INTR
            if kind == _NLMSG_ERROR:
                _raise(body)
            if kind == _NLMSG_DONE:
                return bodies, whole
            bodies.append(body)


def _raise(body: bytes) -> None:
    (code,) = struct.unpack_from("=i", body)
    raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, value: bytes) -> bytes:
    padded = value.ljust((len(value) + 3) & ~3, b"\0")
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + padded


def _attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Read one rtattr after the other; the last of a type counts."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < _ATTRIBUTE.size:
            break
        found[kind & _ATTRIBUTE_TYPE] = body[offset + _ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
    return found


def _address(family: int, packed: bytes | None) -> str | None:
    sizes: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}
    if packed is None or len(packed) != sizes.get(family):
        return None
    return socket.inet_ntop(family, packed)


def _packed(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def _via(value: bytes | None) -> str | None:
    """Of struct rtvia: a gateway of the other IP version."""
    return None if value is None else _address(struct.unpack_from("=H", value)[0], value[2:])
