"""The interface comes, goes, is renamed, replaced, switched off and unplugged."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from piagent.adapters import netlink_messages, netns, wireless
from piagent.adapters.frames import frames
from piagent.adapters.lan import KernelLan
from piagent.adapters.link_monitor import LinkMonitor
from piagent.adapters.netlink import KernelAddresses
from piagent.ports import AddressGone, LinkState
from tests.adapters.lans import Seen, delete_address, mac_of, run, running, wire
from tests.waiting import until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6 = "10.9.0.9", "fd09::9"
RIVAL = bytes.fromhex("020000000bad")
ABSENT = (False, "no such interface")
CARRIER = (True, "carrier")


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-link") as built:
        yield built


@pytest.fixture
def host(network: netns.Network) -> netns.Host:
    return network.add_host("a", "10.9.0.1/24", "fd09::1/64")


def inside(
    host: netns.Host,
    work: Callable[[KernelLan, Seen], Awaitable[None]],
    interface: str = "eth0",
) -> None:
    async def main() -> None:
        watcher = KernelLan(interface)
        async with running(watcher) as seen:
            await work(watcher, seen)

    with host.entered():
        asyncio.run(main())


def test_the_first_event_is_what_is_found_and_events_come_only_on_change(
    host: netns.Host,
) -> None:
    async def work(_: KernelLan, seen: Seen) -> None:
        run(host, "ip", "link", "set", "eth0", "mtu", "1400")
        run(host, "ip", "link", "set", "eth0", "mtu", "1500")
        await asyncio.sleep(0.1)
        assert seen.events == [LinkState(up=True, reason="carrier", wireless=False)]

    inside(host, work)


def test_a_pulled_cable_is_no_carrier_until_it_is_plugged_in(host: netns.Host) -> None:
    async def work(watcher: KernelLan, seen: Seen) -> None:
        host.pull_cable()
        await until(lambda: len(seen.links) == 2)
        assert seen.links[-1] == (False, "no carrier")
        assert await watcher.probe(VIP4) is None
        host.plug_cable()
        await until(lambda: len(seen.links) == 3)
        assert seen.links[-1] == CARRIER

    inside(host, work)


def test_an_interface_that_is_switched_off_says_so(host: netns.Host) -> None:
    async def work(_: KernelLan, seen: Seen) -> None:
        netns._set_up("eth0", up=False)
        await until(lambda: (False, "switched off") in seen.links)
        netns._set_up("eth0", up=True)
        await until(lambda: seen.links[-1] == CARRIER)

    inside(host, work)


def test_an_interface_that_comes_later_is_found(host: netns.Host) -> None:
    async def work(_: KernelLan, seen: Seen) -> None:
        assert seen.links == [ABSENT]
        run(host, "ip", "link", "add", "lan7", "type", "veth", "peer", "name", "far7")
        await until(lambda: seen.links == [ABSENT, (False, "switched off")])
        netns._set_up("lan7", up=True)
        await until(lambda: seen.links[-1] == (False, "no carrier"))
        netns._set_up("far7", up=True)
        await until(lambda: seen.links[-1] == CARRIER)

    inside(host, work, "lan7")


def test_an_interface_that_is_renamed_away_is_gone_until_it_is_named_so_again(
    network: netns.Network, host: netns.Host
) -> None:
    other = network.add_host("b")

    async def work(watcher: KernelLan, seen: Seen) -> None:
        host.add_address(f"{VIP4}/32")
        watcher.watch([VIP4])
        run(host, "ip", "link", "set", "eth0", "name", "old0")
        await until(lambda: seen.links == [CARRIER, ABSENT])
        assert seen.gone == [VIP4]
        run(host, "ip", "link", "set", "old0", "name", "eth0")
        await until(lambda: seen.links == [CARRIER, ABSENT, CARRIER])
        await conflict_is_heard(other, seen)
        # What is on it was there before it had the name.
        assert watcher._monitor is not None
        assert ("10.9.0.1", 24) in watcher._monitor.addresses

    inside(host, work)


def test_an_interface_that_is_replaced_at_once_is_listened_to(
    network: netns.Network, host: netns.Host
) -> None:
    other = network.add_host("b")

    async def work(watcher: KernelLan, seen: Seen) -> None:
        watcher.watch([VIP4])
        await asyncio.sleep(0)
        # All before the event loop has a turn.
        run(host, "ip", "link", "set", "eth0", "name", "old0")
        plug_in_again(network, host)
        host.pull_cable()
        await until(lambda: seen.links[-1] == CARRIER and ABSENT in seen.links)
        await conflict_is_heard(other, seen)

    inside(host, work)


async def conflict_is_heard(other: netns.Host, seen: Seen) -> None:
    with wire(other) as sender:

        def heard() -> bool:
            sender.send(frames(RIVAL, VIP4)[0])
            return (VIP4, "02:00:00:00:0b:ad") in seen.conflicts

        await until(heard)


def test_an_interface_that_is_deleted_and_made_again_is_watched_as_before(
    network: netns.Network, host: netns.Host
) -> None:
    other = network.add_host("b")

    async def work(watcher: KernelLan, seen: Seen) -> None:
        addresses = KernelAddresses("eth0")
        for vip in (VIP4, VIP6):
            await addresses.add(vip, 60_000)
        watcher.watch([VIP4, VIP6])
        run(host, "ip", "link", "delete", "eth0")
        await until(lambda: seen.links[-1] == ABSENT)
        await until(lambda: sorted(seen.gone) == [VIP4, VIP6])
        assert await watcher.probe(VIP4) is None
        plug_in_again(network, host)
        await until(lambda: seen.links[-1] == CARRIER)
        await conflict_is_heard(other, seen)
        await addresses.add(VIP4, 60_000)
        await asyncio.sleep(0.05)
        delete_address(host, VIP4, 32)
        await until(lambda: len(seen.gone) == 3)
        addresses.close()

    inside(host, work)


def plug_in_again(network: netns.Network, host: netns.Host) -> None:
    """A new eth0 with a cable to the bridge."""
    far = f"name new0 netns {network._bridge.name}".split()
    run(host, "ip", "link", "add", "eth0", "type", "veth", "peer", *far)
    netns._set_up("eth0", up=True)
    run(network._bridge, "ip", "link", "set", "new0", "master", "bridge", "up")


def test_what_happened_while_the_kernel_had_too_much_to_say_is_found_by_looking(
    host: netns.Host,
) -> None:
    async def work() -> None:
        addresses = KernelAddresses("eth0")
        for vip in (VIP4, VIP6):
            await addresses.add(vip, 60_000)
        monitor = LinkMonitor("eth0")
        monitor._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        monitor.look()
        delete_address(host, "fd09::1", 64)
        netns._set_up("eth0", up=False)
        for mtu in range(1300, 1340):
            run(host, "ip", "link", "set", "eth0", "mtu", str(mtu))
        delete_address(host, VIP4, 32)
        with pytest.raises(OSError, match="No buffer space") as raised:
            list(netlink_messages.receive(monitor._events))
        assert raised.value.errno == errno.ENOBUFS
        monitor._lost_events = True
        found = monitor.read()
        assert LinkState(up=False, reason="switched off") in found
        assert AddressGone(VIP4) in found
        assert [a for a, _ in monitor.addresses] == ["10.9.0.1"]
        assert monitor.read() == []
        monitor.close()
        addresses.close()

    with host.entered():
        asyncio.run(work())


def test_a_flap_of_the_carrier_is_told_even_if_it_is_over(host: netns.Host) -> None:
    async def work(_: KernelLan, seen: Seen) -> None:
        netns._set_up("eth0", up=False)
        netns._set_up("eth0", up=True)
        await until(lambda: len(seen.links) > 2 and seen.links[-1] == CARRIER)
        assert (False, "switched off") in seen.links

    inside(host, work)


def test_hardware_addresses_of_all_interfaces_are_known(host: netns.Host) -> None:
    with host.entered():
        monitor = LinkMonitor("eth0")
        monitor.look()
        run(host, "ip", "link", "add", "lan7", "type", "veth", "peer", "name", "far7")
        monitor.read()
        assert len(monitor.macs) == 4
        assert mac_of(host) in [mac.hex(":") for mac in monitor.macs.values()]
        run(host, "ip", "link", "delete", "lan7")
        monitor.read()
        assert len(monitor.macs) == 2
        monitor.close()


@pytest.mark.parametrize("mark", ["wireless", "phy80211"])
def test_wireless_is_known_by_sysfs(tmp_path: Path, mark: str) -> None:
    (tmp_path / "class/net/wlan0" / mark).mkdir(parents=True)
    (tmp_path / "class/net/eth0").mkdir(parents=True)
    assert wireless.is_wireless("wlan0", tmp_path)
    assert not wireless.is_wireless("eth0", tmp_path)
    assert not wireless.is_wireless("none7", tmp_path)


def test_more_addresses_than_the_wifi_chip_answers_for_are_a_warning(tmp_path: Path) -> None:
    drivers = tmp_path / "bus/drivers"
    for interface, driver in (("wlan0", "brcmfmac"), ("eth0", "macb")):
        (drivers / driver).mkdir(parents=True)
        device = tmp_path / "class/net" / interface / "device"
        device.mkdir(parents=True)
        (device / "driver").symlink_to(drivers / driver)
    vips = [f"10.9.0.{n}" for n in range(8)]
    warning = wireless.crowded("wlan0", vips, tmp_path)
    assert warning is not None
    assert warning.startswith("wlan0: 8 IPv4 VIPs, but its firmware (brcmfmac)")
    assert "'ip link set wlan0 promisc on'" in warning
    assert wireless.crowded("wlan0", [*vips[:7], "fd09::1", "fd09::2"], tmp_path) is None
    assert wireless.crowded("eth0", vips, tmp_path) is None
    assert wireless.crowded("none7", vips, tmp_path) is None
