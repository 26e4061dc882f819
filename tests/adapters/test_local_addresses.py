"""What is on `lo`, what is refused, and in which order the kernel is told; on a real kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from piagent import guardian
from piagent.adapters import cluster_fence, local_addresses, netns
from piagent.adapters.cluster_fence import TABLE
from piagent.adapters.fence import KernelFence
from piagent.adapters.fence_table import FAMILIES
from piagent.adapters.netlink import KernelAddresses
from piagent.adapters.nftables import NFPROTO_ARP, NFPROTO_INET, Batch, Nftables
from piagent.adapters.rtnetlink import Rtnetlink
from tests.adapters.two_hosts import (
    INSIDE4,
    INSIDE6,
    NODE4,
    NODE6,
    ROUTED4,
    ROUTED6,
    configure,
    family,
    here,
    on_loopback,
    reaches,
    run,
    tables,
    two_hosts,
)

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

ROOT = Path(__file__).resolve().parents[2]
INSIDE, ROUTED = (INSIDE4, INSIDE6), (ROUTED4, ROUTED6)
ALL = {*INSIDE, *ROUTED}
NEW4, NEW6 = "10.96.0.2", "fd96::2"


@pytest.fixture
def hosts() -> Iterator[tuple[netns.Host, netns.Host]]:
    with two_hosts("pa-local") as pair:
        yield pair


@pytest.fixture
def node(hosts: tuple[netns.Host, netns.Host]) -> netns.Host:
    return hosts[0]


def in_set(host: netns.Host, name: str) -> set[str]:
    number = NFPROTO_ARP if name == "silent4" else NFPROTO_INET
    with host.entered(), Nftables() as kernel:
        return {str(ip_address(key)) for key in kernel.elements(TABLE, name, number)}


def source_for(destination: str) -> str:
    """The address that the kernel would send from; the caller is on the host."""
    with socket.socket(family(destination), socket.SOCK_DGRAM) as asking:
        asking.connect((destination, 9))
        return str(asking.getsockname()[0])


def refusing(code: int, about: str) -> Callable[[Nftables, Batch], None]:
    """A kernel that takes no transaction."""

    def commit(_: Nftables, batch: Batch) -> None:
        raise OSError(code, os.strerror(code), about)

    return commit


def test_exactly_these_are_there_and_marked(node: netns.Host) -> None:
    with here(node) as addresses:
        assert addresses.why_not is None
        assert addresses.configure(INSIDE, ROUTED) == {}
        assert on_loopback(node) == ALL
        listing = run(node, "ip", "address", "show", "lo")
        for address in (INSIDE4, ROUTED4):
            assert f"inet {address}/32 scope host" in listing
        assert listing.count("deprecated") == 2
        assert {str(each) for each in guardian.addresses() if each.marked} == {
            *(f"{address}/32" for address in (INSIDE4, ROUTED4)),
            *(f"{address}/128" for address in (INSIDE6, ROUTED6)),
        }
        assert addresses.configure((NEW4,), (ROUTED6,)) == {}
        assert on_loopback(node) == {NEW4, ROUTED6}
        assert in_set(node, "inside4") == in_set(node, "silent4") == {NEW4}
        assert in_set(node, "inside6") == set()


def test_the_same_again_changes_nothing(node: netns.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with here(node) as addresses:
        addresses.configure(INSIDE, ROUTED)
        monkeypatch.setattr(Nftables, "commit", refusing(errno.EIO, "test"))
        monkeypatch.setattr(Rtnetlink, "repeat", None)
        assert addresses.configure(INSIDE, ROUTED) == {}
        assert addresses.why_not is None


def test_an_address_changes_sides(hosts: tuple[netns.Host, netns.Host]) -> None:
    node, neighbour = hosts
    with here(node) as addresses:
        for given, open_ in (((INSIDE, ()), False), (((), INSIDE), True), ((INSIDE, ()), False)):
            assert addresses.configure(*given) == {}
            for address in INSIDE:
                assert reaches(neighbour, node, address, patience_s=5 if open_ else 0.4) == open_
        assert addresses.configure(INSIDE, INSIDE) == {}
        assert not reaches(neighbour, node, INSIDE4), "what is in both is inside"


def test_the_fence_is_there_before_the_address_and_as_long(
    node: netns.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    repeat = Rtnetlink.repeat

    def noted(self: Rtnetlink, request: bytearray) -> None:
        seen.append(in_set(node, "inside4") & in_set(node, "silent4"))
        repeat(self, request)
        seen.append(in_set(node, "inside4") & in_set(node, "silent4"))

    monkeypatch.setattr(Rtnetlink, "repeat", noted)
    with here(node) as addresses:
        addresses.configure((INSIDE4,), ())
        assert seen == [{INSIDE4}] * 2
        seen.clear()
        addresses.configure((NEW4,), ())
        assert seen == [{INSIDE4, NEW4}] * 4
        seen.clear()
        addresses.remove_all()
        assert seen == [{NEW4}] * 2


def test_the_host_sends_from_its_own_addresses_as_before(node: netns.Host) -> None:
    """On interfaces that have none of their own the kernel looks at the others', `lo` first."""
    run(node, "ip", "link", "add", "bare0", "type", "veth", "peer", "bare1")
    for interface in ("bare0", "bare1"):
        run(node, "ip", "link", "set", interface, "up")
    run(node, "ip", "route", "add", "10.50.0.0/16", "dev", "bare0")
    run(node, "ip", "route", "add", "fd96::/16", "dev", "bare0")
    run(node, "ip", "route", "add", "default", "via", "10.9.0.3")
    destinations = ("10.9.0.3", "10.50.0.1", "10.96.0.77", "fd09::3", "fd96::77", "127.0.0.1")
    with here(node) as addresses:
        before = [source_for(each) for each in destinations]
        assert addresses.configure(INSIDE, ROUTED) == {}
        assert [source_for(each) for each in destinations] == before
    assert before == [NODE4, NODE4, NODE4, NODE6, NODE6, "127.0.0.1"]


