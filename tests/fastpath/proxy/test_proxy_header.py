"""PROXY headers: every one that the specification has is read and written, and no other."""

from __future__ import annotations

import socket
import struct
from socket import AF_INET6

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.fastpath.proxy.proxy_headers import (
    CRC32C,
    DGRAM,
    INET,
    LOCAL,
    NOOP,
    PROXY,
    STREAM,
    UNIQUE_ID,
    UNIX,
    Header,
    Place,
    crc32c,
    raw_v2,
    read,
    tlv,
    v1,
    v2,
)

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")
AGAIN, BAD = (-1,), (-3,)

PORTS = st.integers(0, 65535) | st.sampled_from([0, 9, 10, 65535])
V4 = st.tuples(st.ip_addresses(v=4).map(str), PORTS)
V6_TEXTS = st.ip_addresses(v=6).map(str) | st.sampled_from(
    ["::", "::1", "1::", "::ffff:c000:201", "1:0:0:2::3", "0:0:1:0:0:0:1:0", "1:2:3:4:5:6:7:8"]
)
V6 = st.tuples(V6_TEXTS, PORTS)
PAIRS = st.tuples(V4, V4) | st.tuples(V6, V6)
TLVS = st.lists(
    st.tuples(st.sampled_from([1, 2, NOOP, UNIQUE_ID, 0x20, 0x30, 0xEE]), st.binary(max_size=300)),
    max_size=4,
).map(lambda parts: b"".join(tlv(*part) for part in parts))
HEADERS = st.one_of(
    PAIRS.map(lambda pair: v1(*pair)),
    st.builds(
        lambda pair, rest, checksum, protocol: v2(
            *pair, rest, checksum=checksum, protocol=protocol
        ),
        PAIRS,
        TLVS,
        st.booleans(),
        st.sampled_from([STREAM, STREAM, DGRAM]),
    ),
    st.binary(max_size=40).map(lambda rest: v2(None, rest=rest)),
    st.binary(max_size=92).map(lambda text: b"PROXY UNKNOWN " + text + b"\r\n"),
    st.builds(
        raw_v2,
        st.integers(0, 2),
        st.builds(
            lambda family, protocol: family << 4 | protocol, st.integers(0, 4), st.integers(0, 3)
        ),
        st.binary(max_size=230),
        st.sampled_from([2, 2, 2, 1, 3]),
    ),
)
BYTES = st.sampled_from(list(b"0129:. fFgPT46\r\n\0\x03\x04\x21\xff"))
EDITS = st.lists(st.tuples(st.integers(0, 250), st.sampled_from("=+-"), BYTES), max_size=3)


def edited(data: bytes, edits: list[tuple[int, str, int]]) -> bytes:
    """With some bytes replaced, put in or taken away."""
    changed = bytearray(data)
    for place, what, byte in edits:
        at = place % (len(changed) + 1)
        changed[at : at + (what != "+")] = b"" if what == "-" else bytes([byte])
    return bytes(changed)


DATA = st.builds(
    lambda header, edits, more: edited(header, edits) + more,
    HEADERS,
    EDITS,
    st.sampled_from([b"", b"x", b"GET / HTTP/1.1\r\n\r\n"]),
) | st.binary(max_size=60)


def verdict(data: bytes) -> Header | tuple[int]:
    found: tuple[int, ...] = probe.read_proxy_header(data)
    if len(found) == 1:
        return found
    return Header(*found)  # type: ignore[arg-type]


def written(text: str) -> str:
    """As Python writes that address, but for a dotted quad."""
    return socket.inet_ntop(AF_INET6, socket.inet_pton(AF_INET6, text))


def same(header: Header | None) -> Header | None:
    """With addresses spelt as the probe does."""
    if header is None or header.source is None or header.destination is None:
        return header
    ends = [
        (written(text) if ":" in text else text, port)
        for text, port in (header.source, header.destination)
    ]
    return header._replace(source=ends[0], destination=ends[1])


@settings(max_examples=1500)
@given(DATA)
def test_a_header_is_read_where_the_model_reads_one(data: bytes) -> None:
    expected = same(read(data))
    if expected is None:
        assert verdict(data) in {AGAIN, BAD}
    else:
        assert verdict(data) == expected


@settings(max_examples=400)
@given(DATA)
def test_how_the_bytes_arrive_does_not_matter(data: bytes) -> None:
    final = verdict(data)
    sizes = range(len(data) + 1)
    decided = [found for size in sizes if (found := verdict(data[:size])) != AGAIN]
    assert decided == [final] * len(decided)
    assert verdict(data + b"more") == final or final == AGAIN


