"""The forwarder with real clients and backends: packets in by an interface, and out again."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from piagent.adapters import netns
from tests.adapters.two_hosts import run
from tests.fastpath.forwarding_lab import (
    CLIENT,
    OWN,
    PORT,
    VIPS,
    Lab,
    backend_address,
    serving,
)
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
UDP_SEGMENT = 103
SYN_AGAIN_S = 4.5
versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with netns.Network("pa-forward") as network, Lab(network) as built:
        yield built


@contextlib.contextmanager
def backends(lab: Lab, version: int, *, udp: bool = False, vip: bool = False) -> Iterator[None]:
    """Each answers with its number before what it got, at its own address or at the VIP."""
    with contextlib.ExitStack() as stack:
        for number, host in enumerate(lab.backends, 1):
            if vip:
                lab.accept_vip(number)
            address = VIPS[version] if vip else backend_address(number, version)
            says = f"b{number}:".encode().__add__
            stack.enter_context(serving(host, address, udp=udp, says=says))
        yield


def ask(
    lab: Lab, version: int, what: bytes = b"hello", *, udp: bool = False, patience_s: float = 10
) -> bytes:
    """Say something to the VIP once; what comes back."""
    with lab.client.entered():
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        asking = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    with asking:
        asking.settimeout(patience_s)
        asking.connect((VIPS[version], PORT))
        asking.sendall(what)
        if udp and patience_s > 1:
            return said_again(asking, what)
        said = b""
        while len(said) < len(what) + 3:
            part = asking.recv(65536)
            if not part:
                break
            said += part
        return said


def said_again(asking: socket.socket, what: bytes) -> bytes:
    """The answer to a datagram; a network that has just been built may lose one."""
    asking.settimeout(1)
    for _ in range(10):
        with contextlib.suppress(TimeoutError):
            return asking.recv(65536)
        asking.sendall(what)
    raise TimeoutError


@versions
@pytest.mark.parametrize("udp", [False, True])
def test_nat_reaches_every_backend_and_its_answers_come_from_the_vip(
    lab: Lab, version: int, udp: bool
) -> None:
    lab.publish(lab.forward("nat", version=version, udp=udp))
    with backends(lab, version, udp=udp):
        said = {ask(lab, version, udp=udp) for _ in range(20)}
    assert said == {b"b1:hello", b"b2:hello"}


@versions
@pytest.mark.parametrize("udp", [False, True])
def test_dsr_reaches_every_backend_which_answers_itself(lab: Lab, version: int, udp: bool) -> None:
    lab.publish(lab.forward("dsr", version=version, udp=udp))
    with backends(lab, version, udp=udp, vip=True):
        said = {ask(lab, version, udp=udp) for _ in range(20)}
    assert said == {b"b1:hello", b"b2:hello"}


@versions
@pytest.mark.parametrize("how", ["dsr", "ipip"])
@pytest.mark.parametrize("udp", [False, True])
def test_the_node_may_be_a_backend_of_what_it_forwards_itself(
    lab: Lab, version: int, udp: bool, how: str
) -> None:
    run(lab.node, "ip", "link", "set", "lo", "up")
    targets = (
        [lab.itself(version)] if how == "ipip" else [lab.target(1, version), lab.itself(version)]
    )
    lab.publish(lab.forward(how, version=version, udp=udp, targets=targets))
    with (
        serving(lab.node, VIPS[version], udp=udp, says=b"n :".__add__),
        backends(lab, version, udp=udp, vip=True),
    ):
        said = {ask(lab, version, udp=udp) for _ in range(20)}
        assert said == {b"n :hello"} | ({b"b1:hello"} if how == "dsr" else set())


@versions
def test_a_long_upload_to_the_node_itself_arrives_whole(lab: Lab, version: int) -> None:
    run(lab.node, "ip", "link", "set", "lo", "up")
    lab.publish(lab.forward("dsr", version=version, targets=[lab.itself(version)]))
    sent = random.Random(version).randbytes(3_000_000)
    with (
        serving(lab.node, VIPS[version], says=bytes),
        stream_to(lab, version) as stream,
    ):
        threading.Thread(target=stream.sendall, args=(sent,), daemon=True).start()
        said = b""
        while len(said) < len(sent):
            said += stream.recv(1 << 20)
    assert said == sent


def stream_to(lab: Lab, version: int = 4) -> socket.socket:
    with lab.client.entered():
        return socket.create_connection((VIPS[version], PORT), timeout=20)


def echoed(stream: socket.socket, what: bytes) -> bytes:
    """What comes back, with the backend's number before it."""
    stream.sendall(what)
    said = b""
    while len(said) < len(what) + 3:
        said += stream.recv(65536)
    return said