@pytest.mark.parametrize("address", INSIDE)
@pytest.mark.parametrize("interface", ["eth0", "lo"])
def test_what_somebody_else_configured_is_refused_and_left_alone(
    hosts: tuple[netns.Host, netns.Host], address: str, interface: str
) -> None:
    node, neighbour = hosts
    prefix, at_once = ("64", ["nodad"]) if ":" in address else ("32", [])
    run(node, "ip", "address", "add", f"{address}/{prefix}", "dev", interface, *at_once)
    with here(node) as addresses:
        refused = addresses.configure(INSIDE, ROUTED)
        assert list(refused) == [address]
        assert f"{address} is already on {interface} as {address}/{prefix}" in refused[address]
        assert f"'ip address del {address}/{prefix} dev {interface}'" in refused[address]
        assert reaches(neighbour, node, address, patience_s=5), "it is not fenced off either"
        addresses.remove_all()
    assert address in run(node, "ip", "address", "show", interface)


def test_an_address_that_somebody_takes_later_is_given_up(
    hosts: tuple[netns.Host, netns.Host],
) -> None:
    node, neighbour = hosts
    with here(node) as addresses:
        addresses.configure(INSIDE, ())
        run(node, "ip", "address", "add", f"{INSIDE4}/24", "dev", "eth0")
        assert list(addresses.configure(INSIDE, ())) == [INSIDE4]
        assert on_loopback(node) == {INSIDE6}
        assert reaches(neighbour, node, INSIDE4, patience_s=5)
        run(node, "ip", "address", "del", f"{INSIDE4}/24", "dev", "eth0")
        assert addresses.configure(INSIDE, ()) == {}
    assert on_loopback(node) == {*INSIDE}


@pytest.mark.parametrize("interface", ["eth0", "lo"])
def test_a_vip_with_a_lease_is_no_service_address(node: netns.Host, interface: str) -> None:
    with here(node) as addresses:
        leased = KernelAddresses(interface)
        asyncio.run(leased.add(INSIDE4, 60_000))
        asyncio.run(leased.add("fd98::9", 60_000))
        refused = addresses.configure(INSIDE, ())
        assert list(refused) == [INSIDE4]
        assert f"a VIP on {interface} still" in refused[INSIDE4]
        addresses.remove_all()
        assert set(asyncio.run(leased.leftovers())) == {INSIDE4, "fd98::9"}
        leased.close()


def test_nothing_is_left_and_nothing_foreign_missing(node: netns.Host) -> None:
    run(node, "ip", "address", "add", "10.98.0.1/32", "dev", "lo")
    foreign = Batch(TABLE)
    foreign.new_table()
    with here(node) as addresses:
        KernelFence().guard("eth0", ["10.9.0.200"])
        with Nftables() as kernel:
            kernel.commit(foreign)
            before = run(node, "ip", "address"), on_loopback(node)
            addresses.configure(INSIDE, ROUTED)
            assert tables(node) == ["inet", "arp"]
            addresses.remove_all()
            assert tables(node) == []
            assert (run(node, "ip", "address"), on_loopback(node)) == before
            assert kernel.has_chain("piagent", "ingress")
        addresses.configure(INSIDE, ROUTED)
        addresses.configure((), ())
    assert tables(node) == []
    assert on_loopback(node) == {"10.98.0.1"}


def test_what_a_former_life_left_is_taken_over_or_removed(node: netns.Host) -> None:
    configure(node, INSIDE, ROUTED)
    with here(node), Nftables() as kernel:
        without_rules = Batch(TABLE)
        for number, name in ((NFPROTO_INET, "inside"), (NFPROTO_ARP, "silent")):
            without_rules.turn_to(number)
            without_rules.delete_table()
            without_rules.new_table()
            for version in FAMILIES:
                without_rules.new_set(f"{name}{version.version}", (version.kind, version.size))
        kernel.commit(without_rules)
    assert configure(node, (INSIDE4, NEW6), ()) == {}
    assert on_loopback(node) == {INSIDE4, NEW6}
    assert tables(node) == ["inet", "arp"]
    configure(node)
    assert on_loopback(node) == set()
    assert tables(node) == []


