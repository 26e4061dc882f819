"""Frames sent past the IP stack: to a real host, that takes them for its own traffic."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.adapters import netns
from piagent.adapters.forward_fence import ForwardFence
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.packet_filter import program
from tests.adapters.asker import mac_of
from tests.adapters.two_hosts import run
from tests.fastpath.packet.wires import Sniffer, index_of, passed, without_offloads
from tests.waiting import wait_until

probe = pytest.importorskip("fastpath.packet._tap_probe", reason="built with PIAGENT_PROBE=1 only")

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6, NODE4, NODE6 = "10.9.0.9", "fd09::9", "10.9.0.1", "fd09::1"
SERVER4, SERVER6, CLIENT4, CLIENT6 = "10.9.0.2", "fd09::2", "10.9.0.3", "fd09::3"
FORWARDED = [
    Forwarded(address, protocol, 80, 80) for address in (VIP4, VIP6) for protocol in (TCP, UDP)
]
QUEUE, LONG, DOWN, GONE, BAD = range(5)
vips = pytest.mark.parametrize("vip", [VIP4, VIP6])
ways = pytest.mark.parametrize("bypass", [True, False], ids=["past the queue", "queued"])
offloads = pytest.mark.parametrize("hardware", [True, False], ids=["hardware cuts", "kernel cuts"])


class Lan:
    """A client that sends to a VIP, a node that has it and sends on, a server that has it, too."""

    def __init__(self, network: netns.Network) -> None:
        self.network = network
        addresses = (f"{NODE4}/24", f"{NODE6}/64", f"{VIP4}/32", f"{VIP6}/128")
        self.node = network.add_host("a", *addresses)
        self.client = network.add_host("c", f"{CLIENT4}/24", f"{CLIENT6}/64")
        self.server = network.add_host("s", f"{SERVER4}/24", f"{SERVER6}/64")
        for vip in (f"{VIP4}/32", f"{VIP6}/128"):
            run(self.server, "ip", "address", "add", vip, "dev", "lo")
        # The client knows where the VIP is; the server has to be silent about it.
        for vip in (VIP4, VIP6):
            lladdr = mac_of(self.node).hex(":")
            run(self.client, "ip", "neigh", "add", vip, "lladdr", lladdr, "dev", "eth0")
        with self.node.entered():
            ForwardFence().take("eth0", FORWARDED)
        self.index = index_of(self.node)
        self.ways = {mac_of(self.node): (mac_of(self.server), mac_of(self.node), self.index)}

    def tap(self) -> object:
        with self.node.entered():
            return probe.Tap(self.index, program(FORWARDED), 4096)

    def transmit(self, *, bypass: bool) -> object:
        with self.node.entered():
            return probe.Transmit(bypass)

    @contextlib.contextmanager
    def carrying(self, *, bypass: bool) -> Iterator[object]:
        """What comes for the VIP goes on to the server meanwhile."""
        tap, transmit = self.tap(), self.transmit(bypass=bypass)
        ended = threading.Event()

        def carry() -> None:
            while not ended.is_set():
                probe.carry(tap, transmit, self.ways, 0.05)

        worker = threading.Thread(target=carry)
        worker.start()
        try:
            yield transmit
        finally:
            ended.set()
            worker.join()


@pytest.fixture
def lan() -> Iterator[Lan]:
    with netns.Network("pa-send") as network:
        yield Lan(network)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def checksum_of(data: bytes) -> int:
    """RFC 1071: 0 over what holds its own right sum."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def sums_are_right(frame: bytes) -> bool:
    """Of the IP header and of TCP or UDP."""
    if frame[12:14] == b"\x08\x00":
        (size,) = struct.unpack_from("!H", frame, 16)
        body, ends, protocol = frame[34 : 14 + size], frame[26:34], frame[23]
        if checksum_of(frame[14:34]) != 0:
            return False
    else:
        (size,) = struct.unpack_from("!H", frame, 18)
        body, ends, protocol = frame[54 : 54 + size], frame[22:54], frame[20]
    return checksum_of(ends + struct.pack("!II", len(body), protocol) + body) == 0


@vips
@ways
@offloads
def test_a_stream_with_its_checksums_still_to_come_arrives_with_right_ones(
    lan: Lan, vip: str, *, bypass: bool, hardware: bool
) -> None:
    """The client's stack leaves checksums and cutting to its interface, which is the node's tap."""
    sent = random.Random(7).randbytes(4 << 20)
    if not hardware:
        without_offloads(lan.node)
    sniffer = Sniffer(lan.server)
    with lan.server.entered():
        listening = socket.create_server((vip, 80), family=family(vip))
    with listening, lan.carrying(bypass=bypass) as transmit:
        with lan.client.entered():
            near = socket.create_connection((vip, 80), timeout=30)
        far, _ = listening.accept()
        with near, far:
            for one, other in ((near, far), (far, near)):
                assert passed(one, other, sent) == sent
        dropped = transmit.dropped
    heard = [one for one in sniffer.frames() if one[:6] == mac_of(lan.server)]
    heard = [one for one in heard if one[6:12] == mac_of(lan.node)]
    sniffer.close()
    assert [dropped[LONG], dropped[DOWN], dropped[GONE], dropped[BAD]] == [0, 0, 0, 0]
    if not hardware:
        assert max(map(len, heard)) <= 1514
        assert all(map(sums_are_right, heard))
    else:
        assert max(map(len, heard)) > 1514  # and the server's stack believed them