@settings(max_examples=300)
@given(HEADERS)
def test_no_beginning_of_a_header_is_refused(header: bytes) -> None:
    whole = read(header)
    assume(whole is not None and whole.size == len(header))
    assert {verdict(header[:size]) for size in range(len(header))} == {AGAIN}


LINES = (
    v1(("1.1.1.1", 1), ("1.1.1.1", 1)),
    v1(("::", 1), ("::", 1)),
    v1(("1:1:1:1:1:1:1:1", 1), ("1:1:1:1:1:1:1:1", 1)),
    v1(("::ffff:1.1.1.1", 1), ("::", 1)),
    b"PROXY UNKNOWN \r\n",
)
ENDINGS = sorted({line[at:] for line in LINES for at in range(len(line))}, key=len)


@settings(max_examples=500)
@given(st.builds(edited, HEADERS.filter(lambda data: data.startswith(b"PROXY")), EDITS))
@example(b"PROXY UNKNOWN " + b"x" * 92)
@example(b"PROXY TCP6 1:2:3:4:5:6:7::8")
@example(b"PROXY TCP6 ::1:2:3:4:5:6:7:")
def test_a_line_is_refused_with_the_first_byte_that_no_line_can_have_there(data: bytes) -> None:
    assume(data[:1] != b"\r")
    for size in range(len(data) + 1):
        if verdict(data[:size]) == AGAIN:
            assert any(isinstance(verdict(data[:size] + ending), Header) for ending in ENDINGS)


@given(st.binary(max_size=64), st.binary(max_size=8))
def test_other_protocols_are_refused_at_once(start: bytes, data: bytes) -> None:
    assume(start[:1] not in {b"P", b"\r", b""})
    assert verdict(start + data) == BAD
    for other in (b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"SSH-2.0-", b"POST ", b"PRI * HTTP/2.0"):
        assert verdict(other + data) == BAD


