"""Frames understood: beside a model in Python, cut and changed in every way."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.packet.verdicts import VERDICTS
from tests.fastpath.packet import frames, model
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
    checksum,
    error,
    ether,
    extension,
    fragment6,
    ip,
    ipv4,
    ipv6,
    mapped,
    tcp,
    udp,
)
from tests.fastpath.packet.samples import BACK, DATA, PORTS, ROUTER4, SAMPLES

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

ERRORS = (
    "tcp too big",
    "tcp expired, quoted little",
    "udp unreachable",
    "udp expired, quoted little",
)
USEFUL = {"flow", "fragment", "icmp-error", "echo"}
SYN = tcp(PORTS, flags=frames.SYN)


def verdict(frame: bytes) -> str:
    return VERDICTS[probe.parse(frame)[0]]


def fields(frame: bytes) -> dict[str, Any]:
    found: dict[str, Any] = probe.parse(frame)[1]
    return found


def sixteen(address: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + address if len(address) == 4 else address


def check(frame: bytes) -> str:
    """That the engine and the model agree; the verdict."""
    number, found = probe.parse(frame)
    expected, packet = model.parse(frame)
    assert VERDICTS[number] == expected, (VERDICTS[number], expected)
    if expected not in USEFUL:
        return expected
    source, source_port, destination, destination_port, protocol = found["key"]
    assert (source, destination) == (sixteen(packet.source), sixteen(packet.destination))
    assert (source_port, destination_port) == packet.ports
    assert protocol == packet.protocol
    assert (found["v6"], found["ttl"], found["tcp_flags"]) == (packet.v6, packet.ttl, packet.flags)
    assert frame[found["l3"] : found["end"]] == packet.data
    identity, offset, _ = packet.fragment or (0, 0, False)
    assert found["fragment"] == (0 if packet.fragment is None else 2 if offset else 1)
    assert found["fragment_id"] == identity
    return expected


def with_header_checksum(frame: bytes) -> bytes:
    """The frame with a valid IPv4 header where it has one, so that what follows is looked at."""
    if frame[12:14] != b"\x08\x00" or len(frame) < 34:
        return frame
    end = 14 + max(20, (frame[14] & 15) * 4)
    head = frame[14:24] + bytes(2) + frame[26:end]
    return frame[:24] + struct.pack(">H", checksum(head)) + frame[26:]


VALUES = st.one_of(
    st.integers(0, 255), st.sampled_from([0, 1, 4, 5, 6, 17, 43, 44, 51, 58, 60, 0x45, 0x60, 255])
)
CHANGES = st.lists(st.tuples(st.integers(0, 160), VALUES), max_size=4)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_what_the_model_says(name: str) -> None:
    found = check(SAMPLES[name])
    expected = {
        "later": "fragment",
        "echo": "echo",
        "sctp": "other-protocol",
        "esp": "hidden",
        "arp": "not-ip",
        "tags too many": "not-ip",
    }
    bare = name.removeprefix("v4 ").removeprefix("v6 ")
    expected |= dict.fromkeys(ERRORS, "icmp-error")
    assert found == expected.get(bare, "flow")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_beginning_of_a_sample_has_a_verdict(name: str) -> None:
    frame = SAMPLES[name]
    size = fields(frame)["end"] or len(frame)
    for end in range(size):
        found = check(frame[:end])
        assert found in {"truncated", "not-ip", "hidden"} or name in {"arp", "tags too many"}
        if found == "hidden":
            assert "esp" in name


@settings(max_examples=3000)
@given(st.sampled_from(sorted(SAMPLES)), CHANGES, st.integers(0, 40), st.booleans())
def test_a_changed_frame_is_what_the_model_says(
    name: str, changes: list[tuple[int, int]], cut: int, repair: bool
) -> None:
    frame = bytearray(SAMPLES[name])
    for at, value in changes:
        frame[at % len(frame)] = value
    changed = bytes(frame[: len(frame) - cut]) if cut < 20 else bytes(frame)
    check(with_header_checksum(changed) if repair else changed)


@settings(max_examples=1000)
@given(st.lists(st.sampled_from([0, 43, 44, 50, 51, 59, 60, 6, 17, 58]), max_size=9), st.data())
def test_chains_of_extensions_are_walked_as_the_model_walks_them(
    kinds: list[int], data: st.DataObject
) -> None:
    body = data.draw(st.sampled_from([tcp(PORTS, DATA), udp(PORTS, DATA), bytes(16)]))
    protocol = data.draw(st.sampled_from([TCP, UDP, ICMP6]))
    for kind in reversed(kinds):
        if kind == FRAGMENT:
            offset = data.draw(st.sampled_from([0, 0, 0, 8, 64]))
            header = fragment6(protocol, offset, more=data.draw(st.booleans()))
        elif kind == frames.AH:
            header = struct.pack(">BB10x", protocol, data.draw(st.integers(1, 2)))
        else:
            header = extension(protocol, bytes(data.draw(st.sampled_from([6, 6, 14]))))
        body, protocol = header + body, kind
    check(ether(ipv6(CLIENT6, VIP6, protocol, body)))


@settings(max_examples=500)
@given(st.binary(max_size=40), st.booleans())
def test_options_are_looked_through_as_the_model_does(options: bytes, route: bool) -> None:
    options = (b"\x01\x83\x03\x04" if route else b"") + options
    options = options[: len(options) // 4 * 4][:40]
    check(ether(ipv4(CLIENT4, VIP4, UDP, udp(PORTS, DATA), options=options)))


def test_the_key_is_the_addresses_and_ports_as_they_stand_in_the_packet() -> None:
    key = fields(SAMPLES["v4 tcp"])["key"]
    assert key == (mapped(CLIENT4), 40000, mapped(VIP4), 443, TCP)


def test_an_error_has_the_key_of_what_goes_its_way() -> None:
    """The quoted packet went from the VIP to the client; the error goes to the VIP."""
    for name in ("tcp too big", "tcp expired, quoted little"):
        key = fields(SAMPLES[f"v4 {name}"])["key"]
        assert key == fields(SAMPLES["v4 tcp"])["key"]
        assert fields(SAMPLES[f"v6 {name}"])["key"] == fields(SAMPLES["v6 tcp"])["key"]


def test_a_later_fragment_has_no_ports_but_what_tells_whose_it_is() -> None:
    first, later = fields(SAMPLES["v4 first"]), fields(SAMPLES["v4 later"])
    assert later["key"] == (mapped(CLIENT4), 0, mapped(VIP4), 0, UDP)
    assert first["key"][1] == PORTS.source
    same = ("fragment_id", "fragment_protocol")
    assert [first[name] for name in same] == [later[name] for name in same] == [9, UDP]


def test_padding_is_no_part_of_the_packet() -> None:
    frame = SAMPLES["v4 padded"]
    assert fields(frame)["end"] == len(frame) - 18


def test_ipv4_mapped_addresses_on_the_wire_are_not_taken_for_ipv4() -> None:
    """Their flow's key would be that of an IPv4 client."""
    bad = f"::ffff:{CLIENT4}"
    assert verdict(ether(ipv6(bad, VIP6, TCP, SYN))) == "source"
    assert verdict(ether(ipv6(CLIENT6, f"::ffff:{VIP4}", TCP, SYN))) == "destination"
    quote = ipv6(VIP6, bad, TCP, tcp(BACK))
    assert verdict(ether(error(CLIENT6, VIP6, quote, kind=1))) == "quote"


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255"],
)
def test_no_ipv4_packet_is_from_or_to_who_is_no_host(address: str) -> None:
    assert verdict(ether(ipv4(address, VIP4, TCP, SYN))) == "source"
    assert verdict(ether(ipv4(CLIENT4, address, TCP, SYN))) == "destination"