@vips
@ways
def test_datagrams_arrive_with_right_checksums_in_fragments_too(
    lan: Lan, vip: str, *, bypass: bool
) -> None:
    without_offloads(lan.node)
    sniffer = Sniffer(lan.server)
    with lan.server.entered():
        serving = socket.socket(family(vip), socket.SOCK_DGRAM)
        serving.bind((vip, 80))
    with lan.client.entered():
        asking = socket.socket(family(vip), socket.SOCK_DGRAM)
    with serving, asking, lan.carrying(bypass=bypass):
        serving.settimeout(30)
        for size in (1, 2, 100, 1400, 4000):
            data = bytes(range(1, 251)) * 16
            asking.sendto(data[:size], (vip, 80))
            got, where = serving.recvfrom(8192)
            assert got == data[:size]
            serving.sendto(got, where)
            asking.settimeout(30)
            assert asking.recv(8192) == data[:size]
    heard = [one for one in sniffer.frames() if one[6:12] == mac_of(lan.node)]
    sniffer.close()
    whole = [one for one in heard if is_whole(one)]
    assert len(whole) == 4
    assert all(map(sums_are_right, whole))


def is_whole(frame: bytes) -> bool:
    """A UDP datagram in one packet."""
    if frame[12:14] == b"\x08\x00":
        return frame[23] == UDP and not int.from_bytes(frame[20:22], "big") & 0x3FFF
    return frame[20] == UDP


def numbered(lan: Lan, n: int, size: int = 60) -> bytes:
    """A frame from the node to the server that no stack cares for."""
    head = mac_of(lan.server) + mac_of(lan.node) + b"\x88\xb5"
    return head + n.to_bytes(4, "big") + bytes(size - 18)


def numbers(sniffer: Sniffer, n: int) -> list[int]:
    found: list[int] = []

    def enough() -> bool:
        ours = [frame for frame in sniffer.frames() if frame[12:14] == b"\x88\xb5"]
        found.extend(int.from_bytes(frame[14:18], "big") for frame in ours)
        return len(found) >= n

    wait_until(enough, lambda: f"{found}")
    return found


@ways
def test_a_batch_leaves_by_one_call_and_in_order(lan: Lan, *, bypass: bool) -> None:
    transmit, sniffer = lan.transmit(bypass=bypass), Sniffer(lan.server)
    for n in range(probe.TRANSMIT_MAX):
        assert transmit.add(numbered(lan, n), lan.index) == probe.OK
    assert transmit.add(numbered(lan, 99), lan.index) == probe.FULL
    transmit.flush()
    assert (transmit.calls, transmit.sent) == (1, probe.TRANSMIT_MAX)
    assert numbers(sniffer, probe.TRANSMIT_MAX) == [*range(probe.TRANSMIT_MAX)]
    transmit.flush()
    assert transmit.calls == 1
    sniffer.close()


@ways
def test_what_cannot_be_sent_is_counted_by_its_reason_and_the_rest_arrives(
    lan: Lan, *, bypass: bool
) -> None:
    run(lan.node, "ip", "link", "add", "off", "type", "veth", "peer", "name", "far")
    off = index_of(lan.node, "off")
    transmit, sniffer = lan.transmit(bypass=bypass), Sniffer(lan.server)
    nonsense = (1, 0, 0, 0, 5000, 16)  # a checksum beyond the frame's end
    cuts_nothing = (0, 0x77, 0, 100, 0, 0)
    for n, (size, index, offload) in enumerate(
        [
            (60, lan.index, probe.NO_OFFLOAD),
            (1600, lan.index, probe.NO_OFFLOAD),
            (60, off, probe.NO_OFFLOAD),
            (60, lan.index, probe.NO_OFFLOAD),
            (60, 4711, probe.NO_OFFLOAD),
            (60, 0, probe.NO_OFFLOAD),
            (60, lan.index, nonsense),
            (60, lan.index, cuts_nothing),
            (60, lan.index, probe.NO_OFFLOAD),
        ]
    ):
        assert transmit.add(numbered(lan, n, size), index, offload) == probe.OK
    transmit.flush()
    assert numbers(sniffer, 3) == [0, 3, 8]
    assert transmit.sent == 3
    assert transmit.dropped == [0, 1, 1, 2, 2]
    sniffer.close()


def test_frames_without_a_header_are_refused(lan: Lan) -> None:
    transmit = lan.transmit(bypass=True)
    for size in range(14):
        assert transmit.add(bytes(size), lan.index) not in {probe.OK, probe.FULL}
    transmit.flush()
    assert (transmit.sent, transmit.calls) == (0, 0)


@ways
def test_it_outlives_an_interface_that_goes_and_comes_back(lan: Lan, *, bypass: bool) -> None:
    transmit, sniffer = lan.transmit(bypass=bypass), Sniffer(lan.server)

    def send(n: int) -> None:
        transmit.add(numbered(lan, n), lan.index)
        transmit.flush()

    send(1)
    run(lan.node, "ip", "link", "set", "eth0", "down")
    send(2)
    assert transmit.dropped[DOWN] == 1
    run(lan.node, "ip", "link", "set", "eth0", "up")
    found = numbers(sniffer, 1)

    def heard_again() -> bool:
        send(3)
        found.extend(numbers(sniffer, 0))
        return 3 in found

    wait_until(heard_again)
    assert found[0] == 1
    assert 2 not in found
    sniffer.close()


def test_sending_sockets_hear_nothing(lan: Lan) -> None:
    transmit = lan.transmit(bypass=True)
    with lan.node.entered():
        table = Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]
    transmit.close()
    assert [line.split()[3] for line in table] == ["0000", "0000"]
