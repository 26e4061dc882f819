"""Super-frames cut into packets here, beside the same ones cut by the kernel."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piagent.adapters import netns
from piagent.adapters.forwarded import TCP, UDP
from tests.adapters.asker import mac_of
from tests.fastpath.packet.wires import (
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    Sniffer,
    checksum_of,
    index_of,
    without_offloads,
)
from tests.waiting import wait_until

probe = pytest.importorskip("fastpath.packet._tap_probe", reason="built with PIAGENT_PROBE=1 only")

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

GSO_UDP, GSO_ECN = 5, 0x80
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
SOURCE4, TARGET4, SOURCE6, TARGET6 = "10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2"
ETHER = 14


class Wire:
    """A host that sends and one that hears it; nothing is left to the interfaces."""

    def __init__(self, network: netns.Network) -> None:
        sender, receiver = network.add_host("a"), network.add_host("b")
        without_offloads(sender)
        self.macs = mac_of(receiver) + mac_of(sender)
        self.index = index_of(sender)
        with sender.entered():
            self._transmit = probe.Transmit(bypass=False)
        self._sniffer = Sniffer(receiver)

    def by_the_kernel(self, frame: bytes, offload: tuple[int, ...]) -> list[bytes]:
        assert self._transmit.add(frame, self.index, offload) == probe.OK
        return self._heard()

    def by_us(
        self, frame: bytes, offload: tuple[int, ...], *, outer: int = ETHER, l3: int = ETHER
    ) -> list[bytes]:
        assert self._transmit.cut(frame, self.index, offload, outer, l3) == probe.OK
        return self._heard()

    def refuses(self, frame: bytes, offload: tuple[int, ...], outer: int, l3: int) -> bool:
        if self._transmit.cut(frame, self.index, offload, outer, l3) == probe.OK:
            return False
        return self._heard() == []

    def _heard(self) -> list[bytes]:
        """What arrives, up to a mark behind it."""
        mark = self.macs + b"\x88\xb5the end" + bytes(40)
        self._transmit.flush()
        self._transmit.add(mark, self.index)
        self._transmit.flush()
        found: list[bytes] = []
        wait_until(lambda: found.extend(self._sniffer.frames()) or mark in found)
        return [one for one in found if one[:12] == self.macs and one != mark]


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with netns.Network("pa-cut") as network:
        yield Wire(network)


def l4(protocol: int, flags: int, options: int, payload: bytes) -> bytes:
    if protocol == UDP:
        return struct.pack("!HHHH", 1024, 80, 8 + len(payload), 0) + payload
    words = 5 + options
    head = struct.pack("!HHIIBBHHH", 1024, 80, 0xFFFFFF00, 7, words << 4, flags, 500, 0, 0)
    return head + b"\1" * (4 * options) + payload


def super_frame(
    macs: bytes, *, v6: bool, protocol: int, body: bytes, piece: int, ip_id: int = 0xFFFE
) -> tuple[bytes, tuple[int, ...]]:
    """A frame as a stack hands it on, with the sum of its pseudo-header, and what is left to do."""
    where = 16 if protocol == TCP else 6
    if v6:
        ends = IPv6Address(SOURCE6).packed + IPv6Address(TARGET6).packed
        head = struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + ends
        kind, gso = b"\x86\xdd", GSO_TCPV6
    else:
        ends = IPv4Address(SOURCE4).packed + IPv4Address(TARGET4).packed
        fixed = (0x45, 0, 20 + len(body), ip_id, 0x4000, 64, protocol)
        head = struct.pack("!BBHHHBBH", *fixed, 0) + ends
        head = struct.pack("!BBHHHBBH", *fixed, checksum_of(head)) + ends
        kind, gso = b"\x08\x00", GSO_TCPV4
    pseudo = checksum_of(ends + struct.pack("!II", len(body), protocol)) ^ 0xFFFF
    body = body[:where] + struct.pack("!H", pseudo) + body[where + 2 :]
    size = 4 * (body[12] >> 4) if protocol == TCP else 8
    start = ETHER + len(head)
    offload = (NEEDS_CSUM, gso if protocol == TCP else GSO_UDP, start + size, piece, start, where)
    return macs + kind + head + body, offload


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    v6=st.booleans(),
    protocol=st.sampled_from([TCP, UDP]),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR]),
    options=st.integers(0, 10),
    piece=st.integers(500, 1400),
    n=st.integers(1, 40),
    less=st.integers(0, 499),
)
def test_it_cuts_as_the_kernel_does(
    wire: Wire, *, v6: bool, protocol: int, flags: int, options: int, piece: int, n: int, less: int
) -> None:
    payload = random.Random(n).randbytes(max(piece * n - less, piece + 1))
    body = l4(protocol, flags, options, payload)
    frame, offload = super_frame(wire.macs, v6=v6, protocol=protocol, body=body, piece=piece)
    if flags & CWR and protocol == TCP:
        offload = (*offload[:1], offload[1] | GSO_ECN, *offload[2:])
    expected = wire.by_the_kernel(frame, offload)
    assert len(expected) == -(-len(payload) // piece)
    assert wire.by_us(frame, offload) == expected


def encapsulated(frame: bytes, *, v6: bool) -> bytes:
    inner = frame[ETHER:]
    carried = 4 if inner[0] >> 4 == 4 else 41
    if v6:
        outer = struct.pack("!IHBB", 6 << 28, len(inner), carried, 64)
        outer += IPv6Address(SOURCE6).packed + IPv6Address(TARGET6).packed
        return frame[:12] + b"\x86\xdd" + outer + inner
    ends = IPv4Address(SOURCE4).packed + IPv4Address(TARGET4).packed
    fixed = (0x45, 0, 20 + len(inner), 0, 0, 64, carried)
    outer = struct.pack("!BBHHHBBH", *fixed, 0) + ends
    outer = struct.pack("!BBHHHBBH", *fixed, checksum_of(outer)) + ends
    return frame[:12] + b"\x08\x00" + outer + inner


@pytest.mark.parametrize("outer6", [True, False], ids=["in IPv6", "in IPv4"])
@pytest.mark.parametrize("v6", [True, False], ids=["IPv6", "IPv4"])
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_each_packet_has_an_outer_header_of_its_own(
    wire: Wire, protocol: int, *, v6: bool, outer6: bool
) -> None:
    body = l4(protocol, ACK | PSH, 3, random.Random(7).randbytes(60_000))
    frame, offload = super_frame(wire.macs, v6=v6, protocol=protocol, body=body, piece=1300)
    expected = [encapsulated(one, v6=outer6) for one in wire.by_the_kernel(frame, offload)]
    size = 40 if outer6 else 20
    moved = (*offload[:2], offload[2] + size, offload[3], offload[4] + size, offload[5])
    whole = encapsulated(frame, v6=outer6)
    assert wire.by_us(whole, moved, l3=ETHER + size) == expected
    assert len(expected) == 47


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_makes_no_sense_is_refused_or_cut_within_the_frame(
    wire: Wire, data: st.DataObject
) -> None:
    """Never past the end: what is sent is headers of the frame and pieces of its payload."""
    v6, protocol = data.draw(st.booleans()), data.draw(st.sampled_from([TCP, UDP]))
    body = l4(protocol, ACK, data.draw(st.integers(0, 10)), b"\xaa" * 3000)
    whole, right = super_frame(wire.macs, v6=v6, protocol=protocol, body=body, piece=1000)
    frame = bytearray(whole[: data.draw(st.integers(ETHER + 1, len(whole)))])
    if data.draw(st.booleans()):
        frame[data.draw(st.integers(ETHER, len(frame) - 1))] = data.draw(st.integers(0, 255))
    offload = list(right)
    for place in data.draw(st.sets(st.integers(0, 5), max_size=2)):
        values = [0, 1, 5, 6, 14, 16, 33, 34, 54, 60, 172] + [1000, 3000, 65_535] * (place > 1)
        offload[place] = data.draw(st.sampled_from(values))
    offload[3] = offload[3] and max(offload[3], 50)  # not thousands of packets
    outer, l3 = (data.draw(st.sampled_from([ETHER, ETHER, 0, 34, 65_535])) for _ in range(2))
    wire._transmit.cut(bytes(frame), wire.index, tuple(offload), outer, l3)
    assert all(len(one) <= max(60, len(frame)) for one in wire._heard())


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_a_frame_that_ends_within_its_headers_is_refused(wire: Wire, protocol: int) -> None:
    body = l4(protocol, ACK, 10, bytes(3000))
    frame, offload = super_frame(wire.macs, v6=False, protocol=protocol, body=body, piece=1000)
    for size in range(ETHER, offload[2] + 1):
        assert wire._transmit.cut(frame[:size], wire.index, offload, ETHER, ETHER) != probe.OK
    assert wire._heard() == []


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 0), (1, 0), (1, 3), (3, 0), (4, 14), (4, 15), (4, 190), (4, 65_535), (5, 6), (5, 65_535)],
)
def test_what_is_no_super_frame_is_refused(wire: Wire, place: int, value: int) -> None:
    body = l4(TCP, ACK, 0, bytes(3000))
    frame, offload = super_frame(wire.macs, v6=False, protocol=TCP, body=body, piece=1000)
    changed = list(offload)
    changed[place] = value
    assert wire.refuses(frame, tuple(changed), ETHER, ETHER)
    assert wire.refuses(frame[:54], offload, ETHER, ETHER)  # nothing but headers
    assert wire.refuses(frame, offload, ETHER + 20, ETHER)
    assert wire.refuses(frame, offload, ETHER, 34)
    assert len(wire.by_us(frame, offload)) == 3