@pytest.mark.parametrize("address", ["::", "::1", "ff02::1", "ff0e::5"])
def test_no_ipv6_packet_is_from_or_to_who_is_no_host(address: str) -> None:
    assert verdict(ether(ipv6(address, VIP6, TCP, SYN))) == "source"
    assert verdict(ether(ipv6(CLIENT6, address, TCP, SYN))) == "destination"


def test_addresses_beside_those_are_hosts() -> None:
    for address in (
        "1.0.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "223.255.255.255",
        "255.255.255.254",
    ):
        assert verdict(ether(ipv4(address, VIP4, TCP, SYN))) == "flow"
    for address in ("::2", "::1:0:0", "fe80::1", "::fffe:1.2.3.4", "::101"):
        assert verdict(ether(ipv6(address, VIP6, TCP, SYN))) == "flow"


def test_what_says_that_it_comes_from_where_it_goes_is_no_flow() -> None:
    assert verdict(ether(ipv4(VIP4, VIP4, TCP, SYN))) == "land"
    assert verdict(ether(ipv6(VIP6, VIP6, TCP, SYN))) == "land"


def test_a_frame_to_a_group_is_not_forwarded_though_its_packet_has_a_host() -> None:
    frame = SAMPLES["v4 tcp"]
    assert verdict(b"\xff" * 6 + frame[6:]) == "destination"
    assert verdict(b"\x01" + frame[1:]) == "destination"


