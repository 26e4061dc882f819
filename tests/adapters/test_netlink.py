"""Real kernel addresses, in a network namespace; and what the LAN hears of them."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from piagent.adapters import netlink_messages, netns
from piagent.adapters.netlink import KernelAddresses, _configured
from piagent.adapters.rtnetlink import Rtnetlink
from piagent.ports import AddressError

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

T = TypeVar("T")


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-netlink") as built:
        yield built


@pytest.fixture
def host(network: netns.Network) -> netns.Host:
    return network.add_host("a", "10.9.0.1/24", "fd09::1/64")


def inside(
    host: netns.Host, work: Callable[[KernelAddresses], Awaitable[T]], interface: str = "eth0"
) -> T:
    """Run `work` in an event loop inside the host."""

    async def main() -> T:
        addresses = KernelAddresses(interface)
        try:
            return await work(addresses)
        finally:
            addresses.close()

    with host.entered():
        return asyncio.run(main())


def configured(host: netns.Host) -> dict[str, tuple[int, bool]]:
    """Address -> (prefix length, ours), as the kernel lists them, but for the link-local one: that
    comes by itself some time after the link is up.
    """
    with host.entered(), Rtnetlink() as rtnetlink, netlink_messages.open_socket() as channel:
        listed = _configured(channel, rtnetlink.link("eth0").index)
    return {each: (size, ours) for each, size, ours in listed if not each.startswith("fe80:")}


@pytest.mark.parametrize(("vip", "prefix"), [("10.9.0.9", 32), ("fd09::9", 128)])
def test_an_added_address_is_a_marked_host_address_and_removal_is_confirmed(
    host: netns.Host, vip: str, prefix: int
) -> None:
    inside(host, lambda addresses: addresses.add(vip, 5000))
    assert configured(host)[vip] == (prefix, True)
    assert inside(host, lambda addresses: addresses.leftovers()) == (vip,)
    assert inside(host, lambda addresses: addresses.remove(vip)) is True
    assert vip not in configured(host)


@pytest.mark.parametrize("vip", ["10.9.0.9", "fd09::9"])
def test_an_address_that_nobody_renews_goes_away_by_itself(host: netns.Host, vip: str) -> None:
    started = time.monotonic()
    inside(host, lambda addresses: addresses.add(vip, 2900))
    while vip in configured(host):
        assert time.monotonic() - started < 10
        time.sleep(0.05)
    # Whole seconds, rounded down: kept for a while, and never longer than was asked for.
    assert 1.5 < time.monotonic() - started < 2.9


@pytest.mark.parametrize("vip", ["10.9.0.9", "fd09::9"])
def test_a_renewed_address_stays(host: netns.Host, vip: str) -> None:
    async def renew(addresses: KernelAddresses) -> None:
        for _ in range(5):
            await addresses.add(vip, 1200)
            await asyncio.sleep(0.6)
            assert vip in await addresses.leftovers()

    inside(host, renew)


def test_addresses_renewed_in_one_go_stay_and_loopback_ones_are_left_alone(
    host: netns.Host,
) -> None:
    vips = ("10.9.0.9", "10.9.0.10", "fd09::9")

    async def renew(addresses: KernelAddresses) -> None:
        for vip in vips:
            await addresses.add(vip, 1200)
        for _ in range(4):
            await asyncio.sleep(0.6)
            await addresses.renew([*vips, "127.0.0.9"], 1200)
        assert sorted(await addresses.leftovers()) == sorted(vips)

    inside(host, renew)


def test_renewal_on_an_interface_that_went_down_is_an_error(host: netns.Host) -> None:
    async def renew(addresses: KernelAddresses) -> None:
        await addresses.add("10.9.0.9", 5000)
        netns._set_up("eth0", up=False)
        with pytest.raises(AddressError, match="eth0 is down"):
            await addresses.renew(["10.9.0.9"], 5000)

    inside(host, renew)


@pytest.mark.parametrize("vip", ["10.9.0.9", "fd09::9"])
def test_a_client_on_the_lan_reaches_the_address(network: netns.Network, vip: str) -> None:
    host = network.add_host("a", "10.9.0.1/24", "fd09::1/64")
    client = network.add_host("b", "10.9.0.2/24", "fd09::2/64")
    inside(host, lambda addresses: addresses.add(vip, 9000))
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with host.entered():
        server = socket.create_server((vip, 0), family=family)
    with client.entered():
        there = socket.socket(family)
    with server, there:
        there.settimeout(5)
        there.connect(server.getsockname()[:2])


def test_an_ipv6_vip_is_never_the_source_of_the_hosts_own_connections(host: netns.Host) -> None:
    inside(host, lambda addresses: addresses.add("fd09::9", 9000))
    with host.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect(("fd09::8", 9))
        assert probe.getsockname()[0] == "fd09::1"


def test_removing_what_is_not_there_is_confirmed(host: netns.Host) -> None:
    assert inside(host, lambda addresses: addresses.remove("10.9.0.77")) is True
    assert inside(host, lambda addresses: addresses.remove("10.9.0.77"), "eth7") is True


def test_an_address_of_somebody_else_is_neither_taken_nor_called_removed(
    host: netns.Host, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AddressError, match=r"10\.9\.0\.1 is already on eth0 as 10\.9\.0\.1/24"):
        inside(host, lambda addresses: addresses.add("10.9.0.1", 5000))
    with caplog.at_level(logging.WARNING):
        assert inside(host, lambda addresses: addresses.remove("10.9.0.1")) is False
    assert "still on eth0 as a /24" in caplog.text
    assert "10.9.0.1" in configured(host)


def test_a_missing_interface_is_named_with_those_that_exist(host: netns.Host) -> None:
    with pytest.raises(AddressError, match=r"eth7 does not exist \(there are: eth0\)"):
        inside(host, lambda addresses: addresses.add("10.9.0.9", 5000), "eth7")
    with pytest.raises(AddressError, match="interface"):
        inside(host, lambda addresses: addresses.add("10.9.0.9", 5000), "")


def test_an_interface_that_is_down_is_an_error_with_the_cure(host: netns.Host) -> None:
    subprocess.run(host.command(["ip", "link", "set", "eth0", "down"]), check=True)
    with pytest.raises(AddressError, match="'ip link set eth0 up'"):
        inside(host, lambda addresses: addresses.add("10.9.0.9", 5000))


def test_without_the_capability_the_error_says_so(host: netns.Host) -> None:
    script = (
        "import asyncio\n"
        "from piagent.adapters.netlink import KernelAddresses\n"
        "from piagent.ports import AddressError\n"
        "try:\n"
        "    asyncio.run(KernelAddresses('eth0').add('10.9.0.9', 1000))\n"
        "except AddressError as error:\n"
        "    print(error)\n"
    )
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script]
    done = subprocess.run(host.command(powerless), capture_output=True, text=True, check=True)
    assert done.stdout == (
        "10.9.0.9 on eth0: Operation not permitted: run piagent as root or with CAP_NET_ADMIN\n"
    )


def test_without_an_interface_the_error_says_which_key_to_set() -> None:
    async def main() -> None:
        addresses = KernelAddresses(None)
        assert await addresses.remove("10.9.0.9") is True
        with pytest.raises(AddressError, match=r"set \[node\] interface"):
            await addresses.add("10.9.0.9", 5000)

    asyncio.run(main())


@pytest.mark.parametrize("vip", ["127.3.2.1", "::1"])
def test_loopback_addresses_are_left_alone(host: netns.Host, vip: str) -> None:
    async def use(addresses: KernelAddresses) -> None:
        await addresses.add(vip, 5000)
        await addresses.announce(vip)
        assert await addresses.remove(vip) is True

    before = configured(host)
    inside(host, use)
    assert configured(host) == before


def test_an_address_that_is_not_there_is_not_announced(host: netns.Host) -> None:
    with pytest.raises(AddressError, match=r"10\.9\.0\.9 is not on eth0"):
        inside(host, lambda addresses: addresses.announce("10.9.0.9"))


def test_an_address_can_be_removed_when_descriptors_have_run_out(host: netns.Host) -> None:
    async def work(addresses: KernelAddresses) -> bool:
        await addresses.add("10.9.0.9", 60_000)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await addresses.add("10.9.0.9", 60_000)
            return await addresses.remove("10.9.0.9")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert inside(host, work) is True
    assert "10.9.0.9" not in configured(host)
