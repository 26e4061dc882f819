"""Announcements: on the wire, and what a neighbour makes of them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator

import pytest

from piagent.adapters import arp, netns
from piagent.adapters.arp import Announcer
from piagent.adapters.frames import frames
from piagent.adapters.netlink import KernelAddresses
from tests.adapters.asker import mac_of
from tests.waiting import until

REASON = netns.why_not()
needs_namespaces = pytest.mark.skipif(REASON is not None, reason=str(REASON))


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
