"""Packets on their way there and back: every checksum from scratch, every other byte kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.packet.verdicts import UNWRITTEN, VERDICTS
from tests.fastpath.packet.frames import (
    BACKEND4,
    BACKEND6,
    CLIENT4,
    CLIENT6,
    MAC_US,
    NODE4,
    NODE6,
    TCP,
    UDP,
    VIP4,
    VIP6,
    Ports,
    error,
    ether,
    ip,
    ipv4,
    mapped,
    pseudo,
    summed,
    tcp,
    udp,
    word_sum,
)
from tests.fastpath.packet.samples import BACK, DATA, PORTS, ROUTER4, ROUTER6, SAMPLES

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

MAC_NEXT = bytes.fromhex("02000000000c")
MACS = {"destination_mac": MAC_NEXT, "source_mac": MAC_US}
TO_BACKEND = Ports(50001, 8080)
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
PROTOCOLS = pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
UDP_V4_CHECKSUM = slice(14 + 20 + 6, 14 + 20 + 8)


class Net:
    """The addresses of one family."""

    def __init__(self, *, v6: bool) -> None:
        self.v6 = v6
        self.client = CLIENT6 if v6 else CLIENT4
        self.vip = VIP6 if v6 else VIP4
        self.node = NODE6 if v6 else NODE4
        self.backend = BACKEND6 if v6 else BACKEND4
        self.router = ROUTER6 if v6 else ROUTER4

    def nat(self) -> dict[str, Any]:
        """Client to backend."""
        return nat(self.node, TO_BACKEND.source, self.backend, TO_BACKEND.destination)

    def back(self) -> dict[str, Any]:
        """Backend to client."""
        return nat(self.vip, PORTS.destination, self.client, PORTS.source)


def nat(source: str, source_port: int, destination: str, destination_port: int) -> dict[str, Any]:
    return MACS | {
        "how": probe.NAT,
        "source": mapped(source),
        "source_port": source_port,
        "destination": mapped(destination),
        "destination_port": destination_port,
    }


def l4_of(protocol: int, ports: Ports, data: bytes = DATA) -> bytes:
    return tcp(ports, data) if protocol == TCP else udp(ports, data)


def sent(packet: bytes, tags: tuple[int, ...] = ()) -> bytes:
    """The frame as it leaves."""
    return MAC_NEXT + MAC_US + ether(packet, tags=tags)[12:]


def written(frame: bytes, what: dict[str, Any], **how: Any) -> bytes:
    result, out = probe.rewrite(frame, what, **how)
    assert UNWRITTEN[result] == ""
    assert isinstance(out, bytes)
    return out


@pytest.mark.parametrize("name", [name for name in SAMPLES if "last hop" not in name])
def test_dsr_changes_macs_and_ttl_and_nothing_else(name: str) -> None:
    frame = SAMPLES[name]
    number, fields = probe.parse(frame)
    if VERDICTS[number] not in {"flow", "fragment", "icmp-error"}:
        return
    out = written(frame, MACS | {"how": probe.MAC})
    l3, l4 = fields["l3"], fields["l4"]
    assert out[:12] == MAC_NEXT + MAC_US
    changed = bytearray(frame[l3:])
    changed[7 if fields["v6"] else 8] -= 1
    if not fields["v6"]:
        assert word_sum(out[l3:l4]) == 0xFFFF
        changed[10:12] = out[l3 + 10 : l3 + 12]
    assert out[l3:] == changed
    assert out[12:l3] == frame[12:l3]


@FAMILIES
@PROTOCOLS
def test_nat_gives_the_packet_that_the_node_would_have_sent(v6: bool, protocol: int) -> None:
    net = Net(v6=v6)
    frame = ether(ip(net.client, net.vip, protocol, l4_of(protocol, PORTS)), tags=(5,))
    there = ip(net.node, net.backend, protocol, l4_of(protocol, TO_BACKEND), ttl=63)
    assert written(frame, net.nat()) == sent(there, tags=(5,))


@FAMILIES
@PROTOCOLS
def test_nat_back_gives_the_packet_that_the_vip_would_have_sent(v6: bool, protocol: int) -> None:
    net = Net(v6=v6)
    answer = Ports(TO_BACKEND.destination, TO_BACKEND.source)
    frame = ether(ip(net.backend, net.node, protocol, l4_of(protocol, answer)))
    home = ip(net.vip, net.client, protocol, l4_of(protocol, BACK), ttl=63)
    assert written(frame, net.back()) == sent(home)


V4 = st.ip_addresses(v=4).filter(lambda a: 1 <= a.packed[0] < 224 and a.packed[0] != 127).map(str)
V6 = st.ip_addresses(v=6).filter(lambda a: 1 <= a.packed[0] < 0xFF).map(str)
PORT = st.integers(0, 65535)
ENDS = st.one_of(*(st.lists(each, min_size=4, max_size=4, unique=True) for each in (V4, V6)))


@settings(max_examples=800)
@given(
    ENDS,
    st.tuples(PORT, PORT, PORT, PORT),
    st.sampled_from([TCP, UDP]),
    st.binary(max_size=40),
    st.integers(2, 255),
)
def test_nat_of_any_addresses_gives_every_checksum_from_scratch(
    ends: list[str], ports: tuple[int, int, int, int], protocol: int, data: bytes, ttl: int
) -> None:
    client, vip, node, backend = ends
    frame = ether(ip(client, vip, protocol, l4_of(protocol, Ports(*ports[:2]), data), ttl=ttl))
    what = nat(node, ports[2], backend, ports[3])
    there = ip(node, backend, protocol, l4_of(protocol, Ports(*ports[2:]), data), ttl=ttl - 1)
    assert written(frame, what) == sent(there)


@settings(max_examples=300)
@given(st.booleans(), st.sampled_from([TCP, UDP]), st.integers(1, 0xFFFF))
def test_a_wrong_checksum_stays_as_wrong_as_it_was(v6: bool, protocol: int, off: int) -> None:
    net = Net(v6=v6)
    frame = bytearray(ether(ip(net.client, net.vip, protocol, l4_of(protocol, PORTS))))
    fields = probe.parse(bytes(frame))[1]
    at = fields["l4"] + (16 if protocol == TCP else 6)
    value = (int.from_bytes(frame[at : at + 2]) + off) % 0xFFFF
    frame[at : at + 2] = (value or 0xFFFF).to_bytes(2)
    out = written(bytes(frame), net.nat())

    def residue(whole: bytes, source: str, destination: str) -> int:
        l4 = whole[fields["l4"] : fields["end"]]
        return word_sum(pseudo_of(source, destination, protocol, l4) + l4) % 0xFFFF

    assert residue(out, net.node, net.backend) == residue(bytes(frame), net.client, net.vip)


def pseudo_of(source: str, destination: str, protocol: int, l4: bytes) -> bytes:
    bare = [mapped(each) if ":" in each else mapped(each)[12:] for each in (source, destination)]
    return pseudo(*bare, protocol, len(l4))


def test_a_datagram_without_checksum_gets_none() -> None:
    net = Net(v6=False)
    out = written(SAMPLES["v4 udp without checksum"], net.nat())
    assert out[UDP_V4_CHECKSUM] == bytes(2)


def test_a_computed_checksum_of_0_is_sent_as_ffff() -> None:
    """Data that makes the new one 0."""
    net = Net(v6=False)
    bare = udp(TO_BACKEND, bytes(2))
    over = pseudo_of(net.node, net.backend, UDP, bare) + bare
    data = (0xFFFF - word_sum(over)).to_bytes(2)
    there = sent(ip(net.node, net.backend, UDP, udp(TO_BACKEND, data), ttl=63))
    assert there[UDP_V4_CHECKSUM] == b"\xff\xff"
    assert written(ether(ip(net.client, net.vip, UDP, udp(PORTS, data))), net.nat()) == there


def partial(source: str, destination: str, protocol: int, l4: bytes) -> bytes:
    """As a local stack hands it over (CHECKSUM_PARTIAL): the pseudo-header's sum."""
    at = 16 if protocol == TCP else 6
    word = word_sum(pseudo_of(source, destination, protocol, l4))
    return l4[:at] + word.to_bytes(2) + l4[at + 2 :]


