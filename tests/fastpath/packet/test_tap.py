"""The tap on a real interface: what it gives out, beside what an ordinary packet socket reads."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from piagent.adapters import netns
from piagent.adapters.forward_fence import ForwardFence
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.packet_filter import program
from tests.adapters.asker import Asker, ipv4_frame, mac_of
from tests.adapters.two_hosts import run
from tests.fastpath.packet.wires import (
    EVERYTHING,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    Sniffer,
    Taken,
    drained,
    drained_until,
    index_of,
    passed,
    with_gro,
    without_offloads,
)
from tests.waiting import wait_until

probe = pytest.importorskip("fastpath.packet._tap_probe", reason="built with PIAGENT_PROBE=1 only")

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6, OWN4, OWN6, CLIENT4 = "10.9.0.9", "fd09::9", "10.9.0.1", "fd09::1", "10.9.0.3"
FORWARDED = [
    Forwarded(address, protocol, 80, 80) for address in (VIP4, VIP6) for protocol in (TCP, UDP)
]
SOCKET, INTERFACE, OPTION, FILTER, RING, BIND = range(1, 7)
vips = pytest.mark.parametrize("vip", [VIP4, VIP6])


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-tap") as built:
        yield built


@pytest.fixture
def node(network: netns.Network) -> netns.Host:
    return network.add_host("a", f"{OWN4}/24", f"{OWN6}/64", f"{VIP4}/32", f"{VIP6}/128")


@pytest.fixture
def client(network: netns.Network) -> netns.Host:
    return network.add_host("c", f"{CLIENT4}/24", "fd09::3/64")


def tap_on(host: netns.Host, code: object = EVERYTHING, n_slots: int = 256) -> object:
    index = index_of(host)
    with host.entered():
        return probe.Tap(index, code, n_slots)


def udp_of(client: netns.Host, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with client.entered():
        return socket.socket(family, socket.SOCK_DGRAM)


@contextlib.contextmanager
def stream(
    node: netns.Host, client: netns.Host, vip: str
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection that the node's own stack serves: (client's end, node's end)."""
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with node.entered():
        listening = socket.create_server((vip, 80), family=family)
    with listening:
        with client.entered():
            near = socket.create_connection((vip, 80), timeout=30)
        far, _ = listening.accept()
    with near, far:
        yield near, far


def payload(taken: Taken) -> bytes:
    """Of an IPv4 or IPv6 frame without options or extensions, with TCP or UDP."""
    frame = taken.frame
    start, kind = (34, frame[23]) if frame[12:14] == b"\x08\x00" else (54, frame[20])
    return frame[start + 8 :] if kind == UDP else frame[start + 4 * (frame[start + 12] >> 4) :]


def in_sequence(frames: list[Taken]) -> bytes:
    """What was sent in TCP frames, the first of which opens the stream; some may be there twice."""
    place = 38 if frames[0].frame[12:14] == b"\x08\x00" else 58
    parts: dict[int, bytes] = {}
    for one in frames:
        (at,) = struct.unpack_from("!I", one.frame, place)
        parts[at] = max(parts.get(at, b""), payload(one), key=len)
    (begin,) = struct.unpack_from("!I", frames[0].frame, place)
    found = bytearray()
    for place, part in sorted(parts.items()):
        offset = place - begin - 1
        if part:
            found[offset : offset + len(part)] = part
    return bytes(found)


@vips
def test_frames_arrive_as_they_are_on_the_wire(
    node: netns.Host, client: netns.Host, vip: str
) -> None:
    tap, sniffer = tap_on(node, n_slots=2048), Sniffer(node)
    with udp_of(client, vip) as asking:
        for size in (*range(1, 1453, 7), 1453, 4000):
            asking.sendto(bytes([size % 251]) * size, (vip, 80))
        asking.sendto(b"the end", (vip, 80))
        found = drained_until(tap, lambda all_: any(b"the end" in one.frame for one in all_))
    here = mac_of(node)
    ours = [one.frame for one in found if one.frame[:6] == here]
    assert len(ours) > 200
    assert ours == [frame for frame in sniffer.frames() if frame[:6] == here]
    assert all(one.vlan == (0, 0) for one in found)
    sniffer.close()


