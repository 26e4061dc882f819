"""What a frame is, once more, in plain Python: what the engine's parser is compared with.

Slices never fail in Python, so each piece is asked for by `take`, which does.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import NoReturn

from tests.fastpath.packet import frames
from tests.fastpath.packet.frames import word_sum

MAPPED = ipaddress.ip_network("::ffff:0:0/96")
EXTENSIONS = {
    frames.HOP_BY_HOP,
    frames.ROUTING,
    frames.FRAGMENT,
    frames.AH,
    frames.OPTIONS,
}
EXTENSIONS_MAX = 6


class Verdict(Exception):
    """Parsing is over."""


@dataclass
class Packet:
    """The fields of packet_t that a verdict gives a meaning, but offsets."""

    v6: bool = False
    source: bytes = b""
    destination: bytes = b""
    ports: tuple[int, int] = (0, 0)
    protocol: int = 0
    ttl: int = 0
    flags: int = 0
    fragment: tuple[int, int, bool] | None = None
    """Id, offset in bytes, whether more come."""
    data: bytes = field(default=b"", repr=False)
    """From the IP header to the packet's end."""


def over(verdict: str) -> NoReturn:
    raise Verdict(verdict)


def take(data: bytes, at: int, size: int) -> bytes:
    return data[at : at + size] if at + size <= len(data) else over("truncated")


def number(data: bytes, at: int, size: int = 2) -> int:
    return int.from_bytes(take(data, at, size))


def is_no_host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return (
            address.packed[0] == 0
            or address.is_loopback
            or address.is_multicast
            or address == ipaddress.IPv4Address("255.255.255.255")
        )
    return (
        address.is_unspecified or address.is_loopback or address.is_multicast or address in MAPPED
    )


def check_addresses(source: bytes, destination: bytes) -> None:
    if is_no_host(ipaddress.ip_address(source)):
        over("source")
    if is_no_host(ipaddress.ip_address(destination)):
        over("destination")
    if source == destination:
        over("land")


def check_options(options: bytes) -> None:
    while options and options[0] != 0:
        if options[0] in {131, 137}:
            over("routed")
        if options[0] == 1:
            options = options[1:]
        elif len(options) < 2 or not 2 <= options[1] <= len(options):
            over("length")
        else:
            options = options[options[1] :]


def extensions(
    data: bytes, at: int, protocol: int
) -> tuple[int, int, tuple[int, int, bool] | None, int]:
    """Where they end, what follows, of which fragment, and where that one's bytes begin."""
    fragment = None
    fragment_at = n = 0
    while fragment is None or fragment[1] == 0:
        if protocol in {frames.ESP, frames.NO_NEXT}:
            over("hidden")
        if protocol not in EXTENSIONS:
            break
        n += 1
        if (protocol == frames.HOP_BY_HOP and n > 1) or n > EXTENSIONS_MAX:
            over("extensions")
        head = take(data, at, 8)
        if protocol == frames.FRAGMENT:
            place = number(head, 2)
            if fragment is not None and (fragment[1] or fragment[2]):
                over("extensions")
            size = 8
            fragment_at = at + 8
            fragment = (number(head, 4, 4), place & ~7, bool(place & 1))
            if not place & ~6:  # a whole packet (RFC 6946)
                fragment = None
        else:
            size = (head[1] + 2) * 4 if protocol == frames.AH else (head[1] + 1) * 8
            if protocol == frames.ROUTING and head[3]:
                over("routed")
        take(data, at, size)
        at, protocol = at + size, head[0]
    return at, protocol, fragment, fragment_at


def quoted(packet: Packet, quote: bytes) -> None:
    """Read the packet that an error is about; its flow the way the error goes."""
    try:
        if packet.v6:
            head = take(quote, 0, 40)
            at, protocol, fragment, _ = extensions(quote, 40, head[6])
            source, destination = head[8:24], head[24:40]
            total = 40 + number(head, 4)
        else:
            head = take(quote, 0, 20)
            at, protocol, fragment = (head[0] & 15) * 4, head[9], None
            take(quote, 0, max(at, 20))
            if number(head, 6) & 0x1FFF:
                over("quote")
            source, destination = head[12:16], head[16:20]
            total = number(head, 2)
        if head[0] >> 4 != (6 if packet.v6 else 4) or at < 20 or (fragment and fragment[1]):
            over("quote")
    except Verdict:
        over("quote")
    if protocol not in {frames.TCP, frames.UDP}:
        over("icmp")
    if min(total, len(quote)) < at + 8:
        over("quote")
    ports = quote[at : at + 4]
    if source != packet.destination:  # somebody else's packet
        over("quote")
    if packet.v6 and ipaddress.IPv6Address(destination) in MAPPED:
        over("quote")
    packet.source = destination
    packet.ports = (number(ports, 2), number(ports, 0))
    packet.protocol = protocol
    over("icmp-error")


