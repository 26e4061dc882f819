"""What the ends of a flow say is whole and valid, and what is read is what was said."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.packet.conversation import (
    ACK,
    SIZE_MAX,
    Ends,
    Segment,
    frame,
    headers,
    smallest,
    told_mtu,
)
from tests.fastpath.packet.frames import (
    ICMP,
    ICMP6,
    TCP,
    UDP,
    Ports,
    error,
    ether,
    ip,
    ipv4,
    summed,
    tcp,
)

probe = pytest.importorskip("fastpath.packet._probe")
MACS = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
PORTS = st.integers(1, 65535)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).filter(lambda each: each.ipv4_mapped is None).map(str)
ENDS = st.one_of(
    st.builds(Ends, V4, PORTS, V4, PORTS, st.booleans()),
    st.builds(Ends, V6, PORTS, V6, PORTS, st.booleans()),
)


@given(ENDS, st.integers(0, 1500))
def test_a_frame_has_its_size_its_ends_and_a_checksum_that_is_right(ends: Ends, more: int) -> None:
    size = smallest(ends) + more
    sent = frame(ends, MACS, Segment(ACK, 1 << 31, 7), size=size)
    assert len(sent) == 14 + size
    l3 = 20 if "." in ends.source else 40
    protocol = UDP if ends.udp else TCP
    assert sent[14 + l3 :] == summed(ends.source, ends.destination, protocol, sent[14 + l3 :])
    said = headers(sent)
    assert (said.ends, said.outer, said.ttl) == (ends, None, 64)
    assert (said.destination_mac, said.source_mac) == MACS


@given(ENDS)
def test_the_forwarder_takes_it_for_the_flow_that_it_is_of(ends: Ends) -> None:
    verdict, fields = probe.parse(frame(ends, MACS))
    addresses = [ipaddress.ip_address(each) for each in (ends.source, ends.destination)]
    if verdict == 0:
        assert (fields["key"][1], fields["key"][3]) == (ends.source_port, ends.destination_port)
    else:  # as all that has such addresses: from a group, loopback, nobody, or from itself
        assert any(
            each.is_multicast or each.is_loopback or each.is_unspecified or each.packed[0] >= 240
            or each.packed[0] in {0, 127}
            for each in addresses
        ) or addresses[0] == addresses[1]  # fmt: skip


def test_what_comes_back_has_its_ends_the_other_way_round() -> None:
    ends = Ends("192.0.2.7", 40000, "198.51.100.1", 443, udp=True)
    assert ends.reverse == Ends("198.51.100.1", 443, "192.0.2.7", 40000, udp=True)
    assert ends.reverse.reverse == ends


@pytest.mark.parametrize("size", [39, SIZE_MAX + 1, -1])
def test_a_size_that_no_packet_has_is_refused_with_the_sizes_that_there_are(size: int) -> None:
    with pytest.raises(ValueError, match="40 to 65535"):
        frame(Ends("192.0.2.7", 1, "198.51.100.1", 2), MACS, size=size)


def test_an_outer_header_is_read_and_so_is_what_is_in_it() -> None:
    inner = ip("192.0.2.7", "198.51.100.1", TCP, tcp(Ports(1, 2)), ttl=9)
    said = headers(ether(ipv4("10.0.0.1", "10.0.0.9", 4, inner)))
    assert said.outer == ("10.0.0.1", "10.0.0.9")
    assert (said.ends, said.ttl) == (Ends("192.0.2.7", 1, "198.51.100.1", 2), 9)


@given(st.binary(max_size=80))
def test_what_is_no_packet_is_refused(data: bytes) -> None:
    try:
        headers(data)
    except ValueError:
        return
    assert data[14] >> 4 == 6 or len(data) >= 14 + 20 + 4


def test_an_error_about_a_size_tells_it_and_no_other_error_does() -> None:
    quote = ip("192.0.2.7", "198.51.100.1", TCP, tcp(Ports(1, 2)))
    told = error("198.51.100.1", "192.0.2.7", quote, kind=3, code=4, rest=1400)
    assert told_mtu(ether(told)) == 1400
    told = error("2001:db8::1", "2001:db8::7", quote, kind=2, rest=1280)
    assert told_mtu(ether(told)) == 1280
    for protocol, source, target in (
        (ICMP, "198.51.100.1", "192.0.2.7"),
        (ICMP6, "2001:db8::1", "2001:db8::7"),
    ):
        assert told_mtu(ether(ip(source, target, protocol, bytes((11, 0, *bytes(30)))))) is None
