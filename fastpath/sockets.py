"""Opens listening sockets for the workers."""

from __future__ import annotations

import contextlib
import socket
from typing import NamedTuple

BACKLOG = 4096
# Not in Python's socket module: linux/in.h and linux/in6.h.
IP_PKTINFO = 8
IP_FREEBIND = 15
IPV6_RECVPKTINFO = 49
IPV6_FREEBIND = 78
# A peer that has vanished without a word is given up after LOST_S: by keepalive probes when nothing
# is under way, else by what it has not acknowledged. So is one that is there but whose window stays
# shut for so long (tcp(7), TCP_USER_TIMEOUT). RFC 9293 section 3.9.1.1 has the same five minutes.
LOST_S = 300
_PROBE_AFTER_S = 120
_PROBE_EVERY_S = 60
_LASTING = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (LOST_S - _PROBE_AFTER_S) // _PROBE_EVERY_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_S * 1000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""What accepted sockets inherit from the listening one, so that no connection has a call for it."""
UDP_GRO = 104  # linux/udp.h
DATAGRAMS_SIZE = 1 << 20
"""Of a UDP listener's buffers; the kernel gives as much as net.core.rmem_max and wmem_max allow."""
_STREAMS = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Endpoint(NamedTuple):
    """A numeric address as the kernel wants it."""

    family: int
    packed: bytes
    port: int
    scope: int
    """Interface index of a link-local IPv6 address."""

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """As Python's sockets want it."""
        host = socket.inet_ntop(self.family, self.packed)
        if self.family == socket.AF_INET6:
            return (host, self.port, 0, self.scope)
        return (host, self.port)


def resolve(address: str, port: int) -> Endpoint:
    """Read a numeric IPv4 or IPv6 address (`fe80::1%eth0` too); ValueError when it is none."""
    if not 0 < port < 65536:
        raise ValueError(f"{address!r}: port {port} is not between 1 and 65535")
    try:
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{address!r} is not an IP address") from error
    family, _, _, _, sockaddr = found[0]
    host = str(sockaddr[0]).partition("%")[0]
    scope = int(sockaddr[3]) if len(sockaddr) == 4 else 0
    return Endpoint(family, socket.inet_pton(family, host), port, scope)


def _set_lasting(stream: socket.socket) -> None:
    """Set what a TCP connection of ours has; what a listening socket accepts inherits it."""
    for option in _LASTING:
        stream.setsockopt(*option)


def _open(endpoint: Endpoint, *, udp: bool, shared: bool) -> socket.socket:
    """Bind a socket; `shared`: others of ours listen on the same port."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    opened = socket.socket(endpoint.family, kind | socket.SOCK_NONBLOCK)
    try:
        if not udp:  # with it a UDP port that somebody has could be bound again
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # The address may be a VIP that this node does not have now. Needs no privilege.
        if endpoint.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if not udp:
            _set_lasting(opened)
        else:
            _prepare_datagrams(opened, endpoint)
        opened.bind(endpoint.sockaddr)
    except OSError:
        opened.close()
        raise
    return opened


def _prepare_datagrams(opened: socket.socket, endpoint: Endpoint) -> None:
    """Have it tell what fastpath.proxy.datagram reads, and room for what comes in a burst."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAMS_SIZE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DATAGRAMS_SIZE)
    with contextlib.suppress(OSError):  # before Linux 5.0
        opened.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    if any(endpoint.packed):
        return  # nothing comes to it but what was sent to its address
    if endpoint.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def prepare_stream(descriptor: int) -> None:
    """See that it is a connected stream (TCP or Unix), and have it never block, as workers need.

    Raises ValueError for another kind of socket, OSError when it is none or not connected.
    """
    stream = socket.socket(fileno=descriptor)
    try:
        if stream.family not in _STREAMS or stream.type != socket.SOCK_STREAM:
            raise ValueError(f"descriptor {descriptor} is not a stream socket")
        stream.getpeername()
        stream.setblocking(False)
        if stream.family != socket.AF_UNIX:
            _set_lasting(stream)
    finally:
        stream.detach()


def listen(endpoint: Endpoint, count: int, *, udp: bool, alone: bool) -> list[int]:
    """Open `count` listening sockets on one port, for the kernel to spread what comes over.

    SO_REUSEPORT would also let another process of this user in; so when we are `alone` on the port
    (nothing of ours listens on it yet), an unshared bind finds out first whether it is taken.
    Returns descriptors, the caller's. Raises OSError, with nothing left open.
    """
    if alone:
        _open(endpoint, udp=udp, shared=False).close()
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            one = _open(endpoint, udp=udp, shared=True)
            opened.append(one)
            if not udp:
                one.listen(BACKLOG)
    except OSError:
        for each in opened:
            each.close()
        raise
    return [each.detach() for each in opened]
