"""Ways to backends on a real kernel: who answers, from where, and what changes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from piagent.adapters import backend_paths, netlink_messages, netns
from piagent.adapters.backend_paths import BackendPaths
from piagent.adapters.frames import mac_text
from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.paths import Path, PathReason
from tests.adapters.lans import mac_of, run
from tests.waiting import until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

NODE = ("10.9.0.1", "fd09::1")
NEAR = ("10.9.0.2", "fd09::2")
ROUTER = ("10.9.0.254", "fd09::fe")
FAR = ("10.8.0.2", "fd08::2")
ABSENT = ("10.9.0.77", "fd09::77")
DSR = Forwarding(Mode.DSR)
IPIP = Forwarding(Mode.DSR, Encapsulation.IPIP)
both = pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])
NEW_MAC = "02:00:00:00:00:42"


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run_it(*args: object, **named: object) -> None:
        asyncio.run(test(*args, **named))

    return run_it


class Hosts:
    """A node, a backend beside it, a router to where there is another one."""

    def __init__(self, network: netns.Network) -> None:
        self.node = network.add_host("a", f"{NODE[0]}/24", f"{NODE[1]}/64")
        self.near = network.add_host("b", f"{NEAR[0]}/24", f"{NEAR[1]}/64")
        self.router = network.add_host("r", f"{ROUTER[0]}/24", f"{ROUTER[1]}/64")
        for prefix, via in (("10.8.0.0/24", ROUTER[0]), ("fd08::/64", ROUTER[1])):
            run(self.node, "ip", "route", "add", prefix, "via", via)
        for key in ("ipv4.conf.eth0.arp_notify", "ipv6.conf.eth0.ndisc_notify"):
            run(self.near, "sysctl", "-qw", f"net.{key}=1")

    def index(self) -> int:
        with self.node.entered():
            return socket.if_nametoindex("eth0")


class Seen:
    """A follower and what it delivered, newest last."""

    def __init__(self) -> None:
        self.told: list[Path] = []
        self.follower = BackendPaths(self.told.append)

    def reason(self, address: str) -> PathReason:
        return self.follower.paths[address].reason

    async def becomes(self, address: str, reason: PathReason) -> Path:
        await until(lambda: self.reason(address) is reason, f"{address} is {reason}")
        return self.follower.paths[address]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with netns.Network("pa-paths") as network:
        yield Hosts(network)


@asynccontextmanager
async def following(hosts: Hosts, *addresses: str) -> AsyncIterator[Seen]:
    with hosts.node.entered():
        seen = Seen()
    task = asyncio.create_task(seen.follower.run())
    seen.follower.follow(addresses)
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        seen.follower.close()


@both
@in_a_loop
async def test_a_backend_on_the_link_is_asked_for_and_found(hosts: Hosts, version: int) -> None:
    async with following(hosts, NEAR[version]) as seen:
        path = await seen.becomes(NEAR[version], PathReason.RESOLVED)
        assert seen.told[0].reason in {PathReason.RESOLVING, PathReason.RESOLVED}
        assert path.interface == hosts.index()
        assert path.gateway is None
        assert mac_text(path.mac) == mac_of(hosts.near)
        assert mac_text(path.own_mac) == mac_of(hosts.node)
        assert path.source == NODE[version]
        assert path.mtu == 1500
        assert path.fitness(DSR) is PathReason.RESOLVED
        assert seen.follower.why_not is None


@both
@in_a_loop
async def test_another_hardware_address_is_told_within_a_second(hosts: Hosts, version: int) -> None:
    async with following(hosts, NEAR[version]) as seen:
        await seen.becomes(NEAR[version], PathReason.RESOLVED)
        await asyncio.sleep(0.1)
        seen.told.clear()
        run(hosts.near, "ip", "link", "set", "eth0", "address", NEW_MAC)
        begun = time.monotonic()
        await until(lambda: any(mac_text(path.mac) == NEW_MAC for path in seen.told), "it is told")
        assert time.monotonic() - begun < 1


@in_a_loop
async def test_a_backend_that_says_nothing_of_its_new_hardware_is_found_again(
    hosts: Hosts,
) -> None:
    for key in ("ucast_solicit=1", "retrans_time_ms=100", "delay_first_probe_time=1"):
        run(hosts.node, "sysctl", "-qw", f"net.ipv4.neigh.eth0.{key}")
    run(hosts.node, "sysctl", "-qw", "net.ipv4.neigh.eth0.base_reachable_time_ms=500")
    run(hosts.near, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=0")
    async with following(hosts, NEAR[0]) as seen:
        await seen.becomes(NEAR[0], PathReason.RESOLVED)
        run(hosts.near, "ip", "link", "set", "eth0", "address", NEW_MAC)
        await until(
            lambda: mac_text(seen.follower.paths[NEAR[0]].mac) == NEW_MAC, "found", timeout_s=15
        )


@both
@in_a_loop
async def test_who_does_not_answer_has_failed_until_he_does(hosts: Hosts, version: int) -> None:
    async with following(hosts, ABSENT[version]) as seen:
        path = await seen.becomes(ABSENT[version], PathReason.FAILED)
        assert path.mac == b""
        hosts.near.add_address(f"{ABSENT[version]}/{(24, 64)[version]}")
        found = await seen.becomes(ABSENT[version], PathReason.RESOLVED)
        assert mac_text(found.mac) == mac_of(hosts.near)


@both
@in_a_loop
async def test_behind_a_router_it_is_the_routers_hardware(hosts: Hosts, version: int) -> None:
    async with following(hosts, FAR[version]) as seen:
        path = await seen.becomes(FAR[version], PathReason.RESOLVED)
        assert path.gateway == ROUTER[version]
        assert mac_text(path.mac) == mac_of(hosts.router)
        assert path.fitness(DSR) is PathReason.OFF_LINK
        assert path.fitness(IPIP) is PathReason.RESOLVED
        assert path.fitness(Forwarding(Mode.NAT)) is PathReason.RESOLVED


@both
@in_a_loop
async def test_a_route_that_comes_and_goes_is_followed(hosts: Hosts, version: int) -> None:
    address, prefix = (("10.7.0.2", "10.7.0.0/24"), ("fd07::2", "fd07::/64"))[version]
    async with following(hosts, address) as seen:
        await seen.becomes(address, PathReason.NO_ROUTE)
        run(hosts.node, "ip", "route", "add", prefix, "via", ROUTER[version])
        assert (await seen.becomes(address, PathReason.RESOLVED)).gateway == ROUTER[version]
        run(hosts.node, "ip", "route", "replace", prefix, "via", NEAR[version], "mtu", "1400")
        await until(lambda: seen.follower.paths[address].gateway == NEAR[version], "another one")
        path = await seen.becomes(address, PathReason.RESOLVED)
        assert (mac_text(path.mac), path.mtu) == (mac_of(hosts.near), 1400)
        run(hosts.node, "ip", "route", "replace", "blackhole", prefix)
        await seen.becomes(address, PathReason.NO_ROUTE)


@in_a_loop
async def test_a_link_that_goes_down_takes_its_routes_along(hosts: Hosts) -> None:
    async with following(hosts, NEAR[0]) as seen:
        await seen.becomes(NEAR[0], PathReason.RESOLVED)
        run(hosts.node, "ip", "link", "set", "eth0", "down")
        await seen.becomes(NEAR[0], PathReason.NO_ROUTE)
        run(hosts.node, "ip", "link", "set", "eth0", "up")
        await seen.becomes(NEAR[0], PathReason.RESOLVED)


@both
@in_a_loop
async def test_this_host_itself_is_here(hosts: Hosts, version: int) -> None:
    async with following(hosts, NODE[version]) as seen:
        assert (await seen.becomes(NODE[version], PathReason.HERE)).mac == b""
        run(hosts.node, "ip", "address", "flush", "dev", "eth0", "scope", "global")
        await seen.becomes(NODE[version], PathReason.NO_ROUTE)


@in_a_loop
async def test_a_tunnel_has_no_hardware_address(hosts: Hosts) -> None:
    run(hosts.node, "ip", "tuntap", "add", "mode", "tun", "name", "tun0")
    run(hosts.node, "ip", "link", "set", "tun0", "up")
    run(hosts.node, "ip", "route", "add", "10.7.0.0/24", "dev", "tun0")
    async with following(hosts, "10.7.0.2") as seen:
        await seen.becomes("10.7.0.2", PathReason.NOT_ETHERNET)


@in_a_loop
async def test_what_the_kernel_forgets_is_asked_for_again(hosts: Hosts) -> None:
    async with following(hosts, NEAR[0]) as seen:
        await seen.becomes(NEAR[0], PathReason.RESOLVED)
        seen.told.clear()
        run(hosts.node, "ip", "neighbour", "flush", "all")
        await until(lambda: len(seen.told) > 1, "it is told")
        await seen.becomes(NEAR[0], PathReason.RESOLVED)
        assert seen.told[0].reason in {PathReason.RESOLVING, PathReason.FAILED}


@in_a_loop
async def test_entries_stay_the_kernels_own(hosts: Hosts) -> None:
    async with following(hosts, *NEAR, *ABSENT) as seen:
        for address in NEAR:
            await seen.becomes(address, PathReason.RESOLVED)
    listed = _listed(hosts)
    assert NEAR[0] in listed
    assert "PERMANENT" not in listed
    assert "managed" not in listed


def _listed(hosts: Hosts) -> str:
    with os.popen(" ".join(hosts.node.command(["ip", "neighbour", "show"]))) as out:
        return out.read()


@in_a_loop
async def test_what_is_followed_no_more_is_told_no_more(hosts: Hosts) -> None:
    async with following(hosts, *NEAR) as seen:
        for address in NEAR:
            await seen.becomes(address, PathReason.RESOLVED)
        seen.follower.follow(NEAR[1:])
        assert set(seen.follower.paths) == {NEAR[1]}
        seen.told.clear()
        run(hosts.near, "ip", "link", "set", "eth0", "address", NEW_MAC)
        await until(lambda: bool(seen.told), "the other one is told")
        assert {path.backend for path in seen.told} == {NEAR[1]}


@in_a_loop
async def test_events_that_were_lost_are_made_up_for(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(hosts, NEAR[0]) as seen:
        await seen.becomes(NEAR[0], PathReason.RESOLVED)
        receive = netlink_messages.receive
        lost = iter([True])

        def full(channel: socket.socket) -> object:
            if not channel.getblocking() and next(lost, False):
                list(receive(channel))
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
            return receive(channel)

        monkeypatch.setattr(netlink_messages, "receive", full)
        run(hosts.near, "ip", "link", "set", "eth0", "address", NEW_MAC)
        await until(lambda: mac_text(seen.follower.paths[NEAR[0]].mac) == NEW_MAC, "it is told")
        assert next(lost, None) is None, "one was lost"


@in_a_loop
async def test_without_rights_it_says_what_is_missing(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(netlink_messages, "use_neighbour", refused)
    async with following(hosts, NEAR[0]) as seen:
        assert seen.reason(NEAR[0]) is PathReason.UNRESOLVED
        assert seen.follower.why_not is not None
        assert "CAP_NET_ADMIN" in seen.follower.why_not
        monkeypatch.undo()
        await seen.becomes(NEAR[0], PathReason.RESOLVED)
        assert seen.follower.why_not is None


@in_a_loop
async def test_a_neighbour_stays_fresh_while_nobody_else_needs_it(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_paths, "AGAIN_S", 0.1)
    for key in ("base_reachable_time_ms=200", "delay_first_probe_time=1", "gc_stale_time=1"):
        run(hosts.node, "sysctl", "-qw", f"net.ipv4.neigh.eth0.{key}")
    states = []
    async with following(hosts, NEAR[0]) as seen:
        await seen.becomes(NEAR[0], PathReason.RESOLVED)
        with hosts.near.entered():
            heard = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0806))
        heard.setblocking(False)
        with heard:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    states.append(heard.recv(64))
                await asyncio.sleep(0.05)
        assert states, "the kernel asked again"
        assert {path.reason for path in seen.told} <= {PathReason.RESOLVING, PathReason.RESOLVED}
        assert seen.reason(NEAR[0]) is PathReason.RESOLVED
