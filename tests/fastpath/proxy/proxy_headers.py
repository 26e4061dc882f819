"""PROXY headers in plain Python: what tests send, and what they make of what is sent to them."""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

Place = tuple[str, int]
"""Address and port."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0, 1
UNSPEC, INET, INET6, UNIX = range(4)
STREAM, DGRAM = 1, 2
CRC32C, NOOP, UNIQUE_ID = 3, 4, 5

_LINE_MAX = 107
_HEADER_MAX = 16 + 4096
_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_V4 = rb"\.".join([_OCTET] * 4)
_V6 = rb"[0-9A-Fa-f:]+|::[Ff]{4}:" + _V4
_PORT = rb"(0|[1-9]\d{0,4})"
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|(?:TCP4 (%b) (%b)|TCP6 (%b) (%b)) %b %b)\r\n"
    % (_V4, _V4, _V6, _V6, _PORT, _PORT)
)


class Header(NamedTuple):
    """A whole header: who is connected to what, both None when the header does not say."""

    size: int
    version: int
    source: Place | None = None
    destination: Place | None = None


def v1(source: Place | None, destination: Place | None = None) -> bytes:
    """A line; two addresses of one family, or None for UNKNOWN."""
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    family = "TCP6" if ":" in source[0] else "TCP4"
    places = f"{source[0]} {destination[0]} {source[1]} {destination[1]}"
    return f"PROXY {family} {places}\r\n".encode()


def tlv(kind: int, value: bytes) -> bytes:
    """What may follow the addresses of version 2."""
    return struct.pack("!BH", kind, len(value)) + value


def v2(
    source: Place | None,
    destination: Place | None = None,
    rest: bytes = b"",
    *,
    protocol: int = STREAM,
    checksum: bool = False,
) -> bytes:
    """A binary header; two addresses of one family, or None for LOCAL; `rest` are TLVs."""
    if source is None or destination is None:
        return raw_v2(LOCAL, UNSPEC << 4, rest)
    ends = [ip_address(address) for address, _ in (source, destination)]
    family = INET6 if ends[0].version == 6 else INET
    block = b"".join(end.packed for end in ends) + struct.pack("!HH", source[1], destination[1])
    if not checksum:
        return raw_v2(PROXY, family << 4 | protocol, block + rest)
    rest += tlv(CRC32C, bytes(4))
    header = raw_v2(PROXY, family << 4 | protocol, block + rest)
    return header[:-4] + crc32c(header).to_bytes(4)


def raw_v2(command: int, family: int, block: bytes, version: int = 2) -> bytes:
    """Any header of version 2's form, right or wrong."""
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(block)) + block


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 section 12.1 describes it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read(data: bytes) -> Header | None:
    """The header that `data` begins with; None: there is none, or not all of it."""
    return _read_v2(data) if data.startswith(SIGNATURE) else _read_v1(data)


def _read_v1(data: bytes) -> Header | None:
    match = _LINE.match(data)
    if match is None or match.end() > _LINE_MAX:
        return None
    *addresses, source_port, destination_port = match.groups()
    if source_port is None:
        return Header(match.end(), 1)
    ports = int(source_port), int(destination_port)
    try:
        ends = [str(ip_address(each.decode())) for each in addresses if each is not None]
    except ValueError:
        return None
    if max(ports) > 65535:
        return None
    return Header(match.end(), 1, (ends[0], ports[0]), (ends[1], ports[1]))


def _read_v2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    command, family, size = data[12], data[13], int.from_bytes(data[14:16])
    header, block = data[: 16 + size], data[16 : 16 + size]
    if command >> 4 != 2 or len(block) < size or len(header) > _HEADER_MAX:
        return None
    if command & 15 == LOCAL:
        return Header(len(header), 2)
    if command & 15 != PROXY or family >> 4 > UNIX or family & 15 > DGRAM:
        return None
    if family >> 4 == UNSPEC or family & 15 == 0:
        return Header(len(header), 2)
    length = {INET: 4, INET6: 16, UNIX: 106}[family >> 4]
    layout = struct.Struct(f"!{length}s{length}sHH")
    if size < layout.size or not _tlvs_hold(header, 16 + layout.size):
        return None
    if family >> 4 == UNIX or family & 15 != STREAM:
        return Header(len(header), 2)
    source, destination, source_port, destination_port = layout.unpack_from(block)
    make = IPv4Address if length == 4 else IPv6Address
    return Header(
        len(header), 2, (str(make(source)), source_port), (str(make(destination)), destination_port)
    )


def _tlvs_hold(header: bytes, at: int) -> bool:
    checksums = []
    while at < len(header):
        value_at = at + 3
        end = value_at + int.from_bytes(header[at + 1 : at + 3])
        if value_at > len(header) or end > len(header):
            return False
        if header[at] == CRC32C:
            checksums.append((value_at, end))
        at = end
    if not checksums:
        return True
    start, end = checksums[0]
    blank = header[:start] + bytes(4) + header[end:]
    return (
        len(checksums) == 1 and end - start == 4 and crc32c(blank).to_bytes(4) == header[start:end]
    )
