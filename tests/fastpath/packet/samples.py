"""Frames of every kind there is, by name: what tests cut, change and send on."""

from __future__ import annotations

import struct

from tests.fastpath.packet import frames
from tests.fastpath.packet.frames import (
    CLIENT4,
    CLIENT6,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    OPTIONS,
    ROUTING,
    TCP,
    UDP,
    VIP4,
    VIP6,
    Ports,
    error,
    ether,
    extension,
    fragment6,
    ip,
    ipv4,
    ipv6,
    summed,
    tcp,
    udp,
)

DATA = bytes(range(64))
PORTS = Ports()
BACK = Ports(PORTS.destination, PORTS.source)
ECHO = struct.pack(">BBHHH", 8, 0, 0, 77, 1)
ECHO6 = struct.pack(">BBHHH", 128, 0, 0, 77, 1)
ROUTER4, ROUTER6 = "203.0.113.1", "2001:db8:2::1"
MSS = bytes([2, 4, 5, 180])


def of_family(client: str, vip: str) -> dict[str, bytes]:
    """What both have."""
    return {
        "syn": ip(client, vip, TCP, tcp(PORTS, flags=frames.SYN, options=MSS)),
        "tcp": ip(client, vip, TCP, tcp(PORTS, DATA)),
        "tcp odd": ip(client, vip, TCP, tcp(PORTS, DATA[:7])),
        "fin": ip(client, vip, TCP, tcp(PORTS, flags=frames.FIN | frames.ACK)),
        "udp": ip(client, vip, UDP, udp(PORTS, DATA)),
        "udp empty": ip(client, vip, UDP, udp(PORTS)),
        "udp last hop": ip(client, vip, UDP, udp(PORTS, DATA), ttl=1),
    }


def errors(client: str, vip: str, router: str) -> dict[str, bytes]:
    """About what went from a VIP to a client."""
    v6 = ":" in client
    unreachable, too_big, expired = (1, 2, 3) if v6 else (3, 3, 11)
    segment = ip(vip, client, TCP, tcp(BACK, DATA))
    datagram = ip(vip, client, UDP, udp(BACK, DATA))
    least = (40 if v6 else 20) + 8
    return {
        "tcp too big": error(router, vip, segment, kind=too_big, code=0 if v6 else 4, rest=1400),
        "tcp expired, quoted little": error(router, vip, segment[:least], kind=expired),
        "udp unreachable": error(client, vip, datagram, kind=unreachable, code=3),
        "udp expired, quoted little": error(router, vip, datagram[:least], kind=expired),
    }


def v4() -> dict[str, bytes]:
    segment = summed(CLIENT4, VIP4, TCP, tcp(PORTS, DATA))
    datagram = summed(CLIENT4, VIP4, UDP, udp(PORTS, DATA))
    nothing = ipv4(CLIENT4, VIP4, UDP, udp(PORTS, DATA))
    options = bytes([1, 7, 7, 4, 0, 0, 0, 0])
    return {
        **of_family(CLIENT4, VIP4),
        **errors(CLIENT4, VIP4, ROUTER4),
        "udp without checksum": nothing,
        "options": ipv4(CLIENT4, VIP4, TCP, segment, options=options),
        "first": ipv4(CLIENT4, VIP4, UDP, datagram[:40], fragment=0x2000, identity=9),
        "later": ipv4(CLIENT4, VIP4, UDP, datagram[40:], fragment=5, identity=9),
        "echo": ip(CLIENT4, VIP4, ICMP, ECHO + DATA),
        "sctp": ipv4(CLIENT4, VIP4, 132, DATA),
    }


def v6() -> dict[str, bytes]:
    segment = summed(CLIENT6, VIP6, TCP, tcp(PORTS, DATA))
    datagram = summed(CLIENT6, VIP6, UDP, udp(PORTS, DATA))
    chain = extension(OPTIONS) + extension(ROUTING, bytes(14)) + extension(TCP)
    first = fragment6(UDP, 0, more=True) + datagram[:40]
    later = fragment6(UDP, 40, more=False) + datagram[40:]
    return {
        **of_family(CLIENT6, VIP6),
        **errors(CLIENT6, VIP6, ROUTER6),
        "extensions": ipv6(CLIENT6, VIP6, HOP_BY_HOP, chain + segment),
        "atomic": ipv6(CLIENT6, VIP6, FRAGMENT, fragment6(TCP, 0, more=False) + segment),
        "first": ipv6(CLIENT6, VIP6, FRAGMENT, first),
        "later": ipv6(CLIENT6, VIP6, FRAGMENT, later),
        "echo": ip(CLIENT6, VIP6, ICMP6, ECHO6 + DATA),
        "esp": ipv6(CLIENT6, VIP6, frames.ESP, DATA),
    }


def samples() -> dict[str, bytes]:
    """Whole frames: some with tags, some with padding."""
    packets = {f"v4 {name}": packet for name, packet in v4().items()}
    packets |= {f"v6 {name}": packet for name, packet in v6().items()}
    found = {name: ether(packet) for name, packet in packets.items()}
    found |= {
        "v4 tagged": ether(packets["v4 tcp"], tags=(7,)),
        "v6 tagged twice": ether(packets["v6 udp"], tags=(7, 9)),
        "v4 padded": ether(packets["v4 udp empty"]) + bytes(18),
        "tags too many": ether(packets["v4 tcp"], tags=(1, 2, 3)),
        "arp": ether(bytes(28), kind=0x0806),
    }
    return found


SAMPLES = samples()