@FAMILIES
@PROTOCOLS
def test_an_unfinished_checksum_stays_one_that_a_card_can_finish(v6: bool, protocol: int) -> None:
    net = Net(v6=v6)
    frame = SAMPLES["v6 tcp" if v6 else "v4 tcp"]
    whole = ip(net.client, net.vip, protocol, l4_of(protocol, PORTS))
    l3_size = 40 if v6 else 20
    l4 = partial(net.client, net.vip, protocol, whole[l3_size:])
    frame = ether(whole[:l3_size] + l4)
    out = written(frame, net.nat(), partial=True)
    there = ip(net.node, net.backend, protocol, l4_of(protocol, TO_BACKEND), ttl=63)
    unfinished = partial(net.node, net.backend, protocol, there[l3_size:])
    assert out == sent(there[:l3_size] + unfinished)
    assert probe.finish_checksum(out) == sent(there)
    assert probe.finish_checksum(frame) == ether(whole)


@FAMILIES
def test_the_fragments_of_a_datagram_make_the_datagram_that_the_node_would_have_sent(
    v6: bool,
) -> None:
    net = Net(v6=v6)
    prefix = "v6" if v6 else "v4"
    first, later = SAMPLES[f"{prefix} first"], SAMPLES[f"{prefix} later"]
    parts = [written(each, net.nat(), key=first) for each in (first, later)]
    at = [probe.parse(each)[1] for each in parts]
    datagram = b"".join(
        part[fields["l4"] : fields["end"]] for part, fields in zip(parts, at, strict=True)
    )
    assert datagram == summed(net.node, net.backend, UDP, udp(TO_BACKEND, DATA))
    assert at[1]["key"][0::2][:2] == (mapped(net.node), mapped(net.backend))


