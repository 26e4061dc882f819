"""Frames built field by field, and checksums from scratch; knows nothing of the engine."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, ESP, AH, NO_NEXT, OPTIONS = 0, 43, 44, 50, 51, 59, 60
FIN, SYN, RST, PSH, ACK, CWR = 1, 2, 4, 8, 16, 128
MAC_US = bytes.fromhex("02000000000a")
MAC_PEER = bytes.fromhex("02000000000b")
CLIENT4, VIP4, NODE4, BACKEND4 = "192.0.2.7", "198.51.100.1", "10.0.0.1", "10.0.0.9"
CLIENT6, VIP6, NODE6, BACKEND6 = "2001:db8::7", "2001:db8:1::1", "fd00::1", "fd00::9"


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def mapped(address: str) -> bytes:
    """As the engine has addresses: 16 bytes."""
    bare = packed(address)
    return bytes(10) + b"\xff\xff" + bare if len(bare) == 4 else bare


def word_sum(data: bytes) -> int:
    """The one's complement sum of big-endian words, an odd last byte with a zero (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return word_sum(data) ^ 0xFFFF


def pseudo(source: bytes, destination: bytes, protocol: int, size: int) -> bytes:
    if len(source) == 4:
        return source + destination + struct.pack(">BBH", 0, protocol, size)
    return source + destination + struct.pack(">IHBB", size, 0, 0, protocol)


class Ports(NamedTuple):
    """Of TCP and UDP."""

    source: int = 40000
    destination: int = 443


def tcp(
    ports: Ports,
    data: bytes = b"",
    *,
    flags: int = ACK,
    options: bytes = b"",
    sequence: int = 0x01020304,
) -> bytes:
    """Without a checksum."""
    offset = (20 + len(options)) // 4 << 4
    fields = (*ports, sequence, 0x05060708, offset, flags, 512, 0, 0)
    return struct.pack(">HHIIBBHHH", *fields) + options + data


def udp(ports: Ports, data: bytes = b"", *, size: int | None = None) -> bytes:
    """Without a checksum."""
    return struct.pack(">HHHH", *ports, 8 + len(data) if size is None else size, 0) + data


def summed(source: str, destination: str, protocol: int, l4: bytes) -> bytes:
    """With its checksum, which TCP, UDP, ICMP and ICMPv6 have at different places."""
    at = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}[protocol]
    bare = l4[:at] + bytes(2) + l4[at + 2 :]
    over = pseudo(packed(source), packed(destination), protocol, len(l4)) + bare
    value = checksum(bare if protocol == ICMP else over)
    if protocol == UDP and value == 0:
        value = 0xFFFF
    return l4[:at] + struct.pack(">H", value) + l4[at + 2 :]


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    data: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    options: bytes = b"",
    fragment: int = 0,
    identity: int = 1,
    size: int | None = None,
) -> bytes:
    """`fragment`: flags and offset as they stand in the header."""
    own = 20 + len(options)
    total = own + len(data) if size is None else size
    fields = (0x40 | own // 4, tos, total, identity, fragment, ttl, protocol, 0)
    head = struct.pack(">BBHHHBBH", *fields)
    head += packed(source) + packed(destination) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + data


def ipv6(
    source: str,
    destination: str,
    protocol: int,
    data: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    size: int | None = None,
) -> bytes:
    length = len(data) if size is None else size
    head = struct.pack(">IHBB", 6 << 28 | tos << 20, length, protocol, ttl)
    return head + packed(source) + packed(destination) + data


def extension(protocol: int, body: bytes = bytes(6)) -> bytes:
    """A hop-by-hop, routing or destination options header; `protocol`: of the next one."""
    return struct.pack(">BB", protocol, (len(body) + 2) // 8 - 1) + body


def fragment6(protocol: int, offset: int, *, more: bool, identity: int = 7) -> bytes:
    """`offset`: in bytes."""
    return struct.pack(">BBHI", protocol, 0, offset | more, identity)


def ip(source: str, destination: str, protocol: int, l4: bytes, *, ttl: int = 64) -> bytes:
    """An IP packet of either family with a valid checksum of what it carries."""
    build = ipv6 if ":" in source else ipv4
    return build(source, destination, protocol, summed(source, destination, protocol, l4), ttl=ttl)


def ether(packet: bytes, *, tags: tuple[int, ...] = (), kind: int | None = None) -> bytes:
    """To us, from a peer."""
    if kind is None:
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    ethertypes = [0x88A8] * (len(tags) - 1) + [0x8100] * bool(tags)
    between = b"".join(struct.pack(">HH", *pair) for pair in zip(ethertypes, tags, strict=True))
    return MAC_US + MAC_PEER + between + struct.pack(">H", kind) + packet


def error(
    source: str, destination: str, quote: bytes, *, kind: int, code: int = 0, rest: int = 0
) -> bytes:
    """An ICMP or ICMPv6 error's IP packet."""
    message = struct.pack(">BBHI", kind, code, 0, rest) + quote
    return ip(source, destination, ICMP6 if ":" in source else ICMP, message)
