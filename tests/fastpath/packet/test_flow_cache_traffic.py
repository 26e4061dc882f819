"""Real traffic of real stacks through the flow cache, in namespaces: by tc and by native XDP."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from piagent.adapters import netns
from tests.fastpath.packet import flow_caches
from tests.fastpath.packet.flow_caches import Flow
from tests.fastpath.packet.frames import TCP, UDP, Ports, ether, ip, tcp, word_sum
from tests.waiting import wait_until

pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

from tests.fastpath.packet.flow_cache_lab import (
    BACKEND,
    CLIENT,
    FAMILY,
    NAT_SOURCE,
    VIP,
    Forwarder,
    Lab,
    forwarding,
    super_frame,
)

REASON = flow_caches.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

PATIENCE_S = 20
BULK = 16 << 20
PIECE = 1 << 16
CLIENT_PORT, VIP_PORT, NAT_PORT, BACKEND_PORT = 40000, 443, 61000, 8080


@pytest.fixture(params=["tc", "xdp"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as built:
        yield built


@pytest.fixture
def forwarder(lab: Lab, how: str) -> Iterator[Forwarder]:
    if how == "xdp":
        lab.ready_for_xdp()
    with forwarding(lab, how) as made:
        assert made.cache.mode == how
        yield made


def flow(family: int, protocol: int) -> Flow:
    return Flow(CLIENT[family], VIP[family], Ports(CLIENT_PORT, VIP_PORT), protocol)


def inside(family: int, protocol: int) -> Flow:
    return Flow(NAT_SOURCE[family], BACKEND[family], Ports(NAT_PORT, BACKEND_PORT), protocol)


def opened(host: netns.Host, family: int, kind: int, address: str, port: int) -> socket.socket:
    with host.entered():
        made = socket.socket(FAMILY[family], kind)
    made.settimeout(PATIENCE_S)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    return made


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Another thread does the work; it has succeeded at the end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if failed:
        raise failed[0]


def datagrams(lab: Lab, family: int, listen: tuple[str, int]) -> int:
    """200 questions and answers; how many were asked."""
    with (
        opened(lab.backend, family, socket.SOCK_DGRAM, *listen) as server,
        opened(lab.client, family, socket.SOCK_DGRAM, CLIENT[family], CLIENT_PORT) as client,
    ):
        for number in range(200):
            question = b"%d " % number * (number % 7 + 1)
            client.sendto(question, (VIP[family], VIP_PORT))
            asked, sender = server.recvfrom(2048)
            assert asked == question
            server.sendto(asked[::-1], sender)
            assert client.recvfrom(2048)[0] == question[::-1]
    return 200


@pytest.mark.parametrize("family", [4, 6])
def test_udp_goes_by_nat_both_ways_in_the_kernel(
    lab: Lab, forwarder: Forwarder, family: int
) -> None:
    forwarder.nat(flow(family, UDP), inside(family, UDP))
    n = datagrams(lab, family, (BACKEND[family], BACKEND_PORT))
    assert [forwarder.use(use).packets for use in (0, 1)] == [n, n]
    assert forwarder.use(0).bytes == forwarder.use(1).bytes > n * 42
    assert forwarder.slow == 0
    now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert 0 < now_ns - forwarder.use(0).last_ns < 60 * 10**9


@pytest.mark.parametrize("family", [4, 6])
def test_udp_goes_by_dsr_there_in_the_kernel_and_back_directly(
    lab: Lab, forwarder: Forwarder, family: int
) -> None:
    lab.own_vip()
    forwarder.dsr(flow(family, UDP))
    n = datagrams(lab, family, (VIP[family], VIP_PORT))
    assert (forwarder.use(0).packets, forwarder.use(1).packets) == (n, 0)
    assert forwarder.slow == 0


def bulk(lab: Lab, family: int, listen: tuple[str, int]) -> None:
    """One connection, BULK bytes there, then as many back, then an end in order."""
    server = opened(lab.backend, family, socket.SOCK_STREAM, *listen)
    server.listen()
    got: list[bytes] = []

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE_S)
            got.append(received(connection))
            connection.sendall(content)
            assert connection.recv(1) == b""

    content = bytes(range(251)) * (BULK // 251)
    with (
        server,
        opened(lab.client, family, socket.SOCK_STREAM, CLIENT[family], CLIENT_PORT) as client,
        meanwhile(serve),
    ):
        client.connect((VIP[family], VIP_PORT))
        client.sendall(content)
        got.append(received(client))
        client.shutdown(socket.SHUT_WR)
    assert got == [hashlib.sha256(content).digest()] * 2


def received(connection: socket.socket) -> bytes:
    """The digest of as much as is sent."""
    seen, size = hashlib.sha256(), BULK // 251 * 251
    while size > 0:
        data = connection.recv(PIECE)
        assert data
        seen.update(data)
        size -= len(data)
    return seen.digest()


@pytest.mark.parametrize("family", [4, 6])
def test_a_tcp_stream_goes_by_nat_both_ways_in_the_kernel(
    lab: Lab, forwarder: Forwarder, how: str, family: int
) -> None:
    forwarder.nat(flow(family, TCP), inside(family, TCP))
    before = lab.received()
    bulk(lab, family, (BACKEND[family], BACKEND_PORT))
    carried = sum(forwarder.use(use).packets for use in (0, 1))
    assert 3 <= forwarder.slow < 20  # what begins and ends it
    assert carried > 2 * BULK // 1460
    if how == "tc":  # super-frames stay whole, and count as what they are cut into
        assert lab.received() - before < carried / 4


@pytest.mark.parametrize("family", [4, 6])
def test_checksums_that_were_left_to_a_device_come_out_right_after_nat(
    lab: Lab, family: int
) -> None:
    lab.no_offload()
    with forwarding(lab, "tc") as forwarder:
        forwarder.nat(flow(family, UDP), inside(family, UDP))
        n = datagrams(lab, family, (BACKEND[family], BACKEND_PORT))
        assert [forwarder.use(use).packets for use in (0, 1)] == [n, n]
        forwarder.nat(flow(family, TCP), inside(family, TCP))
        bulk(lab, family, (BACKEND[family], BACKEND_PORT))
        assert 3 <= forwarder.slow < 20


@pytest.mark.parametrize("family", [4, 6])
def test_a_tcp_stream_goes_by_dsr_there_in_the_kernel(
    lab: Lab, forwarder: Forwarder, family: int
) -> None:
    lab.own_vip()
    forwarder.dsr(flow(family, TCP))
    bulk(lab, family, (VIP[family], VIP_PORT))
    assert 2 <= forwarder.slow < 20
    assert forwarder.use(0).packets > BULK // 1460
    assert forwarder.use(1).packets == 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("outer", [4, 6])
def test_datagrams_arrive_whole_in_an_outer_packet(
    lab: Lab, forwarder: Forwarder, family: int, outer: int
) -> None:
    forwarder.ipip(flow(family, UDP), BACKEND[outer])
    with (
        tunnel_end(lab, outer, family) as server,
        opened(lab.client, family, socket.SOCK_DGRAM, CLIENT[family], CLIENT_PORT) as client,
    ):
        for number in range(50):
            data = b"%d " % number * (number % 5 + 1)
            client.sendto(data, (VIP[family], VIP_PORT))
            packet = server.recv(2048)[20 if outer == 4 else 0 :]
            # The checksum may still be a device's to finish: there is none on this way.
            own = 40 if family == 6 else 20
            assert packet[own + 8 :] == data
            assert packet[own : own + 4] == CLIENT_PORT.to_bytes(2) + VIP_PORT.to_bytes(2)
            assert packet[7 if family == 6 else 8] == 64
    assert forwarder.use(0).packets == 50
    assert forwarder.slow == 0


def tunnel_end(lab: Lab, outer: int, family: int) -> socket.socket:
    """Where packets inside others arrive."""
    with lab.backend.entered():
        made = socket.socket(FAMILY[outer], socket.SOCK_RAW, 41 if family == 6 else 4)
    made.settimeout(PATIENCE_S)
    return made


@pytest.mark.parametrize("outer", [4, 6])
def test_a_super_frame_in_an_outer_packet_is_cut_into_right_ones(lab: Lab, outer: int) -> None:
    lab.no_offload()
    its = flow(4, TCP)
    plain = ip(its.source, its.destination, TCP, tcp(its.ports, bytes(range(250)) * 20))
    frame = lab.macs[lab.forwarder] + ether(plain)[6:]
    with forwarding(lab, "tc") as forwarder, tunnel_end(lab, outer, 4) as server:
        forwarder.ipip(its, BACKEND[outer])
        send(lab, super_frame(frame, 1000))
        inner = [server.recv(4096)[20 if outer == 4 else 0 :] for _ in range(5)]
        assert forwarder.use(0).packets == 5
    data = b""
    for packet in inner:
        assert word_sum(packet[:20]) == 0xFFFF
        over = packet[12:20] + bytes([0, TCP]) + (len(packet) - 20).to_bytes(2) + packet[20:]
        assert word_sum(over) == 0xFFFF
        assert int.from_bytes(packet[24:28]) == 0x01020304 + len(data)
        data += packet[40:]
    assert data == bytes(range(250)) * 20


def send(lab: Lab, frame: bytes) -> None:
    """A frame of the client's with its virtio_net_hdr."""
    with lab.client.entered():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with sender:
        sender.bind((netns.INTERFACE, 0))
        sender.setsockopt(263, 15, 1)  # PACKET_VNET_HDR
        sender.send(frame)


