"""What the two ends of a flow say to each other, as Ethernet frames, for trials of the forwarder.

Whole and valid packets without IP options or extension headers (RFC 791, RFC 8200, RFC 768, RFC
9293); what they carry is zeros.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final, NamedTuple

from fastpath.sockets import resolve

SYN, ACK, PSH = 0x02, 0x10, 0x08
"""Flags of TCP."""
SIZE_MAX: Final = 65535
"""Bytes of an IP packet."""
_TTL: Final = 64
_TCP, _UDP = 6, 17
_IPIP, _IPV6 = 4, 41
_ICMP, _ICMP6 = 1, 58
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_ETHER = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEAD = struct.Struct("!IHBB16s16s")
_PORTS = struct.Struct("!HH")
_L4_SIZE = {_TCP: 20, _UDP: 8}


class Ends(NamedTuple):
    """Who sends to whom."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    udp: bool = False

    @property
    def reverse(self) -> Ends:
        """The same of what comes back."""
        return Ends(
            self.destination, self.destination_port, self.source, self.source_port, self.udp
        )


class Segment(NamedTuple):
    """What a TCP header says beside its ports; UDP has nothing of it."""

    flags: int = SYN
    sequence: int = 0
    acknowledgment: int = 0


FIRST: Final = Segment()


class Headers(NamedTuple):
    """What a frame says of its way."""

    destination_mac: bytes
    source_mac: bytes
    outer: tuple[str, str] | None
    """Source and destination of the IP header around the packet."""
    ends: Ends
    ttl: int
    """Or hop limit."""


def smallest(ends: Ends) -> int:
    """Bytes of the IP packet that carries nothing."""
    return (40 if ":" in ends.source else 20) + _L4_SIZE[_UDP if ends.udp else _TCP]


def frame(
    ends: Ends, macs: tuple[bytes, bytes], segment: Segment = FIRST, *, size: int = 0
) -> bytes:
    """Say something; `macs`: of the frame's destination and source.

    `size`: of the IP packet, in bytes; 0: the smallest. Raises ValueError when it is none.
    """
    size = size or smallest(ends)
    if not smallest(ends) <= size <= SIZE_MAX:
        raise ValueError(f"a packet of {size} bytes: {smallest(ends)} to {SIZE_MAX}")
    source = resolve(ends.source, ends.source_port).packed
    destination = resolve(ends.destination, ends.destination_port).packed
    data = bytes(size - smallest(ends))
    protocol = _UDP if ends.udp else _TCP
    if ends.udp:
        l4 = struct.pack("!HHHH", ends.source_port, ends.destination_port, 8 + len(data), 0)
    else:
        numbers = (segment.sequence, segment.acknowledgment, 5 << 4, segment.flags, 65535, 0, 0)
        l4 = struct.pack("!HHIIBBHHH", ends.source_port, ends.destination_port, *numbers)
    over = source + destination + struct.pack("!IHBB", len(l4) + len(data), 0, 0, protocol)
    value = _checksum(over + l4 + data)
    at = 6 if ends.udp else 16
    if ends.udp and value == 0:
        value = 0xFFFF
    l4 = l4[:at] + struct.pack("!H", value) + l4[at + 2 :]
    version = 4 if len(source) == 4 else 6
    ether = _ETHER.pack(*macs, _ETHERTYPES[version])
    return ether + _ip(source, destination, protocol, l4 + data)


def _ip(source: bytes, destination: bytes, protocol: int, rest: bytes) -> bytes:
    if len(source) == 16:
        return _IPV6_HEAD.pack(6 << 28, len(rest), protocol, _TTL, source, destination) + rest
    fields = (0x45, 0, 20 + len(rest), 0, 0x4000, _TTL, protocol)
    head = _IPV4.pack(*fields, 0, source, destination)
    return _IPV4.pack(*fields, _checksum(head), source, destination) + rest


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def headers(sent: bytes) -> Headers:
    """What a frame says that `frame` made, or that the forwarder made of one.

    Raises ValueError when it is another.
    """
    try:
        destination_mac, source_mac, _ = _ETHER.unpack_from(sent)
        packet = sent[_ETHER.size :]
        outer = None
        source, destination, protocol, ttl, rest = _read_ip(packet)
        if protocol in {_IPIP, _IPV6}:
            outer = (source, destination)
            source, destination, protocol, ttl, rest = _read_ip(rest)
        if protocol not in _L4_SIZE:
            raise ValueError(f"protocol {protocol}")
        ports = _PORTS.unpack_from(rest)
    except (struct.error, IndexError) as error:
        raise ValueError(str(error)) from error
    ends = Ends(source, ports[0], destination, ports[1], udp=protocol == _UDP)
    return Headers(destination_mac, source_mac, outer, ends, ttl)


def told_mtu(answer: bytes) -> int | None:
    """The MTU that an ICMP error in a frame tells its receiver; None: it is about something else.

    RFC 1191, 4; RFC 4443, 3.2.
    """
    _, _, protocol, _, rest = _read_ip(answer[_ETHER.size :])
    if protocol == _ICMP and rest[:2] == bytes((3, 4)):
        return int.from_bytes(rest[6:8])
    if protocol == _ICMP6 and rest[:2] == bytes((2, 0)):
        return int.from_bytes(rest[4:8])
    return None


def _read_ip(packet: bytes) -> tuple[str, str, int, int, bytes]:
    """Source, destination, protocol, TTL and what follows the header."""
    if packet[0] >> 4 == 6:
        _, _, protocol, ttl, source, destination = _IPV6_HEAD.unpack_from(packet)
        return *_texts(source, destination), protocol, ttl, packet[_IPV6_HEAD.size :]
    _, _, _, _, _, ttl, protocol, _, source, destination = _IPV4.unpack_from(packet)
    return *_texts(source, destination), protocol, ttl, packet[_IPV4.size :]


def _texts(source: bytes, destination: bytes) -> tuple[str, str]:
    return str(ip_address(source)), str(ip_address(destination))
