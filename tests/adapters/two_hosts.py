"""A node and its neighbour on one LAN, where the neighbour sends service addresses to the node."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from piagent.adapters import netns
from piagent.adapters.cluster_fence import TABLE
from piagent.adapters.local_addresses import LoopbackAddresses
from piagent.adapters.nftables import NFPROTO_ARP, NFPROTO_INET, Nftables

INSIDE4, INSIDE6 = "10.96.0.1", "fd96::1"
ROUTED4, ROUTED6 = "10.97.0.1", "fd97::1"
NODE4, NODE6 = "10.9.0.1", "fd09::1"
NEIGHBOUR4, NEIGHBOUR6 = "10.9.0.3", "fd09::3"
PORT = 8080
REFUSED_S = 0.4
"""No answer within this: on one machine answers take microseconds, on a busy one milliseconds."""


@contextmanager
def two_hosts(tag: str) -> Iterator[tuple[netns.Host, netns.Host]]:
    with netns.Network(tag) as network:
        node = network.add_host("a", f"{NODE4}/24", f"{NODE6}/64")
        neighbour = network.add_host("c", f"{NEIGHBOUR4}/24", f"{NEIGHBOUR6}/64")
        for prefix, via in (
            ("10.96.0.0/16", NODE4),
            ("10.97.0.0/16", NODE4),
            ("fd96::/64", NODE6),
            ("fd97::/64", NODE6),
        ):
            run(neighbour, "ip", "route", "add", prefix, "via", via)
        yield node, neighbour


@contextmanager
def here(host: netns.Host, *interfaces: str) -> Iterator[LoopbackAddresses]:
    """The calling thread is on the host meanwhile."""
    with host.entered():
        addresses = LoopbackAddresses(interfaces)
        try:
            yield addresses
        finally:
            addresses.close()


def configure(
    host: netns.Host, inside: tuple[str, ...] = (), routed: tuple[str, ...] = ()
) -> dict[str, str]:
    with here(host) as addresses:
        return addresses.configure(inside, routed)


def run(host: netns.Namespace, *argv: str) -> str:
    done = subprocess.run(host.command(argv), check=True, capture_output=True, text=True)
    return done.stdout


def on_loopback(host: netns.Host) -> set[str]:
    """Addresses of `lo` but its own two."""
    listed = [line.split() for line in run(host, "ip", "-o", "address", "show", "lo").splitlines()]
    return {fields[3].partition("/")[0] for fields in listed} - {"127.0.0.1", "::1"}


def tables(host: netns.Host) -> list[str]:
    """Families in which our table is."""
    with host.entered(), Nftables() as kernel:
        places = ((NFPROTO_INET, "inet", "postrouting"), (NFPROTO_ARP, "arp", "output"))
        return [name for number, name, chain in places if kernel.has_chain(TABLE, chain, number)]


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listening(host: netns.Host, address: str, kind: socket.SocketKind) -> socket.socket:
    """A socket on the host that is bound to the address."""
    with host.entered():
        opened = socket.socket(family(address), kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, PORT))
    if kind is socket.SOCK_STREAM:
        opened.listen()
    opened.settimeout(5)
    return opened


def connect(asking: socket.socket, address: str, patience_s: float) -> None:
    """Connect; a new namespace has its route to an IPv6 address of `lo` a moment later."""
    end = time.monotonic() + patience_s
    while True:
        try:
            asking.connect((address, PORT))
        except OSError as error:
            if error.errno != errno.ENETUNREACH or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def reaches(
    client: netns.Host,
    server: netns.Host,
    address: str,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    *,
    source: str = "",
    patience_s: float = REFUSED_S,
) -> bool:
    """Whether a question to the address arrives on the server, and its answer comes back."""
    with listening(server, address, kind) as service, client.entered():
        asking = socket.socket(family(address), kind)
        asking.settimeout(patience_s)
        with asking, contextlib.suppress(TimeoutError):
            if source:
                asking.bind((source, 0))
            connect(asking, address, patience_s)
            asking.send(b"ask")
            service.settimeout(patience_s)
            if kind is socket.SOCK_DGRAM:
                data, whence = service.recvfrom(16)
                service.sendto(b"answer to " + data, whence)
                return asking.recv(32) == b"answer to ask"
            accepted, _ = service.accept()
            with accepted:
                accepted.settimeout(patience_s)
                accepted.send(b"answer to " + accepted.recv(16))
                return asking.recv(32) == b"answer to ask"
    return False