@vips
def test_a_stream_arrives_as_super_frames_that_say_what_they_are(
    node: netns.Host, client: netns.Host, vip: str
) -> None:
    sent = bytes(range(256)) * 8192
    tap, sniffer = tap_on(node, program(FORWARDED), n_slots=2048), Sniffer(node)
    with stream(node, client, vip) as (near, far):
        assert passed(near, far, sent) == sent
        kind = GSO_TCPV6 if ":" in vip else GSO_TCPV4
        found = drained(tap)
    assert in_sequence(found) == sent
    port = 56 if ":" in vip else 36
    heard = [frame for frame in sniffer.frames() if frame[port : port + 2] == b"\0\x50"]
    assert [one.frame for one in found] == heard[: len(found)]
    longest = max(found, key=lambda one: len(one.frame))
    assert len(longest.frame) > 20_000
    for one in found:
        flags, gso, _, size, start, offset = one.offload
        if len(one.frame) > 1514:
            assert gso == kind
            assert 1000 < size < 1500
            assert flags & NEEDS_CSUM
            assert (start, offset) == (54 if ":" in vip else 34, 16)
        else:
            assert gso == GSO_NONE
    assert tap.counters["long_frames"] == sum(len(one.frame) > 1900 for one in found)
    assert tap.counters["truncated"] == 0
    sniffer.close()


@vips
def test_what_nobody_forwards_never_enters(node: netns.Host, client: netns.Host, vip: str) -> None:
    tap = tap_on(node, program(FORWARDED))
    own = OWN6 if ":" in vip else OWN4
    with udp_of(client, vip) as asking, Asker(client, CLIENT4, "fd09::3") as asker:
        assert asker.gets_mac(vip, 5)
        assert asker.gets_pong(vip, mac_of(node), 5)
        for address, port in ((vip, 81), (own, 80), (own, 53), (vip, 80)):
            asking.sendto(f"{address} {port}".encode(), (address, port))
        found = drained_until(tap, len)
    assert [payload(one) for one in found] == [f"{vip} 80".encode()]
    assert tap.counters["frames"] == 1


def test_nothing_enters_while_it_is_being_opened_either(
    node: netns.Host, client: netns.Host
) -> None:
    code = (
        "import socket\n"
        "asking = socket.socket(type=socket.SOCK_DGRAM)\n"
        f"while True: asking.sendto(b'foreign', {(VIP4, 81)})\n"
    )
    with subprocess.Popen(client.command([sys.executable, "-c", code])) as flooding:
        try:
            everything = tap_on(node)
            drained_until(everything, lambda all_: any(b"foreign" in one.frame for one in all_))
            everything.close()
            for _ in range(100):
                tap = tap_on(node, program(FORWARDED), 64)
                assert drained(tap) == []
                tap.close()
        finally:
            flooding.kill()


def test_another_filter_is_in_force_at_once(node: netns.Host, client: netns.Host) -> None:
    tap, other = tap_on(node, program([])), tap_on(node, program(FORWARDED))
    with udp_of(client, VIP4) as asking:
        asking.sendto(b"one", (VIP4, 80))
        drained_until(other, len)
        assert tap.filter(program(FORWARDED))
        asking.sendto(b"two", (VIP4, 80))
        assert [payload(one) for one in drained_until(tap, len)] == [b"two"]
        assert not tap.filter([(0xFFFF, 0, 0, 0)])  # no such instruction: the former one stays
        asking.sendto(b"three", (VIP4, 80))
        assert [payload(one) for one in drained_until(tap, len)] == [b"three"]


def test_frames_of_a_vlan_are_anothers_and_those_with_a_priority_are_not(
    node: netns.Host, client: netns.Host
) -> None:
    everything, forwarded = tap_on(node), tap_on(node, program(FORWARDED))
    ends = (IPv4Address(CLIENT4), IPv4Address(VIP4))
    with Asker(client, CLIENT4, "fd09::3") as asker:
        plain = ipv4_frame(
            mac_of(node), asker.mac, ends, UDP, struct.pack("!HHHH", 1024, 80, 8, 0) + bytes(20)
        )
        for tag in (5, 3 << 13 | 5, 3 << 13):
            asker.wire.send(plain[:12] + struct.pack("!HH", 0x8100, tag) + plain[12:])
        asker.wire.send(plain)
        ours = drained_until(forwarded, lambda all_: len(all_) == 2)
    assert ours == [
        (plain, (0,) * 6, (0x8100, 3 << 13)),
        (plain, (0,) * 6, (0, 0)),
    ]
    tags = [one.vlan for one in drained(everything) if one.frame == plain]
    assert tags == [(0x8100, 5), (0x8100, 3 << 13 | 5), (0x8100, 3 << 13), (0, 0)]


