"""What leaves this host, asked of real neighbours; the frames are dropped on the way."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from piagent.adapters import netns
from piagent.adapters.lan import KernelLan
from piagent.adapters.neighbours import NEIGHBOURS_MAX, Neighbour, Neighbours
from piagent.adapters.netlink import UNICAST_ROUNDS, KernelAddresses
from piagent.adapters.rtnetlink import Rtnetlink
from piagent.ports import Egress
from tests.adapters.lans import Seen, mac_of, run, running, wire
from tests.waiting import until

REASON = netns.why_not() or (None if shutil.which("nft") else "nft is not installed")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6 = "10.9.0.9", "fd09::9"


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-egress") as built:
        yield built


def inside(host: netns.Host, work: Callable[[KernelLan, Seen], Awaitable[None]]) -> None:
    async def main() -> None:
        watcher = KernelLan("eth0")
        async with running(watcher) as seen:
            await work(watcher, seen)

    with host.entered():
        asyncio.run(main())


def knows(host: netns.Host, *others: tuple[str, netns.Host]) -> None:
    """Neighbours as they are after some traffic, without waiting for it."""
    for address, other in others:
        run(
            host,
            *f"ip neigh replace {address} lladdr {mac_of(other)} dev eth0 nud stale".split(),
        )


def default_route(host: netns.Host, gateway: str) -> None:
    run(host, "ip", "route", "add", "default", "via", gateway, "dev", "eth0")


def captured(capture: socket.socket) -> list[bytes]:
    """The frames that have come so far."""
    capture.setblocking(False)
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(capture.recv(2000))
    return frames


def stall(network: netns.Network, host: netns.Host) -> None:
    """Nothing that the host sends arrives; its link is up, and it receives."""
    drop = (
        "table netdev stall { chain c { type filter hook ingress device"
        f" {host.port} priority 0; policy drop; }}; }}"
    )
    run(network._bridge, "nft", drop)


def mend(network: netns.Network) -> None:
    run(network._bridge, "nft", "delete table netdev stall")


@contextlib.asynccontextmanager
async def chatter(host: netns.Host) -> AsyncIterator[None]:
    """Broadcasts that concern nobody."""
    with wire(host) as sender:

        async def speak() -> None:
            while True:
                sender.send(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(46))
                await asyncio.sleep(0.1)

        task = asyncio.create_task(speak())
        try:
            yield
        finally:
            task.cancel()


@pytest.mark.parametrize("family", [4, 6])
def test_a_host_that_stops_sending_but_receives_finds_out_and_recovers(
    network: netns.Network, family: int
) -> None:
    prefix, size = ("10.9.0.", 24) if family == 4 else ("fd09::", 64)
    host, b, c = (network.add_host(n, f"{prefix}{i}/{size}") for i, n in enumerate("abc", 1))
    knows(host, (f"{prefix}2", b), (f"{prefix}3", c))

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await until(lambda: [e.proven for e in seen.egress] == [True])
        assert seen.egress[0].reason.startswith(prefix)
        await until(lambda: len(watcher._egress.proof.witnesses) == 2)
        async with chatter(c):
            stall(network, host)
            await until(lambda: not seen.egress[-1].proven)
            assert "no answer any more, though frames are received" in seen.egress[-1].reason
            watcher.watch([])  # given up; whether it sends again is asked nevertheless
            mend(network)
            await until(lambda: seen.egress[-1].proven)
            assert seen.egress[-1].reason.endswith("answers")

    inside(host, work)


def test_silence_of_the_whole_lan_is_no_stall_of_this_host(network: netns.Network) -> None:
    host, b, c = (network.add_host(n, f"10.9.0.{i}/24") for i, n in enumerate("abc", 1))
    knows(host, ("10.9.0.2", b), ("10.9.0.3", c))

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await until(lambda: len(watcher._egress.proof.witnesses) == 2)
        b.pull_cable()
        c.pull_cable()
        await until(lambda: "hardly anything is received" in watcher._egress.proof.reason)
        assert all(event.proven for event in seen.egress)

    inside(host, work)


def test_a_link_that_was_renewed_is_not_held_against_the_host(network: netns.Network) -> None:
    host, b, c = (network.add_host(n, f"10.9.0.{i}/24") for i, n in enumerate("abc", 1))
    knows(host, ("10.9.0.2", b), ("10.9.0.3", c))

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await until(lambda: len(watcher._egress.proof.witnesses) == 2)
        async with chatter(c):
            stall(network, host)
            await until(lambda: not seen.egress[-1].proven)
            netns._set_up("eth0", up=False)
            await until(lambda: seen.egress[-1].proven)
            assert seen.egress[-1] == Egress(proven=True, reason="link: switched off")

    inside(host, work)


def test_nobody_is_asked_while_no_vip_is_owned(network: netns.Network) -> None:
    host, b = (network.add_host(n, f"10.9.0.{i}/24") for i, n in enumerate("ab", 1))
    knows(host, ("10.9.0.2", b))

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await until(lambda: seen.egress)
        watcher.watch([])
        await until(lambda: watcher._tap._socket is None)
        assert watcher._egress.proof.reason == "no VIP is owned"
        assert len(seen.egress) == 1
        with wire(b) as capture:
            await asyncio.sleep(1.5)
            assert b"\x08\x06" not in [frame[12:14] for frame in captured(capture)]

    inside(host, work)


def test_a_gateway_that_nobody_knows_is_asked_for_by_broadcast(network: netns.Network) -> None:
    host, _ = (network.add_host(n, f"10.9.0.{i}/24") for i, n in enumerate("ab", 1))
    default_route(host, "10.9.0.2")

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await until(lambda: seen.egress)
        assert seen.egress[0] == Egress(proven=True, reason="10.9.0.2 answers")

    inside(host, work)


def test_without_an_address_of_its_own_a_host_asks_by_probes(network: netns.Network) -> None:
    host, b = network.add_host("a"), network.add_host("b", "10.9.0.2/24")
    knows(host, ("10.9.0.2", b))

    async def work(watcher: KernelLan, seen: Seen) -> None:
        addresses = KernelAddresses("eth0")
        await addresses.add(VIP4, 60_000)
        watcher.watch([VIP4])
        with wire(b) as capture:
            await until(lambda: seen.egress)
            frames = captured(capture)
        asked = [f for f in frames if f[12:14] == b"\x08\x06" and f[20:22] == b"\0\x01"]
        assert [f[28:32] for f in asked if f[38:42] == bytes([10, 9, 0, 2])] == [bytes(4)]
        addresses.close()

    inside(host, work)


def test_the_kernels_neighbours_are_listed_with_the_gateway_first(network: netns.Network) -> None:
    host = network.add_host("a", "10.9.0.1/16", "fd09::1/64")
    other = network.add_host("b")
    many = [f"10.9.1.{n}" for n in range(NEIGHBOURS_MAX + 20)]
    knows(host, *((address, other) for address in ["10.9.0.77", *many]))
    default_route(host, "10.9.0.77")
    run(host, "ip", "neigh", "replace", "10.9.0.78", "dev", "eth0", "nud", "failed")
    mac = bytes.fromhex(mac_of(other).replace(":", ""))
    with host.entered(), Rtnetlink() as rtnetlink:
        index = rtnetlink.link("eth0").index
        neighbours = Neighbours()
        found = neighbours.recent(index)
        assert found[0] == Neighbour("10.9.0.77", mac)
        assert len(found) == NEIGHBOURS_MAX
        assert "10.9.0.78" not in [one.address for one in found]
        assert neighbours.recent(index + 1) == []
        assert neighbours.received_packets(index) >= 0
        with pytest.raises(OSError, match="No such device"):
            neighbours.received_packets(4711)
        neighbours.close()
        assert neighbours.gateways(index) == ["10.9.0.77"]
        neighbours.close()


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_the_first_announcements_go_to_each_neighbour_too(network: netns.Network, vip: str) -> None:
    size = 64 if ":" in vip else 24
    prefix = vip[:-1]
    host, b = (network.add_host(n, f"{prefix}{i}/{size}") for i, n in enumerate("ab", 1))
    knows(host, (f"{prefix}2", b), ("10.9.0.3", b), ("fd09::3", b))
    mac = bytes.fromhex(mac_of(b).replace(":", ""))

    async def work() -> None:
        addresses = KernelAddresses("eth0")
        await addresses.add(vip, 60_000)
        for _ in range(UNICAST_ROUNDS + 1):
            await addresses.announce(vip)
        await addresses.announce(vip)
        await addresses.remove(vip)
        addresses.close()

    with wire(b) as capture, host.entered():
        asyncio.run(work())
        heard = captured(capture)
    family = b"\x86\xdd" if ":" in vip else b"\x08\x06"
    alone = [frame for frame in heard if frame[:6] == mac and frame[12:14] == family]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in vip else socket.AF_INET, vip)
    place = slice(62, 78) if ":" in vip else slice(28, 32)
    assert [frame[place] for frame in alone] == [packed] * (UNICAST_ROUNDS * 2)
