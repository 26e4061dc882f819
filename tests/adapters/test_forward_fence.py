"""What is forwarded is hidden from the IP stack, and nothing else: asked by a real neighbour."""

from __future__ import annotations

import contextlib
import errno
import select
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from piagent.adapters import netns
from piagent.adapters.forward_fence import ForwardFence, probe_support
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.nftables import Nftables
from tests.adapters.asker import Asker, Tap, ipv4_frame, mac_of
from tests.adapters.two_hosts import run
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6, OWN4, OWN6 = "10.9.0.9", "fd09::9", "10.9.0.1", "fd09::1"
CLIENT4, CLIENT6 = "10.9.0.3", "fd09::3"
FORWARDED = [
    Forwarded(VIP4, TCP, 80, 80, by_flow=True),
    Forwarded(VIP4, UDP, 53, 53),
    Forwarded(VIP6, TCP, 80, 80, by_flow=True),
    Forwarded(VIP6, UDP, 53, 53),
    Forwarded(OWN4, TCP, 20_000, 30_000, by_flow=True),
    Forwarded(OWN4, UDP, 20_000, 30_000),
    Forwarded(OWN6, TCP, 20_000, 30_000, by_flow=True),
    Forwarded(OWN6, UDP, 20_000, 30_000),
]
SILENCE_S = 0.25
"""On one machine an answer takes microseconds, on a busy one milliseconds."""
ANSWER_S = 5.0
vips = pytest.mark.parametrize("vip", [VIP4, VIP6])
forwarded_places = pytest.mark.parametrize(
    ("address", "tcp", "udp"),
    [(VIP4, 80, 53), (VIP6, 80, 53), (OWN4, 20_000, 30_000), (OWN6, 25_000, 25_001)],
)
other_places = pytest.mark.parametrize(
    ("address", "tcp", "udp"),
    [(VIP4, 53, 80), (VIP6, 443, 80), (OWN4, 80, 53), (OWN4, 19_999, 30_001), (OWN6, 80, 53)],
)


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-hide") as built:
        yield built


@pytest.fixture
def node(network: netns.Network) -> netns.Host:
    return network.add_host("a", f"{OWN4}/24", f"{OWN6}/64", f"{VIP4}/32", f"{VIP6}/128")


@pytest.fixture
def client(network: netns.Network) -> netns.Host:
    return network.add_host("c", f"{CLIENT4}/24", f"{CLIENT6}/64")


def hidden(node: netns.Host, *forwarded: Forwarded) -> ForwardFence:
    fence = ForwardFence()
    with node.entered():
        fence.take("eth0", forwarded or FORWARDED)
    return fence


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def answer(
    client: netns.Host, address: str, port: int, kind: socket.SocketKind, patience_s: float
) -> str:
    """What a client gets that sends to where nobody listens: `refused`, or `silence`."""
    with client.entered():
        asking = socket.socket(family(address), kind)
    with asking:
        asking.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            asking.connect((address, port))
            asking.send(b"?")
        if not select.select([asking], [], [], patience_s)[0]:
            return "silence"
        error = asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return "refused" if error == errno.ECONNREFUSED else errno.errorcode[error]


@forwarded_places
def test_the_kernel_answers_nothing_on_what_is_forwarded(
    node: netns.Host, client: netns.Host, address: str, tcp: int, udp: int
) -> None:
    kinds = ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp))
    for kind, port in kinds:
        assert answer(client, address, port, kind, ANSWER_S) == "refused"
    hidden(node)
    for kind, port in kinds:
        assert answer(client, address, port, kind, SILENCE_S) == "silence"


@other_places
def test_other_ports_are_the_kernels_business_as_ever(
    node: netns.Host, client: netns.Host, address: str, tcp: int, udp: int
) -> None:
    hidden(node)
    assert answer(client, address, tcp, socket.SOCK_STREAM, ANSWER_S) == "refused"
    assert answer(client, address, udp, socket.SOCK_DGRAM, ANSWER_S) == "refused"


@vips
def test_arp_neighbour_discovery_and_echo_are_answered(
    node: netns.Host, client: netns.Host, vip: str
) -> None:
    hidden(node)
    with Asker(client, CLIENT4, CLIENT6) as asker:
        assert asker.gets_mac(vip, ANSWER_S)
        assert asker.gets_pong(vip, mac_of(node), ANSWER_S)


@vips
def test_packet_sockets_hear_what_the_stack_does_not_get(
    node: netns.Host, client: netns.Host, vip: str
) -> None:
    hidden(node)
    with Tap(node) as tap, client.entered():
        with socket.socket(family(vip), socket.SOCK_DGRAM) as asking:
            asking.sendto(b"is anybody there?", (vip, 53))
        assert tap.heard(lambda frame: frame.endswith(b"is anybody there?"), ANSWER_S)


def fragments_seen(host: netns.Host, address: str) -> int:
    """How many fragments the host's IP stack has been given."""
    with host.entered():
        if ":" in address:
            text = Path("/proc/thread-self/net/snmp6").read_text()
            return int(next(w for w in text.splitlines() if "Ip6ReasmReqds" in w).split()[1])
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(values[names.index("ReasmReqds")])


