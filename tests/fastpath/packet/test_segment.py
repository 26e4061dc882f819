"""Merged packets taken apart: the packets that a sender would have sent one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastpath.packet.frames import (
    ACK,
    CLIENT4,
    CLIENT6,
    CWR,
    FIN,
    PSH,
    TCP,
    UDP,
    VIP4,
    VIP6,
    ether,
    extension,
    ipv4,
    ipv6,
    summed,
    tcp,
    udp,
)
from tests.fastpath.packet.samples import PORTS

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

TIMESTAMPS = bytes([1, 1, 8, 10]) + bytes(8)
SIZES = st.tuples(st.integers(0, 400), st.integers(1, 200))


def parts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


def packet(l4: bytes, protocol: int, number: int, *, v6: bool) -> bytes:
    """As the sender's kernel numbers them."""
    if v6:
        inner = summed(CLIENT6, VIP6, protocol, l4)
        return ipv6(CLIENT6, VIP6, 60, extension(protocol) + inner)
    inner = summed(CLIENT4, VIP4, protocol, l4)
    return ipv4(CLIENT4, VIP4, protocol, inner, identity=(0xFFFE + number) & 0xFFFF)


@given(SIZES, st.booleans(), st.sampled_from([ACK, ACK | PSH | FIN, ACK | CWR | PSH]))
def test_tcp_is_taken_apart_as_its_sender_would_have_sent_it(
    sizes: tuple[int, int], v6: bool, flags: int
) -> None:
    data = bytes(at & 255 for at in range(sizes[0]))
    begin = 0xFFFFFF80  # wraps around
    whole = tcp(PORTS, data, flags=flags, options=TIMESTAMPS, sequence=begin)
    pieces = parts(data, sizes[1])
    expected = []
    for number, piece in enumerate(pieces):
        own = flags & ~CWR if number else flags
        if number < len(pieces) - 1:
            own &= ~(FIN | PSH)
        sequence = (begin + number * sizes[1]) & 0xFFFFFFFF
        l4 = tcp(PORTS, piece, flags=own, options=TIMESTAMPS, sequence=sequence)
        expected.append(ether(packet(l4, TCP, number, v6=v6), tags=(4,)))
    merged = ether(packet(whole, TCP, 0, v6=v6), tags=(4,))
    assert probe.segments(merged + b"padding", sizes[1]) == expected


@given(SIZES, st.booleans())
def test_udp_is_taken_apart_datagram_by_datagram(sizes: tuple[int, int], v6: bool) -> None:
    data = bytes(at & 255 for at in range(sizes[0]))
    merged = ether(packet(udp(PORTS, data), UDP, 0, v6=v6))
    assert probe.segments(merged, sizes[1]) == [
        ether(packet(udp(PORTS, piece), UDP, number, v6=v6))
        for number, piece in enumerate(parts(data, sizes[1]))
    ]


def test_datagrams_without_a_checksum_stay_without() -> None:
    merged = ether(ipv4(CLIENT4, VIP4, UDP, udp(PORTS, bytes(100)), identity=1))
    assert probe.segments(merged, 60) == [
        ether(ipv4(CLIENT4, VIP4, UDP, udp(PORTS, bytes(60)), identity=1)),
        ether(ipv4(CLIENT4, VIP4, UDP, udp(PORTS, bytes(40)), identity=2)),
    ]


def test_the_longest_packet_there_is_is_taken_apart() -> None:
    data = bytes(range(256)) * 255
    merged = ether(packet(tcp(PORTS, data, options=TIMESTAMPS), TCP, 0, v6=False))
    pieces = probe.segments(merged, 1448)
    assert len(pieces) == 46
    assert b"".join(piece[14 + 20 + 32 :] for piece in pieces) == data
