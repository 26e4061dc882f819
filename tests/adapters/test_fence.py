"""The kernel fence on a LAN of namespaces, asked by a neighbour; nobody's word is taken for it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from piagent.adapters import arp, fence_table, netns, nftables
from piagent.adapters.fence import KernelFence, probe_support
from piagent.adapters.nftables import Nftables
from piagent.adapters.rtnetlink import Rtnetlink
from tests.adapters.asker import Asker, Tap, arp_request, mac_of, ping, solicitation
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6 = "10.9.0.9", "fd09::9"
OTHER4, OTHER6 = "10.9.0.1", "fd09::1"
LONG_MS = 60_000
both = pytest.mark.parametrize("vip", [VIP4, VIP6])


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-fence") as built:
        yield built


@pytest.fixture
def host(network: netns.Network) -> netns.Host:
    """Has both VIPs configured from the start: all that keeps it silent is the fence."""
    addresses = (f"{OTHER4}/24", f"{OTHER6}/64", f"{VIP4}/32", f"{VIP6}/128")
    return network.add_host("a", *addresses)


@pytest.fixture
def asker(network: netns.Network) -> Iterator[Asker]:
    client = network.add_host("c", "10.9.0.3/24", "fd09::3/64")
    with Asker(client, "10.9.0.3", "fd09::3") as asking:
        yield asking


def fenced(host: netns.Host, *vips: str) -> KernelFence:
    fence = KernelFence()
    with host.entered():
        fence.guard("eth0", vips or (VIP4, VIP6))
    assert fence.why_not is None
    assert fence.no_hand_off is None
    return fence


def in_set(host: netns.Host, name: str, vip: str) -> int | None:
    """How many milliseconds the address has left in a set; KeyError when it is not there."""
    with host.entered(), Nftables() as kernel:
        found = kernel.elements("piagent", f"{name}{6 if ':' in vip else 4}")
    ip = IPv6Address(vip) if ":" in vip else IPv4Address(vip)
    return found[ip.packed]


def has_table(host: netns.Host) -> bool:
    with host.entered(), Nftables() as kernel:
        return kernel.has_chain("piagent", "ingress")


def run(host: netns.Host, *argv: str) -> str:
    done = subprocess.run(host.command(argv), check=True, capture_output=True, text=True)
    return done.stdout


def announce(host: netns.Host, vip: str) -> None:
    with host.entered(), arp.frame_socket() as channel, Rtnetlink() as rtnetlink:
        arp.announce(channel, rtnetlink.link("eth0"), vip)


def announces(frame: bytes, vip: str) -> bool:
    """An ARP frame with the VIP as its sender, or a neighbour advertisement for it."""
    if ":" in vip:
        return frame[54:55] == b"\x88" and frame[62:78] == IPv6Address(vip).packed
    return frame[12:14] == b"\x08\x06" and frame[28:32] == IPv4Address(vip).packed


@both
def test_a_guarded_address_is_silent_and_the_hosts_others_are_not(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    mac = mac_of(host)
    assert asker.gets_mac(vip, 5)
    assert asker.gets_pong(vip, mac, 5)
    fenced(host)
    assert not asker.gets_mac(vip)
    assert not asker.gets_pong(vip, mac)
    for other in (OTHER4, OTHER6):
        assert asker.gets_mac(other, 5)
        assert asker.gets_pong(other, mac, 5)


@both
def test_an_open_address_answers_and_ends_by_itself(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    fence = fenced(host)
    fence.open({vip: 1500})
    end_s = time.monotonic() + 1.5
    assert asker.gets_mac(vip, 1)
    last_s = 0.0

    def silent() -> bool:
        nonlocal last_s
        asked_s = time.monotonic()
        if asker.gets_mac(vip):
            last_s = asked_s
            return False
        return True

    wait_until(silent)
    assert last_s < end_s
    assert not asker.gets_pong(vip, mac_of(host))


@both
def test_a_renewal_counts_from_now_longer_or_shorter(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    fence = fenced(host)
    mac = mac_of(host)
    fence.open({vip: 700})
    fence.open({vip: LONG_MS})
    time.sleep(1)
    assert asker.gets_mac(vip, 5)
    assert asker.gets_pong(vip, mac, 5)
    fence.open({vip: 200})
    wait_until(lambda: not asker.gets_mac(vip) and not asker.gets_pong(vip, mac))


def test_many_are_renewed_at_once_and_only_those_named(host: netns.Host) -> None:
    vips = [f"10.9.1.{i}" for i in range(60)] + [f"fd09::1:{i:x}" for i in range(60)]
    fence = fenced(host, *vips)
    left_ms = {vip: LONG_MS + 1000 * number for number, vip in enumerate(vips)}
    fence.open(dict.fromkeys(vips[1:], 1000))
    for _ in range(2):
        fence.open({vip: left_ms[vip] for vip in vips[1:]})
    for name in ("held", "served"):
        with pytest.raises(KeyError):
            in_set(host, name, vips[0])
        for vip in vips[1:]:
            left = in_set(host, name, vip)
            assert left is not None
            assert left_ms[vip] - 30_000 < left <= left_ms[vip]


def test_no_time_left_is_closed_not_open_for_ever(host: netns.Host) -> None:
    fence = fenced(host)
    fence.open({VIP4: LONG_MS, VIP6: LONG_MS})
    fence.open({VIP4: 0, VIP6: LONG_MS})
    with pytest.raises(KeyError):
        in_set(host, "held", VIP4)
    with pytest.raises(KeyError):
        in_set(host, "served", VIP4)
    assert in_set(host, "held", VIP6)


def test_what_has_nothing_left_is_closed_and_the_rest_is_open(host: netns.Host) -> None:
    fence = fenced(host)
    fence.open({VIP4: LONG_MS, VIP6: LONG_MS})
    fence.open({VIP4: LONG_MS, VIP6: 0})
    assert in_set(host, "held", VIP4)
    with pytest.raises(KeyError):
        in_set(host, "served", VIP6)


@both
def test_nothing_is_lost_while_renewals_go_on(host: netns.Host, asker: Asker, vip: str) -> None:
    fence = fenced(host)
    fence.open({vip: LONG_MS})
    mac = mac_of(host)
    assert asker.gets_pong(vip, mac, 5)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(0.0005):
            fence.open({vip: LONG_MS})

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        assert all(asker.gets_pong(vip, mac, 5) for _ in range(300))
        assert all(asker.gets_mac(vip, 5) for _ in range(300))
    finally:
        done.set()
        thread.join()


@both
def test_a_raw_announcement_passes_only_while_the_address_is_open(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    fence = fenced(host)
    fence.open({vip: LONG_MS})
    announce(host, vip)
    assert asker.heard(lambda frame: announces(frame, vip), 5)
    fence.open({vip: 100})
    wait_until(lambda: not asker.gets_mac(vip))
    with pytest.raises(OSError, match="No buffer space"):
        announce(host, vip)
    assert not asker.heard(lambda frame: announces(frame, vip))


@both
def test_nothing_leaves_in_the_name_of_a_closed_address(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    fence = fenced(host)
    mac, family = mac_of(host), socket.AF_INET6 if ":" in vip else socket.AF_INET
    with host.entered():
        udp = socket.socket(family, socket.SOCK_DGRAM)
    with Tap(host) as tap, udp:
        udp.bind((vip, 0))
        question = (
            solicitation(mac, IPv6Address(vip), IPv6Address("fd09::3"))
            if ":" in vip
            else arp_request(mac, IPv4Address(vip), IPv4Address("10.9.0.3"))
        )
        packet = ping(asker.mac, mac, IPv4Address(VIP4), IPv4Address("10.9.0.3"))
        fence.hide(vip, LONG_MS)
        tap.wire.send(question)  # leaves, but not in the VIP's name: a question announces, too
        assert not asker.heard(lambda frame: announces(frame, vip))
        fence.close(vip)
        for frame in (question, packet):
            with pytest.raises(OSError, match="No buffer space"):
                tap.wire.send(frame)
        asker.forget()
        udp.sendto(b"closed", ("fd09::3" if ":" in vip else "10.9.0.3", 9))
        assert not asker.heard(lambda frame: b"closed" in frame or announces(frame, vip))
        fence.open({vip: LONG_MS})
        udp.sendto(b"opened", ("fd09::3" if ":" in vip else "10.9.0.3", 9))
        assert asker.heard(lambda frame: b"opened" in frame, 5)


@both
def test_packet_sockets_see_what_the_fence_drops(host: netns.Host, asker: Asker, vip: str) -> None:
    fenced(host)
    with Tap(host) as watcher:
        asker.wire.send(
            solicitation(asker.mac, IPv6Address("fd09::3"), IPv6Address(vip))
            if ":" in vip
            else arp_request(asker.mac, IPv4Address(vip), IPv4Address(vip))
        )
        packed = IPv6Address(vip).packed if ":" in vip else IPv4Address(vip).packed
        assert watcher.heard(lambda frame: packed in frame[38:], 5)


@both
def test_a_question_for_a_closed_address_does_not_even_reach_the_kernel(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    mac = asker.mac
    there = "fd09::3" if ":" in vip else "10.9.0.3"

    def learnt() -> bool:
        asker.wire.send(
            solicitation(mac, IPv6Address(there), IPv6Address(vip))
            if ":" in vip
            else arp_request(mac, IPv4Address(there), IPv4Address(vip))
        )
        asker.gets_mac(vip)
        return mac.hex(":") in run(host, "ip", "neigh", "show", "to", there)

    fence = fenced(host)
    assert not learnt()
    fence.open({vip: LONG_MS})
    wait_until(learnt)  # whoever asks is learnt


@both
def test_a_guarding_host_learns_the_owner_from_its_announcement(
    network: netns.Network, host: netns.Host, vip: str
) -> None:
    watcher = network.add_host("b", "10.9.0.2/24", "fd09::2/64")
    fenced(watcher)
    fenced(host).open({vip: LONG_MS})
    run(watcher, "ip", "neigh", "add", vip, "lladdr", "02:00:00:00:00:77", "dev", "eth0")
    run(watcher, "ip", "neigh", "change", vip, "nud", "stale", "dev", "eth0")
    announce(host, vip)
    wait_until(lambda: mac_of(host).hex(":") in run(watcher, "ip", "neigh", "show", "to", vip))


@both
def test_a_guarding_host_can_probe_for_the_address(
    network: netns.Network, host: netns.Host, vip: str
) -> None:
    fenced(host).open({vip: LONG_MS})
    other = network.add_host("b", "10.9.0.2/24", "fd09::2/64")
    fenced(other)
    with Asker(other, "10.9.0.2", "fd09::2") as asking:
        assert asking.gets_mac(vip, 5)


@both
def test_hidden_is_silent_but_serves_and_then_ends(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    fence = fenced(host)
    mac = mac_of(host)
    fence.open({vip: LONG_MS})
    assert asker.gets_pong(vip, mac, 5)
    fence.hide(vip, 2000)
    assert not asker.gets_mac(vip)
    with pytest.raises(OSError, match="No buffer space"):
        announce(host, vip)
    assert asker.gets_pong(vip, mac, 1)
    wait_until(lambda: not asker.gets_pong(vip, mac))


@both
def test_closed_is_silent_at_once_and_may_be_closed_again(
    host: netns.Host, asker: Asker, vip: str
) -> None:
    fence = fenced(host)
    fence.open({vip: LONG_MS})
    fence.take_over(vip, bytes.fromhex("020000000007"), LONG_MS)
    for _ in range(2):
        fence.close(vip)
        assert not asker.gets_mac(vip)
        assert not asker.gets_pong(vip, mac_of(host))
        for name in ("held", "served", "former"):
            with pytest.raises(KeyError):
                in_set(host, name, vip)


def test_guarding_another_set_leaves_open_what_stays(host: netns.Host, asker: Asker) -> None:
    fence = fenced(host, VIP4)
    fence.open({VIP4: LONG_MS})
    assert asker.gets_mac(VIP6, 5)
    with host.entered():
        fence.guard("eth0", [VIP4, VIP6])
    assert not asker.gets_mac(VIP6)
    assert asker.gets_mac(VIP4, 5)
    fence.open({VIP4: LONG_MS, VIP6: LONG_MS})
    with host.entered():
        fence.guard("eth0", [VIP6])
    assert asker.gets_mac(VIP4, 5)  # nobody's business any more
    with pytest.raises(OSError, match="10.9.0.9 is not guarded"):
        fence.hide(VIP4, LONG_MS)  # nobody may believe that it is silent
    with pytest.raises(KeyError):
        in_set(host, "held", VIP4)
    assert asker.gets_mac(VIP6, 5)


def test_flows_stay_known_when_another_address_is_guarded(host: netns.Host) -> None:
    fence = fenced(host, VIP4)
    flow = IPv4Address("10.9.0.3").packed + b"\x12\x34\0\0" + IPv4Address(VIP4).packed
    flow += b"\0\x50\0\0"
    with host.entered(), Nftables() as kernel:
        batch = nftables.Batch("piagent")
        batch.add("flows4", [flow])
        kernel.commit(batch)
        fence.guard("eth0", [VIP4, VIP6])
        assert flow in kernel.elements("piagent", "flows4")
        assert set(kernel.elements("piagent", "asker6")) == {IPv6Address(VIP6).packed}
        fence.guard("eth0", [VIP4])
        assert kernel.elements("piagent", "asker6") == {}
        assert flow in kernel.elements("piagent", "flows4")


def test_an_interface_that_came_back_or_was_renamed_is_guarded_with_what_is_open(
    network: netns.Network,
) -> None:
    host = network.add_host("a")
    fence = KernelFence()

    def guarded_on(name: str) -> None:
        with host.entered():
            fence.guard(name, [VIP4, VIP6])
        assert fence.why_not is None
        if shutil.which("nft"):
            assert f'ingress device "{name}"' in run(host, "nft", "list", "ruleset")

    def still_open() -> None:
        for each in ("held", "served", "former"):
            assert in_set(host, each, VIP4)
        with pytest.raises(KeyError):
            in_set(host, "held", VIP6)

    add = ("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "far0")
    run(host, *add)
    guarded_on("lan0")
    fence.open({VIP4: LONG_MS})
    fence.take_over(VIP4, bytes.fromhex("020000000007"), LONG_MS)
    run(host, "ip", "link", "del", "lan0")
    run(host, *add)
    guarded_on("lan0")
    still_open()
    run(host, "ip", "link", "set", "lan0", "name", "lan1")
    guarded_on("lan1")
    still_open()


def test_a_former_lifes_table_is_replaced_with_nothing_open(host: netns.Host, asker: Asker) -> None:
    former = fenced(host)
    former.open({VIP4: LONG_MS, VIP6: LONG_MS})
    former.shut()
    assert asker.gets_mac(VIP4, 5)  # it outlives its agent
    fenced(host)
    assert not asker.gets_mac(VIP4)


def test_a_renewal_builds_anew_what_somebody_flushed(
    host: netns.Host, asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    fence = fenced(host)
    fence.open({VIP4: LONG_MS, VIP6: LONG_MS})
    with host.entered():
        KernelFence().remove()
    assert not has_table(host)
    fence.open({VIP6: LONG_MS})
    assert "somebody removed" in caplog.text
    assert asker.gets_mac(VIP4, 5)
    assert asker.gets_mac(VIP6, 5)
    fence.close(VIP4)
    assert not asker.gets_mac(VIP4)


def test_removed_is_gone_and_may_be_removed_again(host: netns.Host, asker: Asker) -> None:
    fence = fenced(host)
    for _ in range(2):
        fence.remove()
        assert not has_table(host)
        assert asker.gets_mac(VIP4, 5)
    fence.open({VIP4: LONG_MS})  # means nothing now
    assert not has_table(host)


def test_loopback_addresses_need_no_fence(host: netns.Host) -> None:
    fence = KernelFence()
    with host.entered():
        fence.guard("eth0", ["127.0.0.5", "::1"])
    assert fence.why_not is None
    fence.open({"127.0.0.5": LONG_MS})
    fence.hide("127.0.0.5", 0)
    fence.close("::1")
    assert not has_table(host)


def test_a_missing_interface_is_named(host: netns.Host) -> None:
    fence = KernelFence()
    assert fence.why_not == "no address is guarded yet"
    with host.entered():
        fence.guard("wlan7", [VIP4])
    assert str(fence.why_not).startswith("no interface wlan7")
    fence.open({VIP4: LONG_MS})
    fence.close(VIP4)
    with pytest.raises(OSError, match="no interface wlan7"):
        fence.hide(VIP4, LONG_MS)
    with pytest.raises(OSError, match="no interface wlan7"):
        fence.take_over(VIP4, bytes.fromhex("020000000007"), LONG_MS)
    with host.entered():
        fence.guard("eth0", [VIP4])
    assert fence.why_not is None


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv drops the capability")
def test_without_the_capability_it_says_which(host: netns.Host) -> None:
    code = (
        "from piagent.adapters.fence import KernelFence, probe_support\n"
        "fence = KernelFence()\n"
        "fence.guard('eth0', ['10.9.0.9'])\n"
        "print(fence.why_not)\n"
        "print(probe_support())\n"
        "fence.open({'10.9.0.9': 1000}); fence.close('10.9.0.9')\n"
        "fence.guard('eth0', ['127.0.0.9'])\n"
        "print(fence.why_not)\n"
    )
    limits = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    first, second, third = run(host, *limits, sys.executable, "-c", code).splitlines()
    assert "CAP_NET_ADMIN" in first
    assert first == second
    assert third == "None"


def test_a_kernel_without_the_egress_hook_has_no_fence(
    host: netns.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nftables, "EGRESS", 2)  # nor does this one have a third
    fence = KernelFence()
    with host.entered():
        fence.guard("eth0", [VIP4])
        assert "egress hook" in str(probe_support())
    assert "egress hook" in str(fence.why_not)
    assert not has_table(host)


def test_a_kernel_that_cannot_forward_has_a_fence_without_hand_off(
    host: netns.Host, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence_table, "forward", lambda: nftables._expression("no_such_thing", b""))
    fence = KernelFence()
    with host.entered():
        fence.guard("eth0", [VIP4, VIP6])
        assert probe_support() is None
        assert "nft_fwd_netdev" in str(probe_support(hand_off=True))
    assert fence.why_not is None
    fence.open({VIP4: LONG_MS})
    assert asker.gets_mac(VIP4, 5)
    with pytest.raises(OSError, match="nft_fwd_netdev"):
        fence.take_over(VIP4, bytes.fromhex("020000000007"), LONG_MS)
    fence.close(VIP4)
    assert not asker.gets_mac(VIP4)


@pytest.mark.parametrize("mac", ["", "0200", "ffffffffffff", "01005e000001", "000000000000"])
def test_a_former_owner_has_an_address_of_its_own(host: netns.Host, mac: str) -> None:
    fence = fenced(host)
    with pytest.raises(OSError, match="no other host's address"):
        fence.take_over(VIP4, bytes.fromhex(mac), LONG_MS)
    with pytest.raises(OSError, match="no other host's address"):
        fence.take_over(VIP4, mac_of(host), LONG_MS)
    with pytest.raises(OSError, match="10.9.0.99 is not guarded"):
        fence.take_over("10.9.0.99", bytes.fromhex("020000000007"), LONG_MS)


def test_probing_for_support_leaves_nothing(host: netns.Host) -> None:
    with host.entered(), Nftables() as kernel:
        assert probe_support(hand_off=True) is None
        assert not kernel.has_chain("piagent-trial", "ingress")
    if shutil.which("nft"):
        assert run(host, "nft", "list", "ruleset") == ""