GOOD = [
    (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET", ("192.168.0.1", 56324)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
     ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)),
    (b"PROXY TCP6 2001:DB8::0001 :: 1 1\r\n", ("2001:db8::1", 1)),
    (b"PROXY TCP6 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1 1\r\n", ("1:2:3:4:5:6:7:0", 1)),
    (b"PROXY TCP6 ::FFFF:192.0.2.1 ::ffff:c000:202 1 1\r\n", ("::ffff:192.0.2.1", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN \r\n", None),
    (b"PROXY UNKNOWN ffff::1 \0 anything\xff 99999\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    (v2(("192.0.2.1", 5), ("192.0.2.2", 80)), ("192.0.2.1", 5)),
    (v2(("::1", 5), ("::2", 80), tlv(UNIQUE_ID, b"x" * 128)), ("::1", 5)),
    (v2(("::1", 5), ("::2", 80), tlv(NOOP, bytes(4096 - 39))), ("::1", 5)),
    (v2(None), None),
    (v2(None, rest=b"not looked at"), None),
    (raw_v2(LOCAL, 0xFF, b""), None),
    (raw_v2(PROXY, 0x00, b"?"), None),
    (raw_v2(PROXY, INET << 4, b""), None),
    (raw_v2(PROXY, UNIX << 4 | STREAM, bytes(216)), None),
    (v2(("192.0.2.1", 5), ("192.0.2.2", 80), protocol=DGRAM), None),
]  # fmt: skip


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_what_the_specification_allows_is_read(data: bytes, source: Place | None) -> None:
    found = verdict(data)
    assert isinstance(found, Header)
    assert found.source == source
    assert found == same(read(data))


BAD_LINES = [
    b"PROXY TCP4 192.168.0.01 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 256.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 1.1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 1..1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 ::1 ::1 1 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
    b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4\t1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP6 :: ::1::1 1 1\r\n",
    b"PROXY TCP6 ::: :: 1 1\r\n",
    b"PROXY TCP6 :1 :: 1 1\r\n",
    b"PROXY TCP6 :1:2:3:4:5:6:7:8 :: 1 1\r\n",
    b"PROXY TCP6 1: :: 1 1\r\n",
    b"PROXY TCP6 1:2:3:4:5:6:7 :: 1 1\r\n",
    b"PROXY TCP6 1:2:3:4:5:6:7:8:9 :: 1 1\r\n",
    b"PROXY TCP6 1:2:3:4::5:6:7:8 :: 1 1\r\n",
    b"PROXY TCP6 12345:: :: 1 1\r\n",
    b"PROXY TCP6 fe80::1%1 :: 1 1\r\n",
    b"PROXY TCP6 ::1.2.3.4 :: 1 1\r\n",
    b"PROXY TCP6 ::fffe:1.2.3.4 :: 1 1\r\n",
    b"PROXY TCP6 ::ffff:1.2.3.04 :: 1 1\r\n",
    b"PROXY TCP6 [::1] :: 1 1\r\n",
    b"PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN a\nb\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_line_of_another_form_is_refused(line: bytes) -> None:
    assert read(line) is None
    assert verdict(line) == BAD


ENDS = ("192.0.2.1", 5), ("192.0.2.2", 80)
SUMMED = v2(*ENDS, tlv(NOOP, b"abc"), checksum=True)
BAD_BINARY = [
    (13, raw_v2(PROXY, 0x11, bytes(12), version=1)),
    (13, raw_v2(2, 0x11, bytes(12))),
    (14, raw_v2(PROXY, 0x41, bytes(36))),
    (14, raw_v2(PROXY, 0x13, bytes(36))),
    (15, raw_v2(LOCAL, 0, bytes(0x1100))),
    (16, raw_v2(LOCAL, 0, bytes(4097))),
    (16, raw_v2(PROXY, 0x11, bytes(11))),
    (16, raw_v2(PROXY, 0x22, bytes(35))),
    (16, raw_v2(PROXY, 0x31, bytes(215))),
    (16, v2(*ENDS, b"\x04")),
    (16, v2(*ENDS, b"\x04\x00")),
    (31, v2(*ENDS, b"\x04\x00\x01")),
    (31, v2(*ENDS, tlv(NOOP, b"x" * 9)[:-1])),
    (31, v2(*ENDS, tlv(NOOP, b"x" * 9) + b"yy")),
    (31, v2(*ENDS, tlv(CRC32C, bytes(3)))),
    (31, v2(*ENDS, tlv(CRC32C, bytes(5)))),
    (len(SUMMED), SUMMED[:-1] + bytes([SUMMED[-1] ^ 1])),
    (len(SUMMED), SUMMED[:20] + bytes([SUMMED[20] ^ 1]) + SUMMED[21:]),
    (len(SUMMED), v2(*ENDS, tlv(NOOP, b"abc") + tlv(CRC32C, bytes(4)))),
    (38, v2(*ENDS, tlv(CRC32C, bytes(4)) + tlv(CRC32C, bytes(4)))),
]


@pytest.mark.parametrize(("known_at", "data"), BAD_BINARY)
def test_a_binary_header_that_is_wrong_is_refused_when_that_is_known(
    known_at: int, data: bytes
) -> None:
    assert read(data) is None
    assert verdict(data) == BAD
    assert verdict(data[:known_at]) == BAD
    assert verdict(data[: known_at - 1]) == AGAIN


def test_a_checksum_covers_every_byte() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert isinstance(verdict(SUMMED), Header)
    for at in range(28, len(SUMMED)):  # before it each byte has a meaning of its own
        for bit in range(8):
            changed = bytearray(SUMMED)
            changed[at] ^= 1 << bit
            if read(bytes(changed)) is None:
                assert verdict(bytes(changed) + bytes(256)) == BAD


def plain(text: str) -> str:
    """As RFC 5952 section 4 has it, without a dotted quad."""
    if ":" not in text:
        return text
    groups = [f"{group:x}" for group in struct.unpack("!8H", socket.inet_pton(AF_INET6, text))]
    runs = [
        (size, -at)
        for at in range(8)
        for size in range(2, 9 - at)
        if set(groups[at : at + size]) == {"0"}
    ]
    if not runs:
        return ":".join(groups)
    size, at = max(runs)[0], -max(runs)[1]
    return f"{':'.join(groups[:at])}::{':'.join(groups[at + size :])}"


def as_v6(place: Place) -> Place:
    return place if ":" in place[0] else (f"::ffff:{place[0]}", place[1])


@settings(max_examples=500)
@given(source=V4 | V6, destination=V4 | V6)
def test_what_is_written_is_what_was_meant(source: Place, destination: Place) -> None:
    ends = [source, destination]
    if ":" in source[0] + destination[0]:
        ends = [as_v6(end) for end in ends]
    canonical = [(written(text) if ":" in text else text, port) for text, port in ends]
    for version in (1, 2):
        header = probe.write_proxy_header(version, source, destination)
        assert verdict(header) == Header(len(header), version, canonical[0], canonical[1])
        assert same(read(header)) == verdict(header)
        if version == 2:
            assert header == v2(ends[0], ends[1])
        else:
            assert header.decode().split(" ")[2:4] == [plain(text) for text, _ in ends]


@pytest.mark.parametrize("ends", [(None, None), (ENDS[0], None), (None, ENDS[1])])
def test_who_is_not_known_is_not_named(ends: tuple[Place | None, Place | None]) -> None:
    assert probe.write_proxy_header(1, *ends) == b"PROXY UNKNOWN\r\n"
    assert probe.write_proxy_header(2, *ends) == v2(None)
