"""The LAN as the agent sees it: who has an address, who claims ours, what became of the link."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address

import pytest

from piagent.adapters import bpf, frame_tap, lan, netns
from piagent.adapters.frames import (
    arp_frame,
    arp_question_frame,
    frames,
    probe_frame,
)
from piagent.adapters.lan import KernelLan
from piagent.adapters.netlink import KernelAddresses
from piagent.ports import LinkState
from tests.adapters.lans import Seen, delete_address, mac_of, run, running, wire
from tests.waiting import until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6 = "10.9.0.9", "fd09::9"
RIVAL = bytes.fromhex("020000000bad")


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-lan") as built:
        yield built


@pytest.fixture
def host(network: netns.Network) -> netns.Host:
    return network.add_host("a", "10.9.0.1/24", "fd09::1/64")


@pytest.fixture
def other(network: netns.Network, host: netns.Host) -> netns.Host:
    return network.add_host("b", "10.9.0.2/24", "fd09::2/64")


def inside(host: netns.Host, work: Callable[[KernelLan, Seen], Awaitable[None]]) -> None:
    """Run `work` in an event loop in the host, with a LAN that is being watched."""

    async def main() -> None:
        watcher = KernelLan("eth0")
        async with running(watcher) as seen:
            await work(watcher, seen)

    with host.entered():
        asyncio.run(main())


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_probe_finds_the_host_that_has_the_address(
    host: netns.Host, other: netns.Host, vip: str
) -> None:
    other.add_address(f"{vip}/{128 if ':' in vip else 32}")

    async def work(watcher: KernelLan, _: Seen) -> None:
        assert await watcher.probe(vip) == mac_of(other)

    inside(host, work)


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_answers_and_rivals_are_heard_through_a_fence(
    host: netns.Host, other: netns.Host, vip: str
) -> None:
    """The kernel drops what concerns the VIP on its way in, as while another node has it."""
    other.add_address(f"{vip}/{128 if ':' in vip else 32}")
    rules = "type filter hook ingress device eth0 priority 0; policy drop;"
    run(host, "nft", f"table netdev fence {{ chain c {{ {rules} }}; }}")

    async def work(watcher: KernelLan, seen: Seen) -> None:
        assert await watcher.probe(vip) == mac_of(other)
        watcher.watch([vip])
        await asyncio.sleep(0)
        with wire(other) as sender:
            sender.send(frames(RIVAL, vip)[0])
        await until(lambda: seen.conflicts)

    inside(host, work)


@pytest.mark.parametrize("vip", [VIP4, VIP6, "127.0.0.9", "::1"])
def test_a_probe_for_what_nobody_has_says_so(host: netns.Host, other: netns.Host, vip: str) -> None:
    async def work(watcher: KernelLan, _: Seen) -> None:
        assert await watcher.probe(vip) is None

    inside(host, work)


def test_many_probes_at_once_each_get_their_answer(host: netns.Host, other: netns.Host) -> None:
    there = [f"10.9.0.{n}" for n in range(100, 110)] + [f"fd09::{n}" for n in range(100, 110)]
    absent = [f"10.9.0.{n}" for n in range(200, 250)]
    for vip in there:
        other.add_address(f"{vip}/{128 if ':' in vip else 32}")

    async def work(watcher: KernelLan, _: Seen) -> None:
        found = await asyncio.gather(*(watcher.probe(vip) for vip in [*there, *absent, there[0]]))
        assert found == [mac_of(other)] * len(there) + [None] * len(absent) + [mac_of(other)]

    inside(host, work)


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_this_host_itself_is_no_answer_and_no_rival(
    host: netns.Host, other: netns.Host, vip: str
) -> None:
    mine = bytes.fromhex(mac_of(host).replace(":", ""))

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([vip])
        with wire(other) as sender:
            for frame in frames(mine, vip):
                sender.send(frame)
            asked = asyncio.create_task(watcher.probe(vip))
            await asyncio.sleep(0.01)
            for frame in frames(mine, vip):
                sender.send(frame)
        assert await asked is None
        assert seen.conflicts == []

    inside(host, work)


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_two_that_probe_at_the_same_time_do_not_stop_each_other(
    host: netns.Host, other: netns.Host, vip: str
) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([vip])
        with wire(other) as sender:
            asked = asyncio.create_task(watcher.probe(vip))
            for _ in range(5):
                await asyncio.sleep(0.01)
                sender.send(probe_frame(RIVAL, vip))
        assert await asked is None
        assert seen.conflicts == []

    inside(host, work)


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_whoever_claims_a_watched_address_is_reported_with_his_mac(
    host: netns.Host, other: netns.Host, vip: str
) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([vip])
        await asyncio.sleep(0)
        for frame in frames(RIVAL, vip):  # of both kinds of ARP each alone
            seen.events.clear()
            watcher._conflicts.clear()
            with wire(other) as sender:
                sender.send(frame)
            await until(lambda: seen.conflicts)
            assert seen.conflicts == [(vip, "02:00:00:00:0b:ad")]

    inside(host, work)


def test_a_rival_that_only_asks_for_others_is_reported(host: netns.Host, other: netns.Host) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await asyncio.sleep(0)
        asks = arp_question_frame(RIVAL, IPv4Address("10.9.0.77"), IPv4Address(VIP4))
        with wire(other) as sender:
            sender.send(asks)
        await until(lambda: seen.conflicts)

    inside(host, work)


def test_addresses_that_are_not_watched_have_no_rivals(host: netns.Host, other: netns.Host) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4, "10.9.0.10", "127.0.0.9"])
        watcher.watch(["10.9.0.10"])
        await asyncio.sleep(0)
        with wire(other) as sender:
            for vip in (VIP4, "127.0.0.9", "10.9.0.10"):
                sender.send(arp_frame(RIVAL, IPv4Address(vip), reply=False))
        await until(lambda: seen.conflicts)
        assert [vip for vip, _ in seen.conflicts] == ["10.9.0.10"]

    inside(host, work)


def test_the_other_interface_of_this_host_is_no_rival(
    network: netns.Network, host: netns.Host, other: netns.Host
) -> None:
    run(host, "ip", "link", "add", "wlan7", "address", "02:00:00:00:0b:ad", "type", "veth")

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await asyncio.sleep(0)
        with wire(other) as sender:
            sender.send(arp_frame(RIVAL, IPv4Address(VIP4), reply=True))
            sender.send(arp_frame(b"\x02" * 6, IPv4Address(VIP4), reply=True))
        await until(lambda: seen.conflicts)
        assert [mac for _, mac in seen.conflicts] == ["02:02:02:02:02:02"]

    inside(host, work)


def test_a_flood_of_rivals_is_a_few_reports_and_bounded_work(
    host: netns.Host, other: netns.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lan, "CONFLICT_EVERY_S", 3600.0)
    monkeypatch.setattr(frame_tap, "FLOOD_PAUSE_S", 3600.0)

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await asyncio.sleep(0)
        looked = 0
        heard = watcher._tap._heard

        def count(claim: object) -> None:
            nonlocal looked
            looked += 1
            heard(claim)  # type: ignore[arg-type]

        watcher._tap._heard = count
        monkeypatch.setattr(watcher, "_prove", lambda: None)  # which would read some more
        with wire(other) as sender:
            for n in range(500):
                mac = b"\x02" + n.to_bytes(5, "big")
                sender.send(arp_frame(mac, IPv4Address(VIP4), reply=True))
        await until(lambda: looked == frame_tap.READ_MAX)
        await asyncio.sleep(0.1)
        assert looked == frame_tap.READ_MAX
        assert len(seen.conflicts) == lan.CONFLICTS_MAX

    inside(host, work)


def test_after_a_flood_everything_is_heard_again(
    host: netns.Host, other: netns.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        monkeypatch.setattr(watcher, "_prove", lambda: None)  # which would read some more
        watcher.watch([VIP4, "10.9.0.10"])
        await asyncio.sleep(0)
        with wire(other) as sender:
            for _ in range(500):
                sender.send(arp_frame(RIVAL, IPv4Address(VIP4), reply=True))
            await until(lambda: seen.conflicts)

            def claimed() -> bool:
                sender.send(arp_frame(RIVAL, IPv4Address("10.9.0.10"), reply=True))
                return "10.9.0.10" in [vip for vip, _ in seen.conflicts]

            await until(claimed)
        assert [vip for vip, _ in seen.conflicts].count("10.9.0.10") == 1

    inside(host, work)


@pytest.mark.parametrize("many", [False, True], ids=["one by one", "too many to tell apart"])
def test_claims_of_others_and_other_networks_do_not_wake_the_agent(
    host: netns.Host, other: netns.Host, many: bool
) -> None:
    watched = [VIP4, VIP6] + [f"10.8.{n // 200}.{n % 200}" for n in range(1000 * many)]
    assert len(bpf.claims([VIP4])) < len(bpf.claims([VIP4, VIP6]))

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch(watched)
        await asyncio.sleep(0)
        woken = 0
        readable = watcher._tap._readable
        tapped = watcher._tap._socket
        assert tapped is not None

        def wake() -> None:
            nonlocal woken
            woken += 1
            readable()

        asyncio.get_running_loop().add_reader(tapped, wake)
        arp = arp_frame(RIVAL, IPv4Address(VIP4), reply=True)
        unheard = [
            probe_frame(RIVAL, VIP4),
            probe_frame(RIVAL, VIP6),
            arp[:12] + bytes.fromhex("81000007") + arp[12:],  # VLAN 7
        ]
        if not many:
            unheard += [*frames(RIVAL, "10.9.0.10"), *frames(RIVAL, "fd09::1:9")]
        with wire(other) as sender:
            for frame in unheard:
                sender.send(frame)
            await asyncio.sleep(0.1)
            assert woken == 0
            sender.send(arp[:12] + bytes.fromhex("8100a000") + arp[12:])  # only a priority
            await until(lambda: seen.conflicts)
            sender.send(frames(RIVAL, VIP6)[0])
            await until(lambda: len(seen.conflicts) == 2)
        assert woken == 2

    inside(host, work)


def test_nothing_is_open_while_there_is_nothing_to_hear(host: netns.Host) -> None:
    async def work(watcher: KernelLan, _: Seen) -> None:
        assert watcher._tap._socket is None
        watcher.watch([VIP4])
        await asyncio.sleep(0)
        assert watcher._tap._socket is not None
        watcher.watch([])
        await asyncio.sleep(0)
        assert watcher._tap._socket is None

    inside(host, work)


def test_without_an_interface_there_is_no_link_and_nobody_to_ask() -> None:
    async def main() -> None:
        watcher = KernelLan(None)
        watcher.watch([VIP4])
        assert await watcher.probe(VIP4) is None
        async with running(watcher) as seen:
            assert seen.events == [LinkState(up=False, reason="no interface for VIPs")]
            watcher.watch([VIP4])
            assert await watcher.probe(VIP4) is None

    asyncio.run(main())


def test_an_address_that_somebody_deletes_is_reported_and_one_that_we_remove_is_not(
    host: netns.Host,
) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        addresses = KernelAddresses("eth0")
        for vip in (VIP4, VIP6, "10.9.0.10"):
            await addresses.add(vip, 60_000)
        watcher.watch([VIP4, VIP6, "10.9.0.10"])
        delete_address(host, VIP4, 32)
        delete_address(host, VIP6, 128)
        watcher.watch([VIP4, VIP6])
        await addresses.remove("10.9.0.10")
        await addresses.add("10.9.0.10", 60_000)
        watcher.watch([VIP4, VIP6, "10.9.0.10"])  # it was removed before this
        await until(lambda: len(seen.gone) == 2)
        await addresses.remove("10.9.0.1")  # somebody else's, not watched
        await asyncio.sleep(0.05)
        assert seen.gone == [VIP4, VIP6]
        addresses.close()

    inside(host, work)


def test_an_address_that_expires_is_reported(host: netns.Host) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        addresses = KernelAddresses("eth0")
        await addresses.add(VIP4, 1000)
        watcher.watch([VIP4])
        await until(lambda: seen.gone == [VIP4])
        addresses.close()

    inside(host, work)


def test_renewals_are_no_removals_and_a_twin_still_is_the_address(host: netns.Host) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        addresses = KernelAddresses("eth0")
        await addresses.add(VIP4, 60_000)
        watcher.watch([VIP4])
        host.add_address(f"{VIP4}/24")
        await asyncio.sleep(0.05)  # the twin is known
        await addresses.renew([VIP4], 60_000)
        delete_address(host, VIP4, 24)
        await asyncio.sleep(0.05)
        assert seen.gone == []
        addresses.close()

    inside(host, work)


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_client_that_connects_to_the_address_is_no_rival(
    host: netns.Host, other: netns.Host, vip: str
) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        addresses = KernelAddresses("eth0")
        await addresses.add(vip, 60_000)
        watcher.watch([vip])
        with other.entered():
            client = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET)
        client.setblocking(False)
        with client, pytest.raises(ConnectionRefusedError):
            await asyncio.get_running_loop().sock_connect(client, (vip, 9))
        assert seen.conflicts == []
        addresses.close()

    inside(host, work)


def test_the_filter_for_everything_is_short() -> None:
    crowd = [f"fd09::{n:x}" for n in range(1000)]
    assert len(bpf.claims(crowd)) < 40
    assert 200 * 4 < len(bpf.claims(crowd[:200])) < bpf.INSTRUCTIONS_MAX
