"""The forwarder's filter, run by the kernel on frames, beside the same in plain Python."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piagent.adapters import bpf
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.packet_filter import program

VIP4, VIP6, OWN4, OWN6 = "10.9.0.9", "fd09::9", "10.9.0.1", "fd09::1"
OTHER4, OTHER6 = "10.9.0.2", "fd09:0:0:1::9"
ALONE4, ALONE6 = "10.9.0.3", "fd09::3"
FORWARDED = (
    Forwarded(VIP4, TCP, 80, 80),
    Forwarded(VIP4, TCP, 443, 443),
    Forwarded(VIP4, UDP, 53, 53),
    Forwarded(VIP6, TCP, 80, 80),
    Forwarded(VIP6, UDP, 53, 53),
    Forwarded(OWN4, TCP, 20_000, 30_000),
    Forwarded(OWN4, UDP, 20_000, 30_000),
    Forwarded(OWN6, TCP, 20_000, 30_000),
    Forwarded(OWN6, UDP, 20_000, 30_000),
)
WRAPPING = (OWN4, ALONE4, OWN6, ALONE6)
ICMP, ICMPV6, GRE, IP_IN_IP = 1, 58, 47, (4, 41)
EXTENSIONS = (0, 43, 44, 51, 60)

addresses4 = st.sampled_from([VIP4, OWN4, OTHER4, ALONE4])
addresses6 = st.sampled_from([VIP6, OWN6, OTHER6, ALONE6])
ports = st.sampled_from([22, 53, 79, 80, 81, 443, 19_999, 20_000, 25_000, 30_000, 30_001])
protocols = st.sampled_from([TCP, UDP, GRE, *IP_IN_IP])


class Filter:
    """A program that the kernel runs on frames: a datagram between local sockets is like one."""

    def __init__(self, code: list[bpf.Instruction]) -> None:
        self.sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        bpf.attach(self._receiver, code)

    def lets_through(self, frame: bytes) -> bool:
        self.sender.send(frame)
        try:
            return self._receiver.recv(1 << 20, socket.MSG_DONTWAIT) == frame
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.sender.close()
        self._receiver.close()


@contextlib.contextmanager
def filtering(code: list[bpf.Instruction]) -> Iterator[Filter]:
    opened = Filter(code)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Filter]:
    with filtering(program(FORWARDED, WRAPPING)) as opened:
        yield opened


def l4(source_port: int, port: int) -> bytes:
    return struct.pack("!HHI", source_port, port, 7)


def ipv4(
    ends: tuple[str, str], protocol: int, body: bytes, *, options: int = 0, fragment: int = 0
) -> bytes:
    size = 20 + 4 * options
    head = struct.pack(
        "!BBHHHBBH", 0x40 | size // 4, 0, size + len(body), 1, fragment, 64, protocol, 0
    )
    return head + b"".join(IPv4Address(end).packed for end in ends) + b"\1" * (4 * options) + body


def ipv6(ends: tuple[str, str], following: int, body: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(body), following, 64)
    return head + b"".join(IPv6Address(end).packed for end in ends) + body


def frame(packet: bytes) -> bytes:
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return bytes(6) + b"\2" * 6 + struct.pack("!H", kind) + packet


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Packets of all kinds that the filter tells apart, often with something missing."""
    version6 = draw(st.booleans())
    here = draw(addresses6 if version6 else addresses4)
    far = "fd09::77" if version6 else "10.9.0.77"
    kind = draw(st.sampled_from(["plain", "fragment", "error", "other"]))
    options = draw(st.integers(0, 10))
    protocol, port = draw(protocols), draw(ports)
    if kind == "error":
        inner = l4(port, draw(ports))
        if version6:
            quoted = ipv6((here, far), draw(st.sampled_from([protocol, 44])), inner)
            body = struct.pack("!BBHI", draw(st.integers(0, 6)), 0, 0, 0) + quoted
            packet = ipv6((far, here), ICMPV6, body)
        else:
            quoted = ipv4((here, far), protocol, inner, options=draw(st.integers(0, 10)))
            which = draw(st.sampled_from([0, 3, 4, 5, 8, 11, 12]))
            body = struct.pack("!BBHI", which, 0, 0, 0) + quoted
            packet = ipv4((far, here), ICMP, body, options=options)
    elif version6:
        following = draw(st.sampled_from(EXTENSIONS)) if kind == "fragment" else protocol
        packet = ipv6((far, here), following, l4(draw(ports), port))
    else:
        bits = draw(st.sampled_from([0x2000, 1, 0x1000, 0x2005])) if kind == "fragment" else 0x4000
        protocol = draw(st.sampled_from([protocol, ICMP]))
        body = l4(draw(ports), port)
        packet = ipv4((far, here), protocol, body, options=options, fragment=bits)
    whole = frame(packet)
    return whole[: draw(st.integers(14, len(whole)))] if draw(st.booleans()) else whole


def has_port(address: bytes, protocol: int, port: int | None) -> bool:
    """Whether that port is forwarded; None: whether any is."""
    return any(
        one.ip.packed == address
        and one.protocol == protocol
        and (port is None or one.first <= port <= one.last)
        for one in FORWARDED
    )


def is_wrapping(address: bytes) -> bool:
    return any(ip_address(one).packed == address for one in WRAPPING)