def test_who_chooses_the_way_of_a_packet_is_not_served() -> None:
    for kind in (131, 137):
        options = bytes([kind, 7, 4, 10, 0, 0, 1, 0])
        assert verdict(ether(ipv4(CLIENT4, VIP4, TCP, SYN, options=options))) == "routed"
    body = bytes([0, 1]) + bytes(4) + bytes(16)
    assert verdict(ether(ipv6(CLIENT6, VIP6, ROUTING, extension(TCP, body) + SYN))) == "routed"


def test_a_damaged_ipv4_header_is_told() -> None:
    for at in range(14, 34):
        frame = bytearray(SAMPLES["v4 tcp"])
        frame[at] ^= 0x10
        assert verdict(bytes(frame)) in {"checksum", "not-ip", "length", "truncated"}


def test_no_more_extensions_than_six_are_walked() -> None:
    for n, expected in ((6, "flow"), (7, "extensions")):
        chain = b"".join(extension(TCP if at == n - 1 else OPTIONS) for at in range(n))
        assert verdict(ether(ipv6(CLIENT6, VIP6, OPTIONS, chain + SYN))) == expected
    late = extension(HOP_BY_HOP) + extension(TCP)
    assert verdict(ether(ipv6(CLIENT6, VIP6, OPTIONS, late + SYN))) == "extensions"


def test_a_fragment_may_not_write_over_ports_and_flags() -> None:
    for offset, expected in ((1, "overlap"), (2, "overlap"), (3, "fragment")):
        assert verdict(ether(ipv4(CLIENT4, VIP4, TCP, DATA, fragment=offset))) == expected
    assert verdict(ether(ipv4(CLIENT4, VIP4, UDP, DATA, fragment=1))) == "fragment"
    tiny = ipv4(CLIENT4, VIP4, TCP, SYN[:16], fragment=0x2000)
    assert verdict(ether(tiny)) == "truncated"


def test_fragments_end_where_a_datagram_can() -> None:
    for size, expected in ((7, "fragment"), (8, "length"), (16, "length")):
        packet = ipv4(CLIENT4, VIP4, UDP, bytes(size), fragment=8191)
        assert verdict(ether(packet)) == expected, size
    assert verdict(ether(ipv4(CLIENT4, VIP4, UDP, bytes(15), fragment=0x2002))) == "length"
    assert verdict(ether(ipv4(CLIENT4, VIP4, UDP, b"", fragment=0x2002))) == "length"


def test_a_fragment_of_ipv6_after_options_is_still_one() -> None:
    """What it carries only its first one tells."""
    packet = ipv6(CLIENT6, VIP6, FRAGMENT, fragment6(OPTIONS, 64, more=False) + DATA)
    assert verdict(ether(packet)) == "fragment"
    assert fields(ether(packet))["fragment_protocol"] == 0