@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_a_long_stream_gets_through_whole_though_the_kernel_puts_its_packets_together(
    lab: Lab, how: str
) -> None:
    lab.publish(lab.forward(how))
    sent = random.Random(1).randbytes(8 << 20)
    heard = hashlib.sha256()

    def hear(data: bytes) -> bytes:
        heard.update(data)
        return b""

    with contextlib.ExitStack() as stack:
        for number, host in enumerate(lab.backends, 1):
            if how == "dsr":
                lab.accept_vip(number)
            address = VIPS[4] if how == "dsr" else backend_address(number)
            stack.enter_context(serving(host, address, says=hear))
        with stream_to(lab) as stream:
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
            assert stream.recv(1) == b""
    assert heard.digest() == hashlib.sha256(sent).digest()


def test_a_source_that_is_not_allowed_gets_no_answer_and_is_counted(lab: Lab) -> None:
    lab.publish(lab.forward("nat", udp=True, allowed=("192.0.2.0/24",)))
    with backends(lab, 4, udp=True), pytest.raises(TimeoutError):
        ask(lab, 4, udp=True, patience_s=0.5)
    assert lab.stats("web-4-True") == {"source-not-allowed": 1}


def test_nat_takes_up_no_connection_in_its_midst(lab: Lab) -> None:
    lab.publish(lab.forward("nat"))
    with backends(lab, 4), stream_to(lab) as stream:
        assert echoed(stream, b"one")[3:] == b"one"
        lab.publish()
        lab.publish(lab.forward("nat"))
        stream.sendall(b"two")
        wait_until(lambda: lab.stats().get("no-flow", 0) > 0, "its segment is dropped")


def test_a_backend_that_is_down_loses_its_flows_and_gets_no_new_ones(lab: Lab) -> None:
    lab.publish(lab.forward("nat"))
    with backends(lab, 4):
        with stream_to(lab) as stream:
            first = echoed(stream, b"one")[:2]
            down = int(first[1:])
            every = [lab.target(i, up=i != down) for i in (1, 2)]
            lab.publish(lab.forward("nat", targets=every))
            assert lab.forwarder.stats()["flows"]["ended"]["backend-down"] == 1
        assert {ask(lab, 4)[:2] for _ in range(10)} == {b"b1", b"b2"} - {first}


@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_a_drained_backend_keeps_its_flows_until_it_is_gone_and_gets_no_new_ones(
    lab: Lab, how: str
) -> None:
    lab.publish(lab.forward(how))
    with backends(lab, 4, vip=how == "dsr"), stream_to(lab) as stream:
        first = echoed(stream, b"one")[:2]
        drained = int(first[1:])
        weights = [lab.target(i, weight=int(i != drained)) for i in (1, 2)]
        lab.publish(lab.forward(how, targets=weights))
        assert {ask(lab, 4)[:2] for _ in range(10)} == {b"b1", b"b2"} - {first}
        assert echoed(stream, b"two")[:2] == first
        assert lab.forwarder.stats()["flows"]["ended"]["drained"] == 0
        lab.publish(lab.forward(how, targets=[lab.target(3 - drained)]))
        assert lab.forwarder.stats()["flows"]["ended"]["drained"] == 1
        # nat takes up nothing in its midst, dsr takes it to who knows nothing of it.
        stream.settimeout(1 if how == "nat" else 20)
        with pytest.raises(TimeoutError if how == "nat" else ConnectionResetError):
            echoed(stream, b"three")


@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_a_flow_follows_its_backend_to_another_hardware_address(lab: Lab, how: str) -> None:
    only = lab.target(1)
    lab.publish(lab.forward(how, targets=[only]))
    with backends(lab, 4, vip=how == "dsr"), stream_to(lab) as stream:
        assert echoed(stream, b"one") == b"b1:one"
        run(lab.backends[0], "ip", "link", "set", "eth0", "address", "02:00:00:00:00:77")
        lab.publish(lab.forward(how, targets=[lab.target(1)]))
        assert lab.target(1).mac != only.mac
        assert echoed(stream, b"two") == b"b1:two"


def test_a_vip_that_is_about_to_move_keeps_its_flows_and_takes_no_new_ones(lab: Lab) -> None:
    lab.publish(lab.forward("nat"))
    with backends(lab, 4), stream_to(lab) as stream:
        assert echoed(stream, b"one")[3:] == b"one"
        lab.publish(lab.forward("nat", draining=True))
        assert echoed(stream, b"two")[3:] == b"two"
        with pytest.raises(TimeoutError):
            ask(lab, 4, patience_s=0.5)
    assert lab.stats()["draining"] > 0