@pytest.mark.parametrize("spoil", [True, False], ids=["written around", "left alone"])
def test_a_user_may_write_on_frames_and_around_them(
    node: netns.Host, client: netns.Host, *, spoil: bool
) -> None:
    """What is written does not get into other frames, nor into what is said of them."""
    tap, sniffer = tap_on(node, program(FORWARDED), 64), Sniffer(node)
    with udp_of(client, VIP4) as asking:
        for n in range(400):
            asking.sendto(n.to_bytes(2, "big") * (1 + n * 7 % 736), (VIP4, 80))
            if n % 50 == 49:
                found = drained_until(tap, lambda all_: len(all_) == 50, spoil=spoil)
                ours = [frame for frame in sniffer.frames() if frame[36:38] == b"\0\x50"]
                assert [one.frame for one in found] == ours
                assert {one.offload[1:4] for one in found} == {(0, 0, 0)}
    sniffer.close()


def test_frames_stay_until_they_are_given_back(node: netns.Host, client: netns.Host) -> None:
    tap = tap_on(node, program(FORWARDED), 32)
    n_slots, _ = tap.slots
    with udp_of(client, VIP4) as asking:
        for n in range(n_slots):
            asking.sendto(bytes([n]), (VIP4, 80))
        found: list[bytes] = []
        wait_until(lambda: isinstance(one := tap.next(), tuple) and not found.append(one[0][-1:]))
        while isinstance(one := tap.next(), tuple):
            found.append(one[0][42:43])
        assert len(found) == n_slots
        assert tap.next() == probe.FULL
        asking.sendto(b"too much", (VIP4, 80))
        wait_until(lambda: tap.counters["dropped"] == 1)
        tap.release()
        assert tap.next() == probe.AGAIN
        asking.sendto(b"again", (VIP4, 80))
        assert [payload(one) for one in drained_until(tap, len)] == [b"again"]


def test_what_does_not_fit_is_counted_and_the_rest_is_in_order(
    node: netns.Host, client: netns.Host
) -> None:
    n_sent = 20_000
    tap = tap_on(node, program(FORWARDED), 128)
    found: list[int] = []
    with udp_of(client, VIP4) as asking:
        for n in range(n_sent):
            asking.sendto(n.to_bytes(4, "big"), (VIP4, 80))
            if n % 500 == 0:
                found += [int.from_bytes(payload(one)[:4], "big") for one in drained(tap)]

    def all_told() -> bool:
        found.extend(int.from_bytes(payload(one)[:4], "big") for one in drained(tap))
        return len(found) + tap.counters["dropped"] == n_sent

    wait_until(all_told)
    assert tap.counters["dropped"] > 0
    assert len(found) == tap.counters["frames"] > 128
    assert found == sorted(set(found))


def test_long_frames_are_in_order_with_short_ones_though_few_are_held(
    node: netns.Host, client: netns.Host
) -> None:
    sent = bytes(range(256)) * 16_384
    tap = tap_on(node, program(FORWARDED), 4096)
    with stream(node, client, VIP4) as (near, far):
        assert passed(near, far, sent) == sent
    rounds: list[int] = []
    found: list[Taken] = []
    n_long = 0
    while True:
        one = tap.next()
        if isinstance(one, tuple):
            found.append(Taken(*one))
            n_long += len(one[0]) > 1900
            continue
        rounds.append(n_long)
        n_long = 0
        tap.release()
        if one == probe.AGAIN:
            break
        assert one == probe.FULL
    assert max(rounds) == probe.TAP_LONG_MAX
    assert in_sequence(found) == sent


def test_when_the_queue_of_long_frames_is_full_they_are_cut_off_and_thrown_away(
    node: netns.Host, client: netns.Host
) -> None:
    tap = tap_on(node, program(FORWARDED), 8192)
    sent = bytes(48 << 20)
    with stream(node, client, VIP4) as (near, far):
        assert passed(near, far, sent) == sent
    found = drained(tap)
    counters = tap.counters
    assert counters["truncated"] > 0
    assert counters["long_frames"] > 20
    assert len(found) == counters["frames"]
    # All that was given out is whole.
    for one in found:
        (size,) = struct.unpack_from("!H", one.frame, 16)
        assert len(one.frame) == 14 + size or len(one.frame) == 60 > size


def test_it_hears_what_the_stack_never_gets(node: netns.Host, client: netns.Host) -> None:
    with_gro(node)
    tap = tap_on(node, program(FORWARDED), 1024)
    fence = ForwardFence()
    with node.entered():
        fence.take("eth0", FORWARDED)
    with udp_of(client, VIP4) as asking, client.entered():
        asking.sendto(b"hidden", (VIP4, 80))
        with socket.socket() as connecting:
            connecting.setblocking(False)
            assert connecting.connect_ex((VIP4, 80)) == errno.EINPROGRESS
            found = drained_until(tap, lambda all_: len(all_) >= 2)
            assert not select.select([], [connecting], [], 0.25)[1]
    assert payload(found[0]) == b"hidden"
    assert found[1].frame[47] == 0x02  # SYN


