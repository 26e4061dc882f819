"""Announcements: byte by byte, on the wire, and what a neighbour makes of them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from piagent.adapters import arp, netns
from piagent.adapters.arp import (
    Announcer,
    arp_frame,
    frames,
    internet_checksum,
    neighbour_advertisement_frame,
)
from piagent.adapters.netlink import KernelAddresses
from piagent.adapters.rtnetlink import Rtnetlink
from tests.waiting import until

REASON = netns.why_not()
needs_namespaces = pytest.mark.skipif(REASON is not None, reason=str(REASON))

MAC = bytes.fromhex("b827eb010203")


def test_an_arp_request_is_byte_exact() -> None:
    assert arp_frame(MAC, IPv4Address("192.168.1.241"), reply=False).hex(" ") == (
        "ff ff ff ff ff ff b8 27 eb 01 02 03 08 06 "  # Ethernet
        "00 01 08 00 06 04 00 01 "  # Ethernet, IPv4, 6, 4, request
        "b8 27 eb 01 02 03 c0 a8 01 f1 "  # sender
        "00 00 00 00 00 00 c0 a8 01 f1"  # target
    )


def test_an_arp_reply_is_byte_exact() -> None:
    assert arp_frame(MAC, IPv4Address("192.168.1.241"), reply=True).hex(" ") == (
        "ff ff ff ff ff ff b8 27 eb 01 02 03 08 06 "
        "00 01 08 00 06 04 00 02 "
        "b8 27 eb 01 02 03 c0 a8 01 f1 "
        "b8 27 eb 01 02 03 c0 a8 01 f1"
    )


def test_a_neighbour_advertisement_is_byte_exact() -> None:
    # Source, destination, length, next header, type, flags, target, option: by 16 bits.
    total = 0xFD00 + 0xF1 + 0xFF02 + 0x1 + 0x20 + 0x3A + 0x8800 + 0x2000 + 0xFD00 + 0xF1
    total += 0x0201 + 0xB827 + 0xEB01 + 0x0203
    checksum = (total & 0xFFFF) + (total >> 16) ^ 0xFFFF
    assert (
        neighbour_advertisement_frame(MAC, IPv6Address("fd00::f1")).hex()
        == (
            "333300000001b827eb01020386dd"
            "60000000" + "0020" + "3a" + "ff"  # 32 bytes, ICMPv6, hop limit 255
            "fd0000000000000000000000000000f1"
            "ff020000000000000000000000000001"
            "8800" + f"{checksum:04x}" + "20000000"
            "fd0000000000000000000000000000f1"
            "0201b827eb010203"
        )
    )


def test_an_ipv4_address_is_announced_by_a_request_and_a_reply() -> None:
    address = IPv4Address("192.168.1.240")
    request, reply = (arp_frame(MAC, address, reply=kind) for kind in (False, True))
    assert frames(MAC, str(address)) == (request, reply)


def test_an_ipv6_address_is_announced_by_one_advertisement() -> None:
    address = IPv6Address("fd00::f1")
    assert frames(MAC, str(address)) == (neighbour_advertisement_frame(MAC, address),)


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF
    assert internet_checksum(b"") == 0xFFFF
    assert internet_checksum(b"\x01") == 0xFEFF


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-arp") as built:
        yield built


def own(host: netns.Host, vip: str, *, announce: bool) -> None:
    async def work() -> None:
        addresses = KernelAddresses("eth0")
        await addresses.add(vip, 60_000)
        if announce:
            await addresses.announce(vip)
        addresses.close()

    with host.entered():
        asyncio.run(work())


def mac_of(host: netns.Host) -> bytes:
    with host.entered(), Rtnetlink() as rtnetlink:
        return rtnetlink.link("eth0").mac


@needs_namespaces
@pytest.mark.parametrize("vip", ["10.9.0.9", "fd09::9"])
def test_a_neighbour_hears_exactly_these_frames(network: netns.Network, vip: str) -> None:
    a = network.add_host("a", "10.9.0.1/24", "fd09::1/64")
    b = network.add_host("b", "10.9.0.2/24", "fd09::2/64")
    expected = list(frames(mac_of(a), vip))
    with b.entered():
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        capture.bind(("eth0", 3))
    capture.settimeout(5)
    own(a, vip, announce=True)
    with capture:
        while expected:
            frame, _ = capture.recvfrom(2000)
            if frame == expected[0]:
                expected.pop(0)


@needs_namespaces
@pytest.mark.parametrize("vip", ["10.9.0.9", "fd09::9"])
def test_a_client_that_knew_the_old_owner_learns_the_new_one_at_once(
    network: netns.Network, vip: str
) -> None:
    old = network.add_host("a", "10.9.0.1/24", "fd09::1/64")
    new = network.add_host("b", "10.9.0.2/24", "fd09::2/64")
    client = network.add_host("c", "10.9.0.3/24", "fd09::3/64")
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET

    def neighbour() -> str:
        show = client.command(["ip", "neigh", "show", "to", vip])
        return subprocess.run(show, check=True, capture_output=True, text=True).stdout

    own(old, vip, announce=False)
    with old.entered():
        server = socket.create_server((vip, 0), family=family)
    with client.entered():
        there = socket.socket(family)
    with server, there:
        there.settimeout(5)
        there.connect(server.getsockname()[:2])
    assert mac_of(old).hex(":") in neighbour()
    own(new, vip, announce=True)
    assert mac_of(new).hex(":") in neighbour()


def test_the_announcer_keeps_the_schedule_until_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arp, "REPEAT_AFTER_S", (0.0, 0.02, 0.04))
    monkeypatch.setattr(arp, "REPEAT_EVERY_S", 0.02)
    said: list[str] = []

    async def once(address: str) -> None:
        said.append(address)
        raise OSError("the cable is out, which ends nothing")

    async def work() -> None:
        announcer = Announcer(once)
        announcer.start("10.0.0.1")
        announcer.start("10.0.0.2")
        await until(lambda: min(said.count("10.0.0.1"), said.count("10.0.0.2")) >= 5)
        announcer.stop("10.0.0.1")
        said.clear()
        await until(lambda: said.count("10.0.0.2") >= 3)
        assert "10.0.0.1" not in said
        announcer.close()
        said.clear()
        await asyncio.sleep(0.1)
        assert not said

    asyncio.run(work())