@pytest.mark.parametrize(("size", "carried"), [(65_495, 1), (65_496, 0)])
def test_a_super_frame_whose_outer_length_could_not_be_told_goes_up(
    lab: Lab, size: int, carried: int
) -> None:
    its = flow(4, TCP)
    plain = ip(its.source, its.destination, TCP, tcp(its.ports, bytes(size - 40)))
    frame = lab.macs[lab.forwarder] + ether(plain)[6:]
    with forwarding(lab, "tc") as forwarder:
        forwarder.ipip(its, BACKEND[4])
        send(lab, super_frame(frame, 1000))
        wait_until(lambda: forwarder.slow + (forwarder.use(0).packets > 0) == 1)
        assert (forwarder.use(0).packets > 0) == carried


def test_what_has_no_finished_checksum_is_left_to_the_forwarder_by_xdp(lab: Lab) -> None:
    lab.ready_for_xdp(checksums=False)
    with forwarding(lab, "xdp") as forwarder:
        forwarder.nat(flow(4, UDP), inside(4, UDP))
        n = datagrams(lab, 4, (BACKEND[4], BACKEND_PORT))
        assert forwarder.slow == 2 * n
        assert forwarder.use(0).packets == 0


def test_after_a_delete_and_after_the_end_nothing_is_carried(
    lab: Lab, forwarder: Forwarder
) -> None:
    its, other = flow(4, UDP), inside(4, UDP)
    forwarder.nat(its, other)
    forwarder.cache.delete(its.key)
    n = datagrams(lab, 4, (BACKEND[4], BACKEND_PORT))
    assert (forwarder.slow, forwarder.use(0).packets, forwarder.use(1).packets) == (n, 0, n)
    with lab.forwarder.entered():
        forwarder.cache.close()
    with (
        opened(lab.backend, 4, socket.SOCK_DGRAM, BACKEND[4], BACKEND_PORT) as server,
        opened(lab.client, 4, socket.SOCK_DGRAM, CLIENT[4], CLIENT_PORT) as client,
    ):
        client.sendto(b"last", (VIP[4], VIP_PORT))
        assert server.recv(16) == b"last"  # the slow path's doing
    assert forwarder.slow == n + 1