def test_packets_that_were_put_together_on_the_way_in_are_one_frame(
    network: netns.Network, node: netns.Host, client: netns.Host
) -> None:
    """GRO: the client's own stack sends single packets, with checksums."""
    sent = bytes(range(256)) * 4096
    with_gro(node)
    without_offloads(client)
    without_offloads(network._bridge, "to0")  # else its frames are not worth the trouble
    tap, sniffer = tap_on(node, program(FORWARDED), 4096), Sniffer(node)
    with stream(node, client, VIP4) as (near, far):
        assert passed(near, far, sent) == sent
    found = drained(tap)
    heard = sniffer.frames()
    assert [one.frame for one in found] == [frame for frame in heard if frame[36:38] == b"\0\x50"][
        : len(found)
    ]
    assert in_sequence(found) == sent
    assert any(one.offload[1] == GSO_TCPV4 for one in found)


def test_an_interface_goes_down_and_comes_back(node: netns.Host, client: netns.Host) -> None:
    tap = tap_on(node, program(FORWARDED))
    watch = select.poll()
    watch.register(tap.fd, select.POLLIN)
    assert tap.check() == probe.OK
    run(node, "ip", "link", "set", "eth0", "down")
    ((_, events),) = watch.poll(5000)
    assert events & select.POLLERR
    assert tap.next() == probe.AGAIN
    assert tap.check() == probe.AGAIN
    assert tap.counters["down"] == 1
    assert watch.poll(0) == []
    run(node, "ip", "link", "set", "eth0", "up")
    with udp_of(client, VIP4) as asking:

        def heard() -> bool:
            asking.sendto(b"back", (VIP4, 80))
            return any(payload(one) == b"back" for one in drained(tap))

        wait_until(heard)
    assert tap.check() == probe.OK


def test_an_interface_that_is_gone_is_told_from_one_that_is_down(node: netns.Host) -> None:
    run(node, "ip", "link", "add", "lan0", "type", "veth", "peer", "name", "far0")
    run(node, "ip", "link", "set", "lan0", "up")
    index = index_of(node, "lan0")
    with node.entered():
        tap = probe.Tap(index, EVERYTHING)
    run(node, "ip", "link", "del", "lan0")
    assert tap.check() != probe.OK
    assert tap.check() not in {probe.OK, probe.AGAIN}
    assert tap.next() == probe.AGAIN


def test_slots_are_as_long_as_the_interfaces_packets(
    network: netns.Network, node: netns.Host, client: netns.Host
) -> None:
    with network._bridge.entered():
        for port in ("to0", "to1", "bridge"):
            run(network._bridge, "ip", "link", "set", port, "mtu", "9000")
    small = tap_on(node, program(FORWARDED))
    for host in (node, client):
        run(host, "ip", "link", "set", "eth0", "mtu", "9000")
    large = tap_on(node, program(FORWARDED))
    assert small.slots[1] == 2048
    assert large.slots[1] == 16_384
    data = bytes(range(256)) * 32
    with udp_of(client, VIP4) as asking:
        asking.sendto(data, (VIP4, 80))
        for tap in (small, large):
            assert [payload(one) for one in drained_until(tap, len)] == [data]
    assert small.counters["long_frames"] == 1
    assert large.counters["long_frames"] == 0


def test_what_leaves_is_not_heard(node: netns.Host, client: netns.Host) -> None:
    tap = tap_on(node)
    with udp_of(node, CLIENT4) as asking, udp_of(client, VIP4) as answering:
        asking.sendto(b"going", (CLIENT4, 80))
        answering.sendto(b"coming", (VIP4, 80))
        found = drained_until(tap, lambda all_: any(b"coming" in one.frame for one in all_))
    assert all(one.frame[6:12] != mac_of(node) for one in found)


@pytest.mark.parametrize(
    ("index", "code", "n_slots", "step"),
    [
        (0, EVERYTHING, 64, INTERFACE),
        (4711, EVERYTHING, 64, INTERFACE),
        (None, [], 64, FILTER),
        (None, [(0x06, 0, 0, 0)] * 5000, 64, FILTER),
        (None, EVERYTHING, 0, RING),
        (None, EVERYTHING, 100, RING),
    ],
)
def test_what_cannot_be_opened_says_which_step_failed(
    node: netns.Host,
    index: int | None,
    code: list[tuple[int, int, int, int]],
    n_slots: int,
    step: int,
) -> None:
    place = index_of(node) if index is None else index
    with node.entered(), pytest.raises(OSError, match=f"'{step}'"):
        probe.Tap(place, code, n_slots)