def test_a_flushed_table_is_built_anew(node: netns.Host) -> None:
    """As a restart of nftables.service does it."""
    with here(node) as addresses:
        addresses.configure(INSIDE, ROUTED)
        with Nftables() as kernel:
            for number in (NFPROTO_INET, NFPROTO_ARP):
                gone = Batch(TABLE)
                gone.turn_to(number)
                gone.delete_table()
                kernel.commit(gone)
                assert addresses.configure(INSIDE, ROUTED) == {}
                assert tables(node) == ["inet", "arp"]
                assert in_set(node, "inside6") == {INSIDE6}
                assert in_set(node, "silent4") == {INSIDE4, ROUTED4}
    assert on_loopback(node) == ALL


def test_without_rights_nothing_is_there_and_the_reason_has_a_cure(node: netns.Host) -> None:
    script = (
        "from piagent.adapters.local_addresses import LoopbackAddresses as A; a = A();"
        " print(a.configure((), ())); print(a.why_not);"
        f" print(*a.configure(['{INSIDE4}'], ['{ROUTED6}']).values(), sep='\\n');"
        " print(a.why_not); a.remove_all()"
    )
    argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]
    done = subprocess.run(
        node.command([*argv, sys.executable, "-c", script]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    nothing, *reasons = done.stdout.splitlines()
    assert nothing == "{}"
    assert len(reasons) == 4
    assert all("CAP_NET_ADMIN" in reason for reason in reasons), reasons
    assert done.stderr == ""
    assert on_loopback(node) == set()


def test_no_fence_no_address(node: netns.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nftables, "commit", refusing(errno.EOPNOTSUPP, "table"))
    with here(node) as addresses:
        refused = addresses.configure(INSIDE, ROUTED)
        assert refused.keys() == ALL
        assert addresses.why_not is not None
        assert "NF_TABLES_INET" in addresses.why_not
        assert set(refused.values()) == {addresses.why_not}
    assert on_loopback(node) == set()


def test_a_fence_that_cannot_grow_still_keeps_what_it_has(
    node: netns.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here(node) as addresses:
        addresses.configure(INSIDE, ROUTED)
        monkeypatch.setattr(Nftables, "commit", refusing(errno.ENOMEM, "elements of inside4"))
        refused = addresses.configure((INSIDE4, NEW4, ROUTED4), (INSIDE6,))
        assert refused.keys() == {NEW4, ROUTED4}, "it does not have them as they have to be kept"
        assert on_loopback(node) == {INSIDE4, INSIDE6}
        monkeypatch.undo()
        assert addresses.configure((INSIDE4, NEW4, ROUTED4), (INSIDE6,)) == {}
        assert addresses.why_not is None
    assert in_set(node, "inside6") == set()


def test_addresses_do_not_outlive_a_fence_that_is_gone(
    node: netns.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with here(node) as addresses:
        addresses.configure(INSIDE, ROUTED)
        cluster_fence.ClusterFence().remove()
        monkeypatch.setattr(Nftables, "commit", refusing(errno.ENOMEM, "table"))
        assert addresses.configure(INSIDE, ROUTED).keys() == ALL
    assert on_loopback(node) == set()


def test_addresses_that_need_nothing_and_addresses_that_cannot_be(node: netns.Host) -> None:
    bad = ("224.0.0.1", "0.0.0.0", "::", "ff02::1", "fe80::1", "169.254.1.1", "1.2.3", "")
    with here(node) as addresses:
        refused = addresses.configure(("127.0.0.5", "::1", *bad), ("127.1.2.3", NEW4))
        assert refused.keys() == set(bad)
        assert all(reason.startswith(address) for address, reason in refused.items())
    assert on_loopback(node) == {NEW4}


def test_ipv6_that_is_switched_off(node: netns.Host) -> None:
    run(node, "sysctl", "-q", "-w", "net.ipv6.conf.lo.disable_ipv6=1")
    refused = configure(node, INSIDE)
    assert list(refused) == [INSIDE6]
    assert "sysctl net.ipv6.conf.lo.disable_ipv6=0" in refused[INSIDE6]
    assert on_loopback(node) == {INSIDE4}


def test_loopback_that_is_down(node: netns.Host) -> None:
    run(node, "ip", "link", "set", "lo", "down")
    assert set(configure(node, INSIDE).values()) == {"lo is down: 'ip link set lo up'"}


def test_a_kernel_that_keeps_no_mark(node: netns.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.18: what this life configured is known, the rest is foreign."""
    monkeypatch.setattr(local_addresses, "_IFA_PROTO", 200)
    with here(node) as addresses:
        for _ in range(2):
            assert addresses.configure(INSIDE, ROUTED) == {}
        assert addresses.configure((INSIDE4,), ()) == {}
        assert on_loopback(node) == {INSIDE4}
    assert list(configure(node, (INSIDE4,))) == [INSIDE4]


def test_a_thousand(node: netns.Host) -> None:
    many = [f"10.96.{n // 250}.{n % 250 + 1}" for n in range(500)]
    many += [f"fd96::{n:x}" for n in range(1, 501)]
    assert configure(node, tuple(many)) == {}
    assert on_loopback(node) == set(many)
    assert configure(node) == {}
    assert on_loopback(node) == set()
