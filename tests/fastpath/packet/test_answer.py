"""What the forwarder itself says: echo replies, too big, expired."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastpath.packet.frames import (
    CLIENT4,
    CLIENT6,
    ICMP,
    ICMP6,
    MAC_PEER,
    MAC_US,
    TCP,
    UDP,
    VIP4,
    VIP6,
    error,
    ether,
    ip,
    ipv4,
    ipv6,
    summed,
    tcp,
    udp,
)
from tests.fastpath.packet.samples import DATA, PORTS, SAMPLES

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

FAMILIES = pytest.mark.parametrize(
    ("client", "vip"), [(CLIENT4, VIP4), (CLIENT6, VIP6)], ids=["ipv4", "ipv6"]
)


def reply(packet: bytes, tags: tuple[int, ...] = ()) -> bytes:
    """The frame that brings it back."""
    return MAC_PEER + MAC_US + ether(packet, tags=tags)[12:]


def echo(source: str, destination: str, rest: bytes, *, request: bool, ttl: int = 64) -> bytes:
    """`rest`: id, number and data."""
    if ":" in source:
        message = struct.pack(">BBH", 128 if request else 129, 0, 0) + rest
        return ip(source, destination, ICMP6, message, ttl=ttl)
    message = struct.pack(">BBH", 8 if request else 0, 0, 0) + rest
    return ip(source, destination, ICMP, message, ttl=ttl)


@FAMILIES
@given(st.binary(min_size=4, max_size=60) | st.integers(4, 40).map(bytes), st.integers(0, 255))
def test_a_reply_is_the_request_turned_round(client: str, vip: str, rest: bytes, ttl: int) -> None:
    frame = ether(echo(client, vip, rest, request=True, ttl=ttl), tags=(3,))
    expected = reply(echo(vip, client, rest, request=False), tags=(3,))
    assert probe.echo_reply(frame + b"padding") == expected


def test_a_reply_has_the_right_checksum_whatever_the_request_had() -> None:
    """Where the change of the type carries out of the word, and where nothing is left but zeros."""
    for identity in range(0x10000):
        rest = struct.pack(">HH", identity, 0)
        expected = summed(VIP4, CLIENT4, ICMP, bytes(4) + rest)
        frame = ether(echo(CLIENT4, VIP4, rest, request=True))
        assert probe.echo_reply(frame)[34:] == expected


@FAMILIES
def test_a_damaged_request_gets_a_damaged_reply(client: str, vip: str) -> None:
    frame = bytearray(ether(echo(client, vip, DATA, request=True)))
    frame[-1] ^= 1
    good = reply(echo(vip, client, DATA[:-1] + bytes([DATA[-1] ^ 1]), request=False))
    assert probe.echo_reply(bytes(frame)) != good


@pytest.mark.parametrize("size", [0, 100, 520, 528, 1200, 1400, 8900])
def test_a_packet_too_big_is_told_the_mtu(size: int) -> None:
    packet = ip(CLIENT4, VIP4, UDP, udp(PORTS, bytes(size)))
    expected = error(VIP4, CLIENT4, packet[: 576 - 28], kind=3, code=4, rest=1480)
    assert without_id(probe.too_big(ether(packet), 1480)) == without_id(reply(expected))
    packet = ip(CLIENT6, VIP6, UDP, udp(PORTS, bytes(size)))
    expected = error(VIP6, CLIENT6, packet[: 1280 - 48], kind=2, rest=1460)
    assert probe.too_big(ether(packet, tags=(1, 2)), 1460) == reply(expected, tags=(1, 2))


@FAMILIES
def test_what_expired_is_told(client: str, vip: str) -> None:
    packet = ip(client, vip, TCP, tcp(PORTS, DATA), ttl=1)
    expected = error(vip, client, packet, kind=3 if ":" in vip else 11)
    assert without_id(probe.expired(ether(packet))) == without_id(reply(expected))


def without_id(frame: bytes) -> bytes:
    """An answer has the id 0, the model's packets 1."""
    if frame[12:14] != b"\x08\x00":
        return frame
    head = frame[14:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:34]
    return frame[:14] + head + frame[34:]


def test_an_answers_header_is_sound() -> None:
    answer = probe.too_big(SAMPLES["v4 tcp"], 1400)
    assert answer[14:34] == ipv4(VIP4, CLIENT4, ICMP, answer[34:], identity=0)[:20]


@pytest.mark.parametrize("name", SAMPLES)
def test_who_may_get_no_answer_gets_none(name: str) -> None:
    """Errors never answer errors, nor a fragment of which they could not say whose it is."""
    frame = SAMPLES[name]
    bare = name.removeprefix("v4 ").removeprefix("v6 ")
    about = ("too big", "quoted", "unreachable", "later", "sctp", "esp", "arp", "tags too many")
    expected = not any(word in bare for word in about)
    assert bool(probe.too_big(frame, 1400)) == expected
    assert bool(probe.expired(frame)) == expected


def test_nothing_to_a_group_and_nothing_from_nobody_is_answered() -> None:
    frame = SAMPLES["v4 udp"]
    for bad in (
        b"\xff" * 6 + frame[6:],
        ether(ipv4(CLIENT4, "255.255.255.255", UDP, udp(PORTS))),
        ether(ipv4("0.0.0.0", VIP4, UDP, udp(PORTS))),
        ether(ipv6(CLIENT6, "ff02::1", UDP, udp(PORTS))),
    ):
        assert probe.too_big(bad, 1400) == b""
        assert probe.expired(bad) == b""