def wanted(whole: bytes) -> bool:
    """What the filter is for, in plain Python; what is cut off too early is not wanted."""
    try:
        packet = whole[14:]
        return wanted4(packet) if whole[12:14] == b"\x08\x00" else wanted6(packet)
    except (IndexError, struct.error):
        return False


def wanted4(packet: bytes) -> bool:
    here, protocol = packet[16:20], packet[9]
    (bits,) = struct.unpack_from("!H", packet, 6)
    body = packet[4 * (packet[0] & 15) :]
    if protocol == ICMP:
        if bits & 0x1FFF or body[0] not in {3, 11, 12}:
            return False
        quoted = body[8:]
        if quoted[9] in IP_IN_IP:
            return is_wrapping(here)
        (port,) = struct.unpack_from("!H", quoted, 4 * (quoted[0] & 15))
        return has_port(here, quoted[9], port)
    if bits & 0x1FFF:
        return has_port(here, protocol, None)
    (port,) = struct.unpack_from("!H", body, 2)
    return has_port(here, protocol, port)


def wanted6(packet: bytes) -> bool:
    here, following, body = packet[24:40], packet[6], packet[40:]
    known = is_wrapping(here) or any(one.ip.packed == here for one in FORWARDED)
    if len(here) == 16 and following in EXTENSIONS:
        return known
    if following == ICMPV6:
        if not 1 <= body[0] <= 4:
            return False
        quoted = body[8:]
        if quoted[6] in IP_IN_IP:
            return is_wrapping(here)
        if quoted[6] == 44:
            return known
        (port,) = struct.unpack_from("!H", quoted, 40)
        return has_port(here, quoted[6], port)
    (port,) = struct.unpack_from("!H", body, 2)
    return has_port(here, following, port)


@settings(max_examples=2000)
@given(whole=frames())
def test_the_kernel_lets_through_what_the_forwarder_takes(kernel: Filter, whole: bytes) -> None:
    assert kernel.lets_through(whole) == wanted(whole)


@pytest.mark.parametrize(
    ("address", "protocol", "port", "through"),
    [
        (VIP4, TCP, 80, True),
        (VIP4, UDP, 80, False),
        (VIP4, TCP, 22, False),
        (OWN4, UDP, 30_000, True),
        (OWN4, UDP, 30_001, False),
        (OTHER4, TCP, 80, False),
        (VIP6, TCP, 80, True),
        (OTHER6, TCP, 80, False),
    ],
)
def test_a_port_is_forwarded_at_its_address_alone(
    kernel: Filter, address: str, protocol: int, port: int, *, through: bool
) -> None:
    make, far = (ipv6, "fd09::77") if ":" in address else (ipv4, "10.9.0.77")
    assert kernel.lets_through(frame(make((far, address), protocol, l4(1024, port)))) == through


def test_arp_neighbour_discovery_and_echo_stay_with_the_kernel(kernel: Filter) -> None:
    arp = bytes(12) + b"\x08\x06" + bytes(24) + IPv4Address(VIP4).packed
    assert not kernel.lets_through(arp)
    for kind in (128, 133, 134, 135, 136):
        body = bytes([kind]) + bytes(60)
        assert not kernel.lets_through(frame(ipv6(("fd09::77", VIP6), ICMPV6, body)))
    echo = ipv4(("10.9.0.77", VIP4), ICMP, b"\x08" + bytes(40))
    assert not kernel.lets_through(frame(echo))


def test_a_frame_of_every_length_comes_through_whole(kernel: Filter) -> None:
    packet = ipv4(("10.9.0.77", VIP4), TCP, l4(1, 80) + bytes(65_000))
    assert kernel.lets_through(frame(packet))
    assert kernel.lets_through(frame(packet) + bytes(600))


def test_without_anything_forwarded_nothing_comes_through() -> None:
    with filtering(program([])) as empty:
        assert not empty.lets_through(frame(ipv4(("10.9.0.77", VIP4), TCP, l4(1, 80))))
        assert not empty.lets_through(frame(ipv6(("fd09::77", VIP6), TCP, l4(1, 80))))


@pytest.mark.parametrize("base", ["10.10.0.0", "fd10::"])
@pytest.mark.parametrize(("addresses", "per_address"), [(3, 1000), (5000, 1)])
def test_too_much_for_a_program_lets_more_through(
    base: str, addresses: int, per_address: int
) -> None:
    hosts = [str(ip_address(base) + index) for index in range(addresses)]
    many = [
        Forwarded(host, TCP, 1 + 2 * n, 1 + 2 * n) for host in hosts for n in range(per_address)
    ]
    code = program(many)
    assert len(code) <= bpf.INSTRUCTIONS_MAX
    make, far = (ipv6, "fd09::77") if ":" in base else (ipv4, "10.9.0.77")
    with filtering(code) as coarse:
        for host in (hosts[0], hosts[-1]):
            assert coarse.lets_through(frame(make((far, host), TCP, l4(1, 1))))
        error = b"\x03" + bytes(7) + make((hosts[0], far), TCP, l4(1, 9))
        icmp = ICMPV6 if ":" in base else ICMP
        assert coarse.lets_through(frame(make((far, hosts[0]), icmp, error)))
        assert not coarse.lets_through(bytes(12) + b"\x08\x06" + bytes(46))