def icmp(packet: Packet, message: bytes) -> NoReturn:
    if packet.fragment:
        over("icmp")
    kind, code = take(message, 0, 8)[:2]
    if kind == (128 if packet.v6 else 8) and code == 0:
        over("echo")
    if kind not in ({1, 2, 3, 4} if packet.v6 else {3, 11, 12}):
        over("icmp")
    if packet.v6 and kind == 2 and number(message, 4, 4) < 1280:
        over("mtu")
    if not packet.v6 and (kind, code) == (3, 4) and 0 < number(message, 6) < 576:
        over("mtu")
    quoted(packet, message[8:])
    over("icmp-error")


def carried(packet: Packet, at: int, protocol: int, fragment_size: int) -> NoReturn:
    packet.protocol = protocol
    l4 = packet.data[at:]
    _, offset, more = packet.fragment or (0, 0, False)
    if packet.fragment and (
        offset + fragment_size > 65535 or (more and (fragment_size == 0 or fragment_size % 8))
    ):
        over("length")
    if protocol in {frames.TCP, frames.UDP} and not offset:
        head = take(l4, 0, 20 if protocol == frames.TCP else 8)
        if protocol == frames.TCP:
            size = (head[12] >> 4) * 4
            if size < 20:
                over("length")
            take(l4, 0, size)
            packet.flags = head[13]
        elif number(head, 4) < 8 or (number(head, 4) > len(l4) and not packet.fragment):
            over("length")
        packet.ports = (number(head, 0), number(head, 2))
        over("flow")
    if protocol in {frames.TCP, frames.UDP}:
        over("overlap" if protocol == frames.TCP and offset < 20 else "fragment")
    if packet.v6 and offset and protocol == frames.OPTIONS:
        over("fragment")
    if protocol == (frames.ICMP6 if packet.v6 else frames.ICMP):
        icmp(packet, l4)
    over("other-protocol")


def ipv4(packet: Packet, data: bytes) -> NoReturn:
    head = take(data, 0, 20)
    if head[0] >> 4 != 4:
        over("not-ip")
    own, total = (head[0] & 15) * 4, number(head, 2)
    if own < 20 or total < own:
        over("length")
    packet.data = take(data, 0, total)
    if word_sum(data[:own]) != 0xFFFF:
        over("checksum")
    packet.ttl, packet.source, packet.destination = head[8], head[12:16], head[16:20]
    check_addresses(packet.source, packet.destination)
    check_options(data[20:own])
    place = number(head, 6)
    if place & 0x3FFF:
        packet.fragment = (number(head, 4), (place & 0x1FFF) * 8, bool(place & 0x2000))
    carried(packet, own, head[9], total - own)


def ipv6(packet: Packet, data: bytes) -> NoReturn:
    head = take(data, 0, 40)
    if head[0] >> 4 != 6:
        over("not-ip")
    packet.data = take(data, 0, 40 + number(head, 4))
    packet.ttl, packet.source, packet.destination = head[7], head[8:24], head[24:40]
    check_addresses(packet.source, packet.destination)
    at, protocol, packet.fragment, fragment_at = extensions(packet.data, 40, head[6])
    carried(packet, at, protocol, len(packet.data) - fragment_at)


def ethernet(packet: Packet, frame: bytes) -> NoReturn:
    take(frame, 0, 14)
    at = 12
    for _ in range(2):
        if number(frame, at) in {0x8100, 0x88A8}:
            at += 4
    kind = number(frame, at)
    if kind not in {0x0800, 0x86DD}:
        over("not-ip")
    if frame[0] & 1:
        over("destination")
    packet.v6 = kind == 0x86DD
    (ipv6 if packet.v6 else ipv4)(packet, frame[at + 2 :])


def parse(frame: bytes) -> tuple[str, Packet]:
    packet = Packet()
    try:
        ethernet(packet, frame)
    except Verdict as verdict:
        return str(verdict), packet
