"""A flow cache that is attached in a namespace of its own, and rewrites for it, field by field."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from fastpath.packet.flow_cache import FlowCache, Ran, Unavailable
from piagent.adapters import netns
from tests.fastpath.packet.frames import TCP, UDP, Ports, ether, ip, mapped, tcp, udp

MAC, NAT, ENCAPSULATE = 0, 1, 2
XDP_PASS, XDP_REDIRECT = 2, 4
TC_NEXT, TC_REDIRECT = 0xFFFFFFFF, 7
LO, ETH0 = 1, 2
MAC_NEXT, MAC_OURS = bytes.fromhex("0200000000ee"), bytes.fromhex("0200000000dd")
_KEY = struct.Struct(">16s16sHHB3x")
_REWRITE = struct.Struct("=16s16s4sIIHHHBB6s6s")


class Flow(NamedTuple):
    """One direction."""

    source: str
    destination: str
    ports: Ports
    protocol: int = TCP

    @property
    def key(self) -> bytes:
        return _KEY.pack(mapped(self.source), mapped(self.destination), *self.ports, self.protocol)

    def frame(self, data: bytes = b"data", *, ttl: int = 64, **what: Any) -> bytes:
        """A valid one of this flow; to `lo`, where a program runs that no interface runs."""
        build = tcp if self.protocol == TCP else udp
        l4 = build(self.ports, data, **what)
        return bytes(6) + ether(ip(self.source, self.destination, self.protocol, l4, ttl=ttl))[6:]


def delta(old: bytes, new: bytes) -> int:
    """What a checksum's inverse changes by, in words as this machine has them (RFC 1624, eqn 3)."""
    count = len(old) // 2
    total = sum(word ^ 0xFFFF for word in struct.unpack(f"={count}H", old))
    total += sum(struct.unpack(f"={count}H", new))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def rewrite(
    how: int,
    *,
    source: str = "",
    destination: str = "",
    ports: Ports | None = None,
    old: Flow | None = None,
    interface: int = ETH0,
    use: int = 0,
    mtu: int = 1500,
) -> bytes:
    """A rewrite_t; `old`: of NAT, the flow as it comes in."""
    addresses = [mapped(each) if each else bytes(16) for each in (source, destination)]
    wire = struct.pack(">HH", *ports) if ports else bytes(4)
    ip_delta = l4_delta = 0
    if old:
        before = mapped(old.source) + mapped(old.destination)
        ip_delta = delta(before, b"".join(addresses))
        ports_before = struct.pack(">HH", *old.ports)
        l4_delta = delta(before + ports_before, b"".join(addresses) + wire)
    numbers = (interface, use, ip_delta, l4_delta, mtu, how, ":" in destination)
    return _REWRITE.pack(*addresses, wire, *numbers, MAC_NEXT, MAC_OURS)


def nat(old: Flow, new: Flow, **what: Any) -> bytes:
    """The rewrite that makes the one of the other."""
    return rewrite(
        NAT, source=new.source, destination=new.destination, ports=new.ports, old=old, **what
    )


class Bench(NamedTuple):
    """A cache and the namespace that it is in."""

    cache: FlowCache
    host: netns.Host

    def xdp(self, frame: bytes, **what: Any) -> Ran:
        return self.cache.run("xdp", frame, **what)

    def tc(self, frame: bytes, **what: Any) -> Ran:
        """The tap has to know beforehand what will be carried."""
        coming = self.cache.run("tap", frame, **what).verdict
        ran = self.cache.run("tc", frame, **what)
        assert coming == (ran.verdict == TC_REDIRECT)
        return ran


def why_not() -> str | None:
    """Why no flow cache can be had here."""
    try:
        FlowCache(flows=1)
    except Unavailable as error:
        return str(error)
    return netns.why_not()


@contextlib.contextmanager
def bench(flows: int = 64) -> Iterator[Bench]:
    """The calling thread is in the namespace meanwhile."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with netns.Network("pa-cache") as network:
        host = network.add_host("forwarder")
        with host.entered():
            assert socket.if_nametoindex(netns.INTERFACE) == ETH0
            cache = FlowCache(flows=flows)
            cache.open([LO, ETH0], "tc")
            yield Bench(cache, host)
            cache.close()


FLOWS = [
    Flow("192.0.2.7", "198.51.100.1", Ports(40000, 443), TCP),
    Flow("192.0.2.7", "198.51.100.1", Ports(40000, 53), UDP),
    Flow("2001:db8::7", "2001:db8:1::1", Ports(40000, 443), TCP),
    Flow("2001:db8::7", "2001:db8:1::1", Ports(40000, 53), UDP),
]
"""As a client sends them to a VIP."""
FLOW_NAMES = ["IPv4 TCP", "IPv4 UDP", "IPv6 TCP", "IPv6 UDP"]


def behind(flow: Flow) -> Flow:
    """What NAT makes of it, towards the backend."""
    if ":" in flow.source:
        return flow._replace(source="fd00::1", destination="fd00::9", ports=Ports(61234, 8080))
    return flow._replace(source="10.0.0.1", destination="10.0.0.9", ports=Ports(61234, 8080))


def reverse(flow: Flow) -> Flow:
    ports = Ports(flow.ports.destination, flow.ports.source)
    return Flow(flow.destination, flow.source, ports, flow.protocol)