@vips
def test_fragments_to_a_forwarded_vip_do_not_get_to_the_stack(
    node: netns.Host, client: netns.Host, vip: str
) -> None:
    hidden(node)
    with client.entered():
        asking = socket.socket(family(vip), socket.SOCK_DGRAM)
    with asking, Tap(node) as tap:
        asking.sendto(bytes(3992) + b"last part", (vip, 53))
        assert tap.heard(lambda frame: frame.endswith(b"last part"), ANSWER_S)
        before = fragments_seen(node, vip)
        # What comes later has been dealt with later.
        own = OWN6 if ":" in vip else OWN4
        assert answer(client, own, 53, socket.SOCK_DGRAM, ANSWER_S) == "refused"
    assert before == fragments_seen(node, vip) == 0


@pytest.mark.parametrize("own", [OWN4, OWN6])
def test_an_own_address_with_forwarded_ports_gets_its_own_fragments(
    node: netns.Host, client: netns.Host, own: str
) -> None:
    hidden(node)
    with node.entered():
        serving = socket.socket(family(own), socket.SOCK_DGRAM)
        serving.bind((own, 2049))
    with client.entered():
        asking = socket.socket(family(own), socket.SOCK_DGRAM)
    with serving, asking:
        serving.settimeout(0.5)

        def heard() -> bytes | None:
            """A network that has just been built may lose one."""
            asking.sendto(bytes(range(250)) * 16, (own, 2049))
            with contextlib.suppress(TimeoutError):
                return serving.recv(8192)
            return None

        wait_until(lambda: heard() == bytes(range(250)) * 16, "the datagram is there, whole")
        for _ in range(40):  # each socket has a flow label of its own, which is no port
            with client.entered():
                asking = socket.socket(family(own), socket.SOCK_DGRAM)
            with asking:
                assert heard() == bytes(range(250)) * 16


def test_another_set_takes_the_place_of_the_former_one(
    node: netns.Host, client: netns.Host
) -> None:
    fence = hidden(node, Forwarded(VIP4, TCP, 80, 80))
    assert answer(client, VIP4, 80, socket.SOCK_STREAM, SILENCE_S) == "silence"
    with node.entered():
        fence.take("eth0", [Forwarded(VIP4, TCP, 81, 81)])
    assert answer(client, VIP4, 80, socket.SOCK_STREAM, ANSWER_S) == "refused"
    assert answer(client, VIP4, 81, socket.SOCK_STREAM, SILENCE_S) == "silence"
    with node.entered():
        fence.take("eth0", [])
    assert answer(client, VIP4, 81, socket.SOCK_STREAM, ANSWER_S) == "refused"


def test_the_table_outlives_its_agent_and_the_next_one_replaces_it(
    node: netns.Host, client: netns.Host
) -> None:
    hidden(node, Forwarded(VIP4, TCP, 80, 80)).close()
    assert answer(client, VIP4, 80, socket.SOCK_STREAM, SILENCE_S) == "silence"
    fence = hidden(node, Forwarded(VIP4, TCP, 81, 81))
    assert answer(client, VIP4, 80, socket.SOCK_STREAM, ANSWER_S) == "refused"
    for _ in range(2):
        with node.entered():
            fence.remove()
            assert not fence.stands()
    assert answer(client, VIP4, 81, socket.SOCK_STREAM, ANSWER_S) == "refused"


def test_it_notices_that_its_table_or_interface_is_gone(
    network: netns.Network, node: netns.Host
) -> None:
    fence = hidden(node)
    with node.entered():
        assert fence.stands()
        ForwardFence().remove()
        assert not fence.stands()
    other = network.add_host("b")
    add = ("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "far0")
    run(other, *add)
    second = ForwardFence()
    with other.entered():
        second.take("lan0", FORWARDED)
        assert second.stands()
        run(other, "ip", "link", "del", "lan0")
        assert not second.stands()
        run(other, *add)
        assert not second.stands()
        second.take("lan0", FORWARDED)
        assert second.stands()


def test_frames_for_another_host_are_not_taken(node: netns.Host, client: netns.Host) -> None:
    """A flooded or overheard frame is the other host's, though it is for a VIP that was ours."""
    run(node, "ip", "link", "set", "eth0", "promisc", "on")
    fence = hidden(node)
    other = bytes.fromhex("020000000077")
    ends = (IPv4Address(CLIENT4), IPv4Address(VIP4))
    udp = struct.pack("!HHHH", 1024, 53, 8, 0)
    with Asker(client, CLIENT4, CLIENT6) as asker, Tap(node) as tap:
        asker.wire.send(ipv4_frame(other, asker.mac, ends, UDP, udp))
        assert tap.heard(lambda frame: frame[:6] == other, ANSWER_S)
        if shutil.which("nft"):
            text = run(node, "nft", "list", "chain", "netdev", "piagent-forward", "ingress")
            assert "packets 0" in text
            assert "packets 1" not in text
    fence.close()


def test_a_missing_interface_is_named(node: netns.Host) -> None:
    with node.entered(), pytest.raises(OSError, match="wlan7"):
        ForwardFence().take("wlan7", FORWARDED)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv drops the capability")
def test_without_the_capability_it_says_which(node: netns.Host) -> None:
    code = "from piagent.adapters.forward_fence import probe_support; print(probe_support())"
    limits = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert "CAP_NET_ADMIN" in run(node, *limits, sys.executable, "-c", code)


def test_probing_for_support_leaves_nothing(node: netns.Host) -> None:
    with node.entered(), Nftables() as kernel:
        assert probe_support() is None
        assert not kernel.has_chain("piagent-forward-trial", "ingress")