def quoted(source: str, destination: str, protocol: int, ports: Ports, size: int | None) -> bytes:
    return ip(source, destination, protocol, l4_of(protocol, ports))[:size]


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("whole", [True, False], ids=["whole quote", "8 bytes quoted"])
def test_an_error_reaches_the_backend_about_the_packet_that_it_sent(
    v6: bool, protocol: int, whole: bool
) -> None:
    """From a router; about what went from VIP to client, and before that from backend to us."""
    net = Net(v6=v6)
    size = None if whole else (40 if v6 else 20) + 8
    kind = {"kind": 2, "rest": 1400} if v6 else {"kind": 3, "code": 4, "rest": 1400}
    frame = ether(
        error(net.router, net.vip, quoted(net.vip, net.client, protocol, BACK, size), **kind)
    )
    out = written(frame, net.nat())
    answer = Ports(TO_BACKEND.destination, TO_BACKEND.source)
    there = quoted(net.backend, net.node, protocol, answer, size)
    expected = error(net.node, net.backend, there, **kind)
    assert aged(out) == sent(expected)


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("whole", [True, False], ids=["whole quote", "8 bytes quoted"])
def test_an_error_reaches_the_client_about_the_packet_that_it_sent(
    v6: bool, protocol: int, whole: bool
) -> None:
    """From a backend whose port is closed; its address and ours are not the client's to see."""
    net = Net(v6=v6)
    size = None if whole else (40 if v6 else 20) + 8
    kind = {"kind": 1, "code": 4} if v6 else {"kind": 3, "code": 3}
    quote = quoted(net.node, net.backend, protocol, TO_BACKEND, size)
    out = written(ether(error(net.backend, net.node, quote, **kind)), net.back())
    home = quoted(net.client, net.vip, protocol, PORTS, size)
    assert aged(out) == sent(error(net.vip, net.client, home, **kind))


def aged(frame: bytes) -> bytes:
    """One hop younger again."""
    v6 = frame[12:14] == b"\x86\xdd"
    young = bytearray(frame)
    young[14 + (7 if v6 else 8)] += 1
    if not v6:
        assert word_sum(frame[14:34]) == 0xFFFF
        young[24:26] = bytes(2)
        young[24:26] = (word_sum(bytes(young[14:34])) ^ 0xFFFF).to_bytes(2)
    return bytes(young)


def test_the_checksum_of_a_quoted_datagram_without_one_stays_0() -> None:
    net = Net(v6=False)
    quote = ipv4(net.vip, net.client, UDP, udp(BACK, DATA))
    out = written(ether(error(net.router, net.vip, quote, kind=11)), net.nat())
    answer = Ports(TO_BACKEND.destination, TO_BACKEND.source)
    there = ipv4(net.backend, net.node, UDP, udp(answer, DATA))
    assert aged(out) == sent(error(net.node, net.backend, there, kind=11))


@pytest.mark.parametrize("ttl", [0, 1])
@FAMILIES
def test_what_has_come_too_far_is_left_as_it_is(v6: bool, ttl: int) -> None:
    net = Net(v6=v6)
    frame = ether(ip(net.client, net.vip, TCP, tcp(PORTS), ttl=ttl))
    for what in (net.nat(), MACS | {"how": probe.MAC}):
        result, out = probe.rewrite(frame, what)
        assert UNWRITTEN[result] == "expired"
        assert out == frame


def test_no_packet_gets_addresses_of_the_other_family() -> None:
    for name, what in (("v4 tcp", Net(v6=True).nat()), ("v6 tcp", Net(v6=False).nat())):
        result, out = probe.rewrite(SAMPLES[name], what, key=SAMPLES[name])
        assert UNWRITTEN[result] == "family"
        assert out == SAMPLES[name]


def test_a_packet_fits_up_to_the_mtu() -> None:
    frame = SAMPLES["v4 tcp"]
    assert probe.fits(frame, 104)
    assert not probe.fits(frame, 103)


def test_of_merged_packets_each_has_to_fit() -> None:
    frame = ether(ip(CLIENT4, VIP4, TCP, tcp(PORTS, bytes(5792))))
    assert not probe.fits(frame, 1500)
    assert probe.fits(frame, 1488, 1448)
    assert not probe.fits(frame, 1487, 1448)
    # The last one of them may be all there is.
    assert probe.fits(SAMPLES["v4 tcp"], 104, 1448)


def test_every_reason_has_a_name() -> None:
    assert len(UNWRITTEN) == probe.UNWRITTEN_COUNT