@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_a_packet_that_is_too_long_for_the_way_is_answered_and_the_sender_adapts(
    lab: Lab, how: str
) -> None:
    lab.publish(lab.forward(how, targets=[lab.target(1, mtu=1000)]))
    with backends(lab, 4, vip=how == "dsr"), stream_to(lab) as stream:
        stream.sendall(bytes(20_000))
        n_left = 20_000
        while n_left > 0:
            n_left -= stream.recv(65536).count(0)
    assert lab.stats()["too-big"] > 0


def test_nobody_listens_there_is_told_to_the_client_by_its_backend(lab: Lab) -> None:
    lab.publish(lab.forward("nat", udp=True))
    with pytest.raises(ConnectionRefusedError):
        ask(lab, 4, udp=True)


@pytest.mark.parametrize("how", ["nat", "dsr"])
@versions
def test_a_datagram_in_fragments_gets_to_one_backend_and_back(
    lab: Lab, how: str, version: int
) -> None:
    lab.publish(lab.forward(how, version=version, udp=True))
    sent = random.Random(2).randbytes(4000)
    with backends(lab, version, udp=True, vip=how == "dsr"):
        for _ in range(5):
            assert ask(lab, version, sent, udp=True)[3:] == sent


def fragments_of(datagram: bytes, source: str, number: int) -> list[bytes]:
    """An IPv4 packet with UDP in three fragments, for a socket with IP_HDRINCL."""
    found = []
    for offset in range(0, len(datagram), 1400):
        part = datagram[offset : offset + 1400]
        more = 0x2000 if offset + 1400 < len(datagram) else 0
        found.append(
            struct.pack(
                "!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), number, more | offset // 8, 64, 17, 0,
                socket.inet_aton(source), socket.inet_aton(VIPS[4]),
            ) + part
        )  # fmt: skip
    return found


@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_fragments_in_reverse_and_between_those_of_another_client_find_their_backend(
    lab: Lab, how: str
) -> None:
    """Both clients' packets have the same identification."""
    lab.publish(lab.forward(how, udp=True))
    clients = [CLIENT[4], "10.9.0.101"]
    lab.client.add_address("10.9.0.101/24")
    payloads = [random.Random(i).randbytes(3000) for i in range(2)]
    with backends(lab, 4, udp=True, vip=how == "dsr"), lab.client.entered():
        asking = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in clients]
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        every = []
        for each, address, payload in zip(asking, clients, payloads, strict=True):
            each.settimeout(10)
            each.bind((address, 5000))
            header = struct.pack("!HHHH", 5000, PORT, 8 + len(payload), 0)
            every.append(fragments_of(header + payload, address, 77)[::-1])
        with raw, contextlib.ExitStack() as stack:
            for pair in zip(*every, strict=True):
                for one in pair:
                    raw.sendto(one, (VIPS[4], 0))
            for each, payload in zip(asking, payloads, strict=True):
                stack.enter_context(each)
                assert each.recv(65536)[3:] == payload
    assert lab.forwarder.stats()["others"]["packets"]["held"] == 4


def test_a_fragment_that_was_held_is_sent_before_another_one_takes_its_place(lab: Lab) -> None:
    """A regression. There are 64 places, and one after the other is taken."""
    lab.publish(lab.forward("nat", udp=True))
    payload = random.Random(3).randbytes(2000)
    with backends(lab, 4, udp=True), lab.client.entered():
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with asking, raw:
            asking.settimeout(5)
            asking.bind((CLIENT[4], 5000))
            header = struct.pack("!HHHH", 5000, PORT, 8 + len(payload), 0)
            for again in range(5):
                first, later = fragments_of(header + payload, CLIENT[4], again + 1)
                others = [
                    fragments_of(bytes(2800), CLIENT[4], 1000 * (again + 1) + i)[1]
                    for i in range(64)
                ]
                for one in [later, *others[:63], first, *others[63:]]:
                    raw.sendto(one, (VIPS[4], 0))
                assert asking.recv(65536)[3:] == payload


def test_later_fragments_of_a_source_that_is_not_allowed_are_refused_too(lab: Lab) -> None:
    """A regression: they went to a backend by their hash."""
    lab.publish(lab.forward("dsr", udp=True, allowed=("192.0.2.0/24",)))
    with pytest.raises(TimeoutError):
        ask(lab, 4, bytes(4000), udp=True, patience_s=0.5)
    assert lab.stats("web-4-True") == {"source-not-allowed": 3}


def test_a_connection_that_begins_anew_has_to_be_allowed_too(lab: Lab) -> None:
    """A regression. A SYN is of the old one for some seconds, as it may be sent again."""
    lab.publish(lab.forward("nat"))

    def connect() -> None:
        with lab.client.entered():
            stream = socket.socket()
        with stream:
            stream.settimeout(2)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stream.bind((CLIENT[4], 5000))
            stream.connect((VIPS[4], PORT))

    with backends(lab, 4):
        connect()
        lab.publish(lab.forward("nat", allowed=("192.0.2.0/24",)))
        time.sleep(SYN_AGAIN_S)
        with pytest.raises(TimeoutError):
            connect()
    assert lab.stats()["source-not-allowed"] > 0


