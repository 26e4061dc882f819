"""A backend of `dsr` services on a real kernel: VIPs that it serves, and never answers for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from piagent.adapters import netns, tunnels
from piagent.adapters.dsr_backend import DsrBackend
from piagent.adapters.fence import KernelFence
from piagent.adapters.interface_settings import unfit
from piagent.adapters.local_addresses import LoopbackAddresses
from piagent.adapters.netlink import KernelAddresses
from piagent.adapters.nftables import Nftables
from piagent.core.dsr import Accepted
from tests.adapters.asker import Asker
from tests.adapters.lans import mac_of
from tests.adapters.two_hosts import NODE4, NODE6, on_loopback, reaches, run, tables

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6 = "10.9.0.200", "fd09::c8"
OTHER4 = "10.9.0.201"
ALL = (Accepted(VIP4), Accepted(VIP6))
both = pytest.mark.parametrize("vip", [VIP4, VIP6])


@pytest.fixture
def hosts() -> Iterator[tuple[netns.Host, netns.Host]]:
    """A backend, and somebody who sends it frames as a forwarder does: to its MAC."""
    with netns.Network("pa-dsr") as network:
        backend = network.add_host("a", f"{NODE4}/24", f"{NODE6}/64")
        sender = network.add_host("c", "10.9.0.3/24", "fd09::3/64")
        for vip in (VIP4, VIP6, OTHER4):
            to = ("lladdr", mac_of(backend), "dev", "eth0", "nud", "permanent")
            run(sender, "ip", "neighbour", "add", vip, *to)
        yield backend, sender


@pytest.fixture
def backend(hosts: tuple[netns.Host, netns.Host]) -> netns.Host:
    return hosts[0]


@pytest.fixture
def sender(hosts: tuple[netns.Host, netns.Host]) -> netns.Host:
    return hosts[1]


@pytest.fixture
def asker(sender: netns.Host) -> Iterator[Asker]:
    with Asker(sender, "10.9.0.3", "fd09::3") as asking:
        yield asking


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


@contextmanager
def addresses(host: netns.Host, notes: Path | None) -> Iterator[LoopbackAddresses]:
    with host.entered():
        made = LoopbackAddresses(dsr=DsrBackend(notes))
        try:
            yield made
        finally:
            made.close()


def settings(host: netns.Host) -> list[tuple[str, str, int]]:
    with host.entered():
        return unfit()


@both
def test_a_frame_to_its_hardware_is_answered_from_the_vip(
    backend: netns.Host, sender: netns.Host, notes: Path, vip: str
) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with addresses(backend, notes) as made:
            assert made.configure((), (), ALL) == {}
        run(backend, "ip", "neighbour", "flush", "all")
        assert reaches(sender, backend, vip, kind, patience_s=5)


@both
def test_nobody_hears_from_it_where_the_vip_is(
    backend: netns.Host, asker: Asker, notes: Path, vip: str
) -> None:
    own = NODE4 if vip == VIP4 else NODE6
    with addresses(backend, notes) as made:
        assert made.configure((), (), ALL) == {}
    assert asker.gets_mac(own), "it is asked as it should be"
    assert not asker.gets_mac(vip)


def test_it_asks_for_neighbours_in_its_own_name(
    backend: netns.Host, sender: netns.Host, notes: Path
) -> None:
    with addresses(backend, notes) as made:
        made.configure((), (), ALL)
    with sender.entered():
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0806))
    heard.setblocking(False)
    run(backend, "ip", "neighbour", "flush", "all")
    assert reaches(sender, backend, VIP4, patience_s=5)
    senders = set()
    with heard:
        while True:
            try:
                senders.add(socket.inet_ntoa(heard.recv(64)[14:18]))
            except BlockingIOError:
                break
    assert NODE4 in senders, "it asked for the client"
    assert VIP4 not in senders


def test_without_them_the_kernel_would_answer_for_it(backend: netns.Host, asker: Asker) -> None:
    run(backend, "ip", "address", "add", f"{VIP4}/32", "dev", "lo")
    assert asker.gets_mac(VIP4)


@both
def test_the_owner_may_be_a_backend_too(
    backend: netns.Host, sender: netns.Host, asker: Asker, notes: Path, vip: str
) -> None:
    with addresses(backend, notes) as made:
        owned = KernelAddresses("eth0")
        try:
            asyncio.run(owned.add(vip, 60_000))
            assert made.configure((), (), ALL) == {}
            assert vip in on_loopback(backend)
            assert asker.gets_mac(vip)
            assert made.configure((), (), ()) == {}
            assert on_loopback(backend) == set()
            assert asker.gets_mac(vip), "an owner stays one"
            assert made.configure((), (), ALL) == {}
            assert asyncio.run(owned.remove(vip))
            assert not asker.gets_mac(vip)
            assert reaches(sender, backend, vip, patience_s=5), "and a backend stays one"
        finally:
            owned.close()


@both
def test_the_fence_lets_a_backend_serve_and_keeps_it_silent(
    backend: netns.Host, sender: netns.Host, asker: Asker, notes: Path, vip: str
) -> None:
    with addresses(backend, notes) as made:
        assert made.configure((), (), ALL) == {}
        fence = KernelFence()
        try:
            fence.guard("eth0", (VIP4, VIP6))
            assert not reaches(sender, backend, vip)
            fence.guard("eth0", (VIP4, VIP6), (VIP4, VIP6))
            assert reaches(sender, backend, vip, patience_s=5)
            assert not asker.gets_mac(vip)
            fence.guard("eth0", (VIP4, VIP6))
            assert not reaches(sender, backend, vip)
            fence.guard("eth0", (VIP4, VIP6, OTHER4), (vip,))
            again = KernelFence()
            again.guard("eth0", (VIP4, VIP6), (vip,))
            again.shut()
            assert reaches(sender, backend, vip, patience_s=5), "in a table that is built anew"
        finally:
            fence.remove()
            fence.shut()


def test_all_of_it_is_undone(backend: netns.Host, notes: Path) -> None:
    before = settings(backend)
    with addresses(backend, notes) as made:
        made.configure((), (), ALL)
        assert on_loopback(backend) == {VIP4, VIP6}
        assert settings(backend) == []
        made.configure((), (), ALL[1:])
        assert on_loopback(backend) == {VIP6}
        assert settings(backend) == before, "IPv6 needs none"
        made.configure((), (), ALL)
        made.remove_all()
    assert on_loopback(backend) == set()
    assert settings(backend) == before
    assert not notes.exists()


def test_after_a_crash_the_next_life_undoes_it(backend: netns.Host, notes: Path) -> None:
    before = settings(backend)
    with addresses(backend, notes) as made:
        made.configure((), (), ALL)
    assert settings(backend) == []
    with addresses(backend, notes) as made:
        made.remove_all()
    assert on_loopback(backend) == set()
    assert settings(backend) == before


def test_what_is_not_ours_is_not_touched(backend: netns.Host, notes: Path) -> None:
    run(backend, "ip", "address", "add", f"{VIP4}/32", "dev", "lo")
    with addresses(backend, notes) as made:
        refused = made.configure((), (), ALL)
        assert set(refused) == {VIP4}
        assert "piagent did not put it there" in refused[VIP4]
        made.remove_all()
    assert on_loopback(backend) == {VIP4}


def test_cluster_addresses_beside_it_stay_fenced(
    backend: netns.Host, sender: netns.Host, asker: Asker, notes: Path
) -> None:
    with addresses(backend, notes) as made:
        assert made.configure((OTHER4,), (), ALL) == {}
        assert on_loopback(backend) == {VIP4, VIP6, OTHER4}
        assert not reaches(sender, backend, OTHER4)
        assert reaches(sender, backend, VIP4, patience_s=5)
        assert made.configure((OTHER4,), (), ()) == {}
        assert not asker.gets_mac(OTHER4)
        assert made.configure((), (), ALL) == {}
        assert tables(backend) == []


def test_own_addresses_are_those_of_others(backend: netns.Host, notes: Path) -> None:
    with addresses(backend, notes) as made:
        made.configure((), (), ALL)
        owned = KernelAddresses("eth0")
        try:
            asyncio.run(owned.add(VIP4, 60_000))
            own = {one for one in made.own() if not one.startswith("fe80")}
        finally:
            owned.close()
    assert own == {NODE4, NODE6, "127.0.0.1", "::1"}


def test_without_rights_there_is_no_address_and_a_cure(
    backend: netns.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("piagent.adapters.interface_settings.set_ipv4", refused)
    with addresses(backend, None) as made:
        refusals = made.configure((), (), ALL)
        assert set(refusals) == {VIP4}
        assert "CAP_NET_ADMIN" in refusals[VIP4]
    assert on_loopback(backend) == {VIP6}


def test_without_a_place_for_notes_nothing_is_changed(backend: netns.Host, tmp_path: Path) -> None:
    before = settings(backend)
    nowhere = tmp_path / "none" / "settings.json"
    with addresses(backend, nowhere) as made:
        refused = made.configure((), (), ALL)
        assert set(refused) == {VIP4}
        assert str(nowhere.parent) in refused[VIP4]
    assert settings(backend) == before


# ---- tunnels -----------------------------------------------------------------------------------


def missing(version: int) -> str | None:
    """Why this kernel has no such tunnels."""
    with netns.Network("pa-dsr") as network:
        host = network.add_host("a")
        with host.entered():
            opened = tunnels.Tunnels()
            try:
                opened.open(version, ())
            except OSError as error:
                return tunnels.why(version, error)
            opened.close(version)
    return None


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_in_an_outer_header_is_unpacked_and_answered(
    backend: netns.Host, sender: netns.Host, notes: Path, version: int
) -> None:
    reason = missing(version)
    if reason is not None:
        pytest.skip(reason)
    kind, local, remote = ("ipip", "10.9.0.3", NODE4) if version == 4 else (
        "ip6tnl", "fd09::3", NODE6)  # fmt: skip
    run(sender, "ip", "link", "add", "out", "type", kind, "local", local, "remote", remote)
    run(sender, "ip", "link", "set", "out", "up")
    run(sender, "ip", "route", "add", f"{VIP4}/32", "dev", "out", "src", "10.9.0.3")
    run(sender, "ip", "route", "add", f"{OTHER4}/32", "dev", "out", "src", "10.9.0.3")
    run(backend, "ip", "address", "add", f"{OTHER4}/32", "dev", "eth0")
    with addresses(backend, notes) as made:
        assert made.configure((), (), (Accepted(VIP4, version),)) == {}
        assert reaches(sender, backend, VIP4, patience_s=5)
        assert not reaches(sender, backend, OTHER4), "nothing else comes out of it"
        made.remove_all()
    assert tunnels.DEVICES[version] not in run(backend, "ip", "link")


@pytest.mark.parametrize("version", [4, 6])
def test_a_kernel_without_tunnels_says_what_is_missing(
    backend: netns.Host, notes: Path, version: int
) -> None:
    reason = missing(version)
    if reason is None:
        pytest.skip("this kernel has them")
    with addresses(backend, notes) as made:
        refused = made.configure((), (), (Accepted(VIP4, version), Accepted(VIP6)))
        assert refused == {VIP4: reason}
        assert "modprobe" in reason
        assert on_loopback(backend) == {VIP6}


def test_what_is_unpacked_for_anything_but_a_vip_is_dropped(
    backend: netns.Host, sender: netns.Host
) -> None:
    with backend.entered(), Nftables() as kernel:
        kernel.commit(tunnels.passing("piagent-test", "eth0", {ip_address(NODE4).packed}))
    assert reaches(sender, backend, NODE4, patience_s=5)
    assert not reaches(sender, backend, NODE6)
    with backend.entered(), Nftables() as kernel:
        kernel.commit(tunnels.removed("piagent-test"))
    assert reaches(sender, backend, NODE6, patience_s=5)


@pytest.mark.parametrize(("version", "kind"), [(4, "ipip"), (6, "ip6tnl")])
def test_the_device_takes_what_comes_from_anywhere(version: int, kind: str) -> None:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    body = tunnels.request(version)
    decoded = ifinfmsg((16 + len(body)).to_bytes(4, "little") + bytes(12) + body)
    decoded.decode()
    assert decoded.get_attr("IFLA_IFNAME") == tunnels.DEVICES[version]
    assert decoded.get_attr("IFLA_IFALIAS") == tunnels.OWNER
    info = decoded.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == kind