def test_lengths_that_contradict_each_other_are_told() -> None:
    assert verdict(ether(ipv4(CLIENT4, VIP4, UDP, udp(PORTS, DATA, size=7)))) == "length"
    assert verdict(ether(ipv4(CLIENT4, VIP4, UDP, udp(PORTS, DATA, size=73)))) == "length"
    assert verdict(ether(ipv4(CLIENT4, VIP4, UDP, udp(PORTS, DATA, size=71)))) == "flow"
    assert verdict(ether(ipv4(CLIENT4, VIP4, TCP, SYN, size=19))) == "length"
    short = bytearray(SYN)
    short[12] = 4 << 4
    assert verdict(ether(ipv4(CLIENT4, VIP4, TCP, bytes(short)))) == "length"
    assert verdict(ether(ipv6(CLIENT6, VIP6, TCP, SYN, size=0))) == "truncated"


def test_only_the_first_eight_bytes_of_what_an_error_quotes_are_needed() -> None:
    segment = ip(VIP4, CLIENT4, TCP, tcp(BACK, DATA))
    for size, expected in ((28, "icmp-error"), (27, "quote"), (20, "quote"), (19, "quote")):
        assert verdict(ether(error(ROUTER4, VIP4, segment[:size], kind=11))) == expected
    longer = ipv4(VIP4, CLIENT4, TCP, tcp(BACK), options=bytes([1] * 8))
    assert verdict(ether(error(ROUTER4, VIP4, longer[:36], kind=11))) == "icmp-error"
    assert verdict(ether(error(ROUTER4, VIP4, longer[:35], kind=11))) == "quote"


def test_nobody_gets_an_error_about_what_another_one_has_sent() -> None:
    for router, vip, other, client, kind in (
        (ROUTER4, VIP4, "198.51.100.2", CLIENT4, 11),
        (CLIENT6, VIP6, "2001:db8:1::2", "2001:db8::8", 3),
    ):
        for source, expected in ((vip, "icmp-error"), (other, "quote")):
            quote = ip(source, client, TCP, tcp(BACK, DATA))
            assert verdict(ether(error(router, vip, quote, kind=kind))) == expected


def test_an_error_about_something_else_is_for_the_stack() -> None:
    quote = ip(VIP4, CLIENT4, ICMP, struct.pack(">BBHHH", 0, 0, 0, 1, 1))
    assert verdict(ether(error(ROUTER4, VIP4, quote, kind=11))) == "icmp"
    later = ipv4(VIP4, CLIENT4, UDP, DATA, fragment=100)
    assert verdict(ether(error(ROUTER4, VIP4, later, kind=11))) == "quote"


def test_a_path_narrower_than_any_is_not_believed() -> None:
    segment = ip(VIP4, CLIENT4, TCP, tcp(BACK, DATA))
    for mtu, expected in ((0, "icmp-error"), (1, "mtu"), (575, "mtu"), (576, "icmp-error")):
        frame = ether(error(ROUTER4, VIP4, segment, kind=3, code=4, rest=mtu))
        assert verdict(frame) == expected
    segment = ip(VIP6, CLIENT6, TCP, tcp(BACK, DATA))
    for mtu, expected in ((0, "mtu"), (1279, "mtu"), (1280, "icmp-error"), (1 << 16, "icmp-error")):
        frame = ether(error(CLIENT6, VIP6, segment, kind=2, rest=mtu))
        assert verdict(frame) == expected


def test_the_icmp_of_the_other_family_is_another_protocol() -> None:
    assert verdict(ether(ipv4(CLIENT4, VIP4, ICMP6, DATA))) == "other-protocol"
    assert verdict(ether(ipv6(CLIENT6, VIP6, ICMP, DATA))) == "other-protocol"


def test_a_fragment_of_an_echo_request_is_for_the_stack() -> None:
    message = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + DATA
    assert verdict(ether(ipv4(CLIENT4, VIP4, ICMP, message, fragment=0x2000))) == "icmp"
    assert verdict(ether(ipv4(CLIENT4, VIP4, ICMP, message, fragment=9))) == "icmp"


def test_every_verdict_has_a_name() -> None:
    assert len(VERDICTS) == probe.VERDICT_COUNT
    assert len(set(VERDICTS)) == len(VERDICTS)