def test_what_is_for_nobody_is_left_to_the_nodes_own_stack(lab: Lab) -> None:
    lab.publish(lab.forward("nat"))
    with lab.client.entered(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((VIPS[4], 81), timeout=5)


def of_inner(packet: bytes) -> tuple[str, bytes]:
    """(source, UDP or TCP payload) of the IPv4 packet in an IPv4 packet without options."""
    inner = packet[20:]
    start = 20 + (8 if inner[9] == socket.IPPROTO_UDP else 4 * (inner[32] >> 4))
    return socket.inet_ntoa(inner[12:16]), inner[start:]


def test_dsr_across_subnets_puts_each_packet_whole_into_another_one(lab: Lab) -> None:
    """A tunnel device takes it out; a raw socket shows it as it comes, everywhere."""
    lab.publish(lab.forward("ipip", udp=True, targets=[lab.target(1)]))
    with lab.backends[0].entered():
        tunnel = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP)
    with tunnel:
        tunnel.settimeout(10)
        with pytest.raises(TimeoutError):
            ask(lab, 4, b"in a tunnel", udp=True, patience_s=0.2)
        packet, (source, _) = tunnel.recvfrom(65536)
    assert source == OWN[4]
    assert of_inner(packet) == (CLIENT[4], b"in a tunnel")


def test_merged_packets_are_taken_apart_before_they_get_an_outer_header(lab: Lab) -> None:
    """The sender's kernel leaves the cutting to the card, and the way has no card (veth)."""
    lab.publish(lab.forward("ipip", udp=True, targets=[lab.target(1, mtu=1500)]))
    parts = [bytes([i]) * 1000 for i in range(20)]
    with lab.backends[0].entered():
        tunnel = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP)
    with lab.client.entered():
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with tunnel, asking:
        tunnel.settimeout(10)
        asking.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        asking.sendto(b"".join(parts), (VIPS[4], PORT))
        heard = [of_inner(tunnel.recv(65536))[1] for _ in parts]
    assert heard == parts


@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_the_flow_cache_carries_what_is_established_and_nothing_comes_twice(how: str) -> None:
    flow_cache = pytest.importorskip("fastpath.packet.flow_cache")
    try:
        cache = flow_cache.FlowCache(1 << 10, 1 << 18)
    except flow_cache.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    with netns.Network("pa-forward") as network, Lab(network, cache=cache) as lab:
        lab.publish(lab.forward(how))
        with backends(lab, 4, vip=how == "dsr"), stream_to(lab) as stream:
            for _ in range(50):
                assert echoed(stream, b"again")[3:] == b"again"
            assert cache.stats().flows == (2 if how == "nat" else 1)
            seen = lab.stats()["sent"]
            assert seen < 50
        wait_until(lambda: cache.stats().flows == 0, "the flow's end takes it out")
        assert set(lab.stats()) == {"sent"}


@pytest.mark.parametrize("cached", [False, True])
def test_nat_is_silent_when_the_lease_is_over_and_goes_on_with_another_one(cached: bool) -> None:
    flow_cache = pytest.importorskip("fastpath.packet.flow_cache")
    cache = None
    try:
        cache = flow_cache.FlowCache(1 << 10, 1 << 18) if cached else None
    except flow_cache.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    with netns.Network("pa-forward") as network, Lab(network, cache=cache) as lab:
        lab.publish(lab.forward("nat", targets=[lab.target(1)]))
        with backends(lab, 4), stream_to(lab) as stream:
            assert echoed(stream, b"one") == b"b1:one"
            lab.forwarder.hold(60_000)
            assert echoed(stream, b"two") == b"b1:two"
            assert cache is None or cache.stats().flows == 2
            lab.forwarder.hold(0)
            stream.settimeout(0.5)
            with pytest.raises(TimeoutError):
                echoed(stream, b"three")
            assert lab.stats()["lease-over"] > 0
            lab.forwarder.hold(60_000)
            stream.settimeout(20)
            assert stream.recv(100) == b"b1:three", "sent again"


def test_dsr_needs_no_lease_since_it_says_nothing_in_the_name_of_a_vip(lab: Lab) -> None:
    lab.publish(lab.forward("dsr", targets=[lab.target(1)]))
    lab.forwarder.hold(0)
    with backends(lab, 4, vip=True), stream_to(lab) as stream:
        assert echoed(stream, b"one") == b"b1:one"
