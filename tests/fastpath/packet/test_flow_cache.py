"""The flow cache's programs, on frames that no interface has seen: byte for byte, or untouched."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fastpath.packet import flow_caches
from tests.fastpath.packet.flow_caches import (
    ENCAPSULATE,
    FLOW_NAMES,
    FLOWS,
    LO,
    MAC,
    MAC_NEXT,
    MAC_OURS,
    TC_NEXT,
    TC_REDIRECT,
    XDP_PASS,
    XDP_REDIRECT,
    Bench,
    Flow,
    behind,
    nat,
    reverse,
    rewrite,
)
from tests.fastpath.packet.frames import (
    ACK,
    FIN,
    OPTIONS,
    RST,
    SYN,
    TCP,
    UDP,
    Ports,
    checksum,
    ether,
    extension,
    fragment6,
    ipv4,
    ipv6,
    packed,
    pseudo,
    summed,
    udp,
    word_sum,
)
from tests.shared_vectors import load_vectors


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with flow_caches.bench() as made:
        yield made


by_flow = pytest.mark.parametrize("flow", FLOWS, ids=FLOW_NAMES)


def runs(bench: Bench, frame: bytes, **what: Any) -> tuple[bytes, bytes]:
    """What XDP and tc make of a frame that both carry."""
    xdp, tc = bench.xdp(frame, **what), bench.tc(frame, **what)
    assert (xdp.verdict, tc.verdict) == (XDP_REDIRECT, TC_REDIRECT)
    return xdp.frame, tc.frame


def assert_untouched(bench: Bench, frame: bytes) -> None:
    xdp, tc = bench.xdp(frame), bench.tc(frame)
    assert (xdp.verdict, tc.verdict) == (XDP_PASS, TC_NEXT)
    assert xdp.frame == tc.frame == frame


def sent(packet: bytes) -> bytes:
    """A frame as it leaves."""
    return MAC_NEXT + MAC_OURS + ether(packet)[12:]


def looks_unfinished(frame: bytes) -> bool:
    """Whether its checksum is, by chance, the sum of its pseudo-header."""
    v6 = frame[12:14] == b"\x86\xdd"
    own, at = (40, 8) if v6 else (20, 12)
    packet = frame[14:]
    protocol, size = packet[6 if v6 else 9], len(packet) - own
    width = 16 if v6 else 4
    addresses = packet[at : at + 2 * width]
    over = pseudo(addresses[:width], addresses[width:], protocol, size)
    field = own + (16 if protocol == TCP else 6)
    return word_sum(over) == int.from_bytes(packet[field : field + 2], "big")


# ---- what is carried ----


@by_flow
def test_dsr_gives_a_frame_to_the_backends_mac_with_one_hop_less(bench: Bench, flow: Flow) -> None:
    bench.cache.put(flow.key, rewrite(MAC))
    expected = MAC_NEXT + MAC_OURS + flow.frame(ttl=63)[12:]
    assert runs(bench, flow.frame()) == (expected, expected)


@by_flow
def test_nat_changes_addresses_ports_and_checksums_both_ways(bench: Bench, flow: Flow) -> None:
    inside = behind(flow)
    bench.cache.put(flow.key, nat(flow, inside))
    bench.cache.put(reverse(inside).key, nat(reverse(inside), reverse(flow)))
    for before, after in ((flow, inside), (reverse(inside), reverse(flow))):
        expected = MAC_NEXT + MAC_OURS + after.frame(ttl=63)[12:]
        assert runs(bench, before.frame()) == (expected, expected)


@by_flow
@pytest.mark.parametrize("to", ["10.9.8.7", "fd09::7"])
def test_encapsulation_leaves_the_packet_as_it_is(bench: Bench, flow: Flow, to: str) -> None:
    ours = "fd00::1" if ":" in to else "10.0.0.1"
    bench.cache.put(flow.key, rewrite(ENCAPSULATE, source=ours, destination=to))
    packet = flow.frame()[14:]
    protocol = 41 if ":" in flow.source else 4
    if ":" in to:
        expected = sent(ipv6(ours, to, protocol, packet))
    else:
        expected = sent(ipv4(ours, to, protocol, packet, identity=0))
    assert runs(bench, flow.frame()) == (expected, expected)


address4 = st.integers(0, 2**32 - 1).map(lambda n: ".".join(str(b) for b in n.to_bytes(4, "big")))
port = st.integers(0, 0xFFFF)
payload = st.binary(max_size=64)


four = st.tuples(address4, address4, address4, address4)


@given(four, st.tuples(port, port, port, port), payload, st.sampled_from([TCP, UDP]))
def test_nat_leaves_every_checksum_right(
    bench: Bench, addresses: tuple[str, ...], ports: tuple[int, ...], data: bytes, protocol: int
) -> None:
    flow = Flow(addresses[0], addresses[1], Ports(ports[0], ports[1]), protocol)
    inside = Flow(addresses[2], addresses[3], Ports(ports[2], ports[3]), protocol)
    frame = flow.frame(data, ttl=200)
    assume(not looks_unfinished(frame))
    bench.cache.put(flow.key, nat(flow, inside))
    expected = MAC_NEXT + MAC_OURS + inside.frame(data, ttl=199)[12:]
    assert runs(bench, frame) == (expected, expected)
    bench.cache.delete(flow.key)


def test_a_udp_packet_without_a_checksum_gets_none(bench: Bench) -> None:
    flow = FLOWS[1]
    inside = behind(flow)
    bench.cache.put(flow.key, nat(flow, inside))
    plain = udp(flow.ports, b"data")
    frame = bytes(6) + ether(ipv4(flow.source, flow.destination, UDP, plain))[6:]
    after = udp(inside.ports, b"data")
    expected = sent(ipv4(inside.source, inside.destination, UDP, after, ttl=63))
    assert runs(bench, frame) == (expected, expected)


def test_a_udp_checksum_that_comes_to_zero_is_sent_as_all_ones(bench: Bench) -> None:
    flow = FLOWS[1]
    inside = behind(flow)
    bench.cache.put(flow.key, nat(flow, inside))
    over = pseudo(packed(inside.source), packed(inside.destination), UDP, 12)
    rest = checksum(over + udp(inside.ports, bytes(4)))
    data = struct.pack(">HH", rest, 0)
    expected = MAC_NEXT + MAC_OURS + inside.frame(data, ttl=63)[12:]
    assert expected[40:42] == b"\xff\xff"
    assert runs(bench, flow.frame(data)) == (expected, expected)


def test_the_class_of_traffic_goes_to_the_outer_header(bench: Bench) -> None:
    for flow in (FLOWS[1], FLOWS[3]):
        bench.cache.put(flow.key, rewrite(ENCAPSULATE, source="fd00::1", destination="fd00::9"))
        build = ipv6 if ":" in flow.source else ipv4
        l4 = summed(flow.source, flow.destination, UDP, udp(flow.ports, b"data"))
        packet = build(flow.source, flow.destination, UDP, l4, tos=0xB8)
        protocol = 41 if ":" in flow.source else 4
        expected = sent(ipv6("fd00::1", "fd00::9", protocol, packet, tos=0xB8))
        frame = bytes(6) + ether(packet)[6:]
        assert runs(bench, frame) == (expected, expected)


def test_a_short_frame_keeps_its_padding_out_of_the_outer_length(bench: Bench) -> None:
    flow = FLOWS[1]
    bench.cache.put(flow.key, rewrite(ENCAPSULATE, source="10.0.0.1", destination="10.9.8.7"))
    frame = flow.frame()
    outer = ipv4("10.0.0.1", "10.9.8.7", 4, frame[14:], identity=0)
    padding = bytes(60 - len(frame))
    expected = sent(outer) + padding
    assert runs(bench, frame + padding) == (expected, expected)


def test_out_of_where_it_came_in_a_frame_is_redirected_too(bench: Bench) -> None:
    flow = FLOWS[0]
    bench.cache.put(flow.key, rewrite(MAC, interface=LO))
    runs(bench, flow.frame())


# ---- what goes up ----


def other_frames(flow: Flow) -> dict[str, bytes]:
    """Of the flow, but nothing that the cache may decide."""
    v6 = ":" in flow.source
    build = ipv6 if v6 else ipv4
    ends = (flow.source, flow.destination)
    l4 = flow.frame()[54 if v6 else 34 :]
    proto = flow.protocol
    first = bytes(6) + ether(b"\x45")[6:12]
    frames = {
        "the last hop": flow.frame(ttl=1),
        "no hop left": flow.frame(ttl=0),
        "an address that many have": b"\x01" + flow.frame()[1:],
        "a tag": first + b"\x81\x00\x00\x05" + flow.frame()[12:],
        "not IP": first + b"\x08\x06" + flow.frame()[14:],
        "another version": flow.frame()[:14] + b"\x55" + flow.frame()[15:],
        "an IP length beyond the frame": flow.frame()[:-1],
        "another protocol": first + ether(build(*ends, 132, l4))[12:],
        "an ICMP packet": first + ether(build(*ends, 58 if v6 else 1, l4))[12:],
        "longer than fits": flow.frame(bytes(1500)),
    }
    if proto == TCP:
        for name, flags in (("SYN", SYN), ("FIN", FIN | ACK), ("RST", RST), ("no ACK", 0)):
            frames[name] = flow.frame(flags=flags)
        frames["a TCP header beyond the packet"] = (
            flow.frame(b"")[:-8] + b"\xf0" + b"\x10" + bytes(6)
        )
        frames["a TCP header too short"] = flow.frame(b"")[:-8] + b"\x40" + b"\x10" + bytes(6)
    else:
        long = udp(flow.ports, b"data", size=13)
        frames["a UDP length beyond the packet"] = first + ether(build(*ends, UDP, long))[12:]
        short = udp(flow.ports, b"data", size=7)
        frames["a UDP length too short"] = first + ether(build(*ends, UDP, short))[12:]
    if v6:
        options = extension(proto) + l4
        frames["an extension header"] = first + ether(ipv6(*ends, OPTIONS, options))[12:]
        piece = fragment6(proto, 0, more=True) + l4
        frames["a fragment"] = first + ether(ipv6(*ends, 44, piece))[12:]
    else:
        for name, at in (("first", 0x2000), ("later", 0x0001), ("evil", 0x8000)):
            frames[f"a fragment: {name}"] = first + ether(ipv4(*ends, proto, l4, fragment=at))[12:]
        with_options = ipv4(*ends, proto, l4, options=bytes(4))
        frames["IP options"] = first + ether(with_options)[12:]
        wrong = bytearray(flow.frame())
        wrong[24] ^= 1
        frames["a wrong IP checksum"] = bytes(wrong)
    return frames


OTHERS = [
    pytest.param(flow, frame, id=f"{name}: {what}")
    for flow, name in zip(FLOWS, FLOW_NAMES, strict=True)
    for what, frame in other_frames(flow).items()
]


@pytest.mark.parametrize("how", [MAC, ENCAPSULATE], ids=["dsr", "ipip"])
@pytest.mark.parametrize(("flow", "frame"), OTHERS)
def test_what_is_not_for_the_cache_goes_up_untouched(
    bench: Bench, flow: Flow, frame: bytes, how: int
) -> None:
    bench.cache.put(flow.key, rewrite(how, source="10.0.0.1", destination="10.9.8.7"))
    assert bench.xdp(flow.frame()).verdict == XDP_REDIRECT
    assert_untouched(bench, frame)


@by_flow
def test_another_flow_goes_up_untouched(bench: Bench, flow: Flow) -> None:
    bench.cache.put(flow.key, rewrite(MAC))
    for other in (
        flow._replace(ports=flow.ports._replace(source=40001)),
        flow._replace(ports=flow.ports._replace(destination=444)),
        flow._replace(protocol=TCP + UDP - flow.protocol),
        reverse(flow),
    ):
        bench.cache.delete(other.key)
        assert_untouched(bench, other.frame())
    bench.cache.delete(flow.key)
    assert_untouched(bench, flow.frame())


def test_nat_to_another_family_goes_up_untouched(bench: Bench) -> None:
    four, six = FLOWS[0], FLOWS[2]
    bench.cache.put(four.key, nat(four, behind(six)))
    assert_untouched(bench, four.frame())
    bench.cache.put(six.key, nat(six, behind(four)))
    assert_untouched(bench, six.frame())


@by_flow
def test_a_checksum_left_to_a_device_goes_up_from_xdp(bench: Bench, flow: Flow) -> None:
    bench.cache.put(flow.key, rewrite(MAC))
    frame = flow.frame()
    own = 54 if ":" in flow.source else 34
    at = own + (16 if flow.protocol == TCP else 6)
    over = pseudo(packed(flow.source), packed(flow.destination), flow.protocol, len(frame) - own)
    frame = frame[:at] + struct.pack(">H", word_sum(over)) + frame[at + 2 :]
    ran = bench.xdp(frame)
    assert (ran.verdict, ran.frame) == (XDP_PASS, frame)
    # tc sees from the packet's state what is left to do.
    assert bench.tc(frame).verdict == TC_REDIRECT


def test_an_mtu_is_the_longest_packet_that_is_carried(bench: Bench) -> None:
    flow = FLOWS[0]
    bench.cache.put(flow.key, rewrite(MAC, mtu=100))
    runs(bench, flow.frame(bytes(60)))
    assert_untouched(bench, flow.frame(bytes(61)))


def test_a_super_frame_is_as_long_as_its_segments(bench: Bench) -> None:
    flow = FLOWS[0]
    bench.cache.put(flow.key, rewrite(MAC, mtu=1500))
    frame = flow.frame(bytes(3000))
    assert bench.tc(frame, gso=(3, 1460)).verdict == TC_REDIRECT
    assert bench.tc(frame, gso=(3, 1461)).verdict == TC_NEXT
    assert bench.tc(frame).verdict == TC_NEXT


def test_a_super_frame_of_datagrams_is_not_encapsulated(bench: Bench) -> None:
    flow = FLOWS[1]
    frame = flow.frame(bytes(3000))
    bench.cache.put(flow.key, rewrite(MAC))
    assert bench.tc(frame, gso=(3, 1000)).verdict == TC_REDIRECT
    bench.cache.put(flow.key, rewrite(ENCAPSULATE, source="10.0.0.1", destination="10.9.8.7"))
    assert bench.tc(frame, gso=(3, 1000)).verdict == TC_NEXT


# ---- what is counted ----


def test_packets_and_bytes_are_counted_by_use_and_segments_as_packets(bench: Bench) -> None:
    flow = FLOWS[0]
    bench.cache.put(flow.key, rewrite(MAC, use=7))
    before = bench.cache.use(7)
    bench.xdp(flow.frame())
    bench.cache.run("tc", flow.frame())
    assert_untouched(bench, flow.frame(flags=FIN | ACK))
    after = bench.cache.use(7)
    size = len(flow.frame())
    assert (after.packets - before.packets, after.bytes - before.bytes) == (2, 2 * size)
    assert after.last_ns > before.last_ns or after.last_ns > 0
    bench.cache.run("tc", flow.frame(bytes(3000)), gso=(3, 1400))
    last = bench.cache.use(7)
    assert (last.packets - after.packets, last.bytes - after.bytes) == (3, 3000 + 3 * 54)


def test_other_uses_stay_as_they_are(bench: Bench) -> None:
    flow = FLOWS[0]
    bench.cache.put(flow.key, rewrite(MAC, use=8))
    before = [bench.cache.use(index) for index in (7, 9)]
    bench.xdp(flow.frame())
    assert [bench.cache.use(index) for index in (7, 9)] == before


# ---- published frames ----


def katran() -> list[dict[str, Any]]:
    base = load_vectors("l4_vectors.json")["katran_packets"]["sets"]["base"]["cases"]
    return [case for case in base if case.get("piagent_applicable") and case.get("backend")]


def test_katrans_frames_are_encapsulated_byte_for_byte(bench: Bench) -> None:
    carried = 0
    for case in katran():
        frame, expected = bytes.fromhex(case["in_hex"]), bytes.fromhex(case["out_hex"])
        flow = flow_of(frame)
        outer = expected[14:]
        if flow is None or expected[23 if outer[0] == 0x45 else 20] not in {4, 41}:
            continue
        source = outer[12:16] if outer[0] == 0x45 else outer[8:24]
        made = bytearray(rewrite(ENCAPSULATE, source=text(source), destination=case["backend"]))
        made[52:64] = expected[:12]
        bench.cache.put(flow.key, bytes(made))
        plain = frame[14 + 20 + 13] if flow.protocol == TCP and ":" not in flow.source else 0
        if plain & (SYN | FIN | RST):
            continue
        xdp, tc = bench.xdp(frame), bench.tc(bytes(6) + frame[6:])
        assert (xdp.verdict, tc.verdict) == (XDP_REDIRECT, TC_REDIRECT), case["desc"]
        assert xdp.frame == tc.frame == expected, case["desc"]
        carried += 1
    assert carried >= 8


def text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def flow_of(frame: bytes) -> Flow | None:
    """The flow of a plain TCP or UDP packet."""
    v6 = frame[12:14] == b"\x86\xdd"
    packet = frame[14:]
    protocol = packet[6 if v6 else 9]
    own, at, width = (40, 8, 16) if v6 else (20, 12, 4)
    if protocol not in {TCP, UDP}:
        return None
    source, destination = packet[at : at + width], packet[at + width : at + 2 * width]
    ports = Ports(*struct.unpack(">HH", packet[own : own + 4]))
    return Flow(text(source), text(destination), ports, protocol)
