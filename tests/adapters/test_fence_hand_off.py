"""The flow hand-off: connections through the former owner live on while the VIP is elsewhere."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from piagent.adapters import arp, fence_table, netns
from piagent.adapters.fence import KernelFence
from piagent.adapters.nftables import Nftables
from piagent.adapters.rtnetlink import Rtnetlink
from tests.adapters.asker import Tap, ipv4_frame, mac_of
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP4, VIP6 = "10.9.0.9", "fd09::9"
PORT = 8080
LONG_MS = 60_000
both = pytest.mark.parametrize("vip", [VIP4, VIP6])


class Node:
    """A host with the VIPs, a fence, and a server that puts its name before what it gets."""

    def __init__(self, host: netns.Host, name: str) -> None:
        self.host, self.name, self.mac = host, name, mac_of(host)
        self.fence = KernelFence()
        with host.entered():
            self.fence.guard("eth0", [VIP4, VIP6])
            self._servers = [
                socket.create_server((VIP4, PORT)),
                socket.create_server((VIP6, PORT), family=socket.AF_INET6),
            ]
        assert self.fence.no_hand_off is None
        self._accepted: list[socket.socket] = []
        for server in self._servers:
            threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def close(self) -> None:
        self.fence.shut()
        for server in self._servers:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        for there in self._accepted:  # to some no end ever comes
            with contextlib.suppress(OSError):
                there.shutdown(socket.SHUT_RDWR)

    def own(self, vip: str, former: Node | None = None, left_ms: int = LONG_MS) -> None:
        if former is not None:
            former.fence.hide(vip, LONG_MS)
            self.fence.take_over(vip, former.mac, left_ms)
        self.fence.open({vip: LONG_MS})
        self.announce(vip)

    def announce(self, vip: str) -> None:
        with self.host.entered(), arp.frame_socket() as channel, Rtnetlink() as rtnetlink:
            arp.announce(channel, rtnetlink.link("eth0"), vip)

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                there, _ = server.accept()
                self._accepted.append(there)
                threading.Thread(target=self._echo, args=(there,), daemon=True).start()

    def _echo(self, there: socket.socket) -> None:
        with there, contextlib.suppress(OSError):
            while data := there.recv(65536):
                there.sendall(self.name.encode() + data)


class Client:
    """Speaks to whoever its kernel believes has the VIP."""

    def __init__(self, host: netns.Host) -> None:
        self.host = host
        self._open: list[socket.socket] = []

    def connected(self, vip: str) -> socket.socket:
        with self.host.entered():
            there = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET)
        self._open.append(there)
        there.settimeout(10)
        there.connect((vip, PORT))
        return there

    def close(self) -> None:
        for there in self._open:
            there.close()

    def goes_to(self, node: Node, vip: str) -> None:
        """Wait until its packets to the VIP go to that node."""

        def learnt() -> bool:
            node.announce(vip)
            return self.believes(vip, node)

        wait_until(learnt, every_s=0.1)

    def believes(self, vip: str, node: Node) -> bool:
        """Whether its kernel takes the node for the VIP's owner."""
        show = self.host.command(["ip", "neigh", "show", "to", vip])
        known = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        return node.mac.hex(":") in known


def who(there: socket.socket) -> str:
    there.sendall(b"?")
    return there.recv(100).decode()


def handed_over(a: Node, b: Node, client: Client, vip: str) -> socket.socket:
    """The VIP goes from a to b, the client knows, and has a connection from before."""
    a.own(vip)
    old = client.connected(vip)
    assert who(old) == "a?"
    b.own(vip, a)
    client.goes_to(b, vip)
    return old


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-flows") as built:
        yield built


@pytest.fixture
def nodes(network: netns.Network) -> Iterator[dict[str, Node]]:
    vips = (f"{VIP4}/32", f"{VIP6}/128")
    found = {
        name: Node(network.add_host(name, f"10.9.0.{n}/24", f"fd09::{n}/64", *vips), name)
        for n, name in enumerate("ab", start=1)
    }
    yield found
    for node in found.values():
        node.close()


@pytest.fixture
def client(network: netns.Network, nodes: dict[str, Node]) -> Iterator[Client]:
    found = Client(network.add_host("c", "10.9.0.3/24", "fd09::3/64"))
    yield found
    found.close()


@both
def test_old_connections_stay_with_the_former_owner_until_the_time_is_over(
    nodes: dict[str, Node], client: Client, vip: str
) -> None:
    a, b = nodes["a"], nodes["b"]
    old = handed_over(a, b, client, vip)
    new = client.connected(vip)
    for _ in range(3):
        assert who(old) == "a?"
        assert who(new) == "b?"
    with Tap(a.host) as tap:
        old.sendall(b"where from")
        assert tap.heard(lambda f: b"where from" in f and f[:12] == a.mac + b.mac, 5)
    old.recv(100)
    b.fence.take_over(vip, a.mac, 200)
    wait_until(lambda: not knows_former(b, vip))
    with pytest.raises(ConnectionResetError):
        who(old)
    assert who(new) == "b?"
    assert who(client.connected(vip)) == "b?"


@both
def test_the_former_owner_finds_a_client_whose_hardware_address_it_has_forgotten(
    nodes: dict[str, Node], client: Client, vip: str
) -> None:
    """It must ask for it, and nobody may believe from the question that the VIP is still there."""
    a, b = nodes["a"], nodes["b"]
    old = handed_over(a, b, client, vip)
    subprocess.run(a.host.command(["ip", "neigh", "flush", "dev", "eth0"]), check=True)
    for _ in range(3):
        assert who(old) == "a?"
        assert client.believes(vip, b)


def knows_former(node: Node, vip: str) -> bool:
    with node.host.entered(), Nftables() as kernel:
        return bool(kernel.elements("piagent", f"former{6 if ':' in vip else 4}"))


@both
def test_without_hand_off_they_would_have_broken(
    nodes: dict[str, Node], client: Client, vip: str
) -> None:
    a, b = nodes["a"], nodes["b"]
    a.own(vip)
    old = client.connected(vip)
    assert who(old) == "a?"
    a.fence.hide(vip, LONG_MS)
    b.own(vip)
    client.goes_to(b, vip)
    with pytest.raises(ConnectionResetError):
        who(old)


@both
def test_a_hidden_owner_goes_on_serving_while_nobody_has_taken_over(
    nodes: dict[str, Node], client: Client, vip: str
) -> None:
    a = nodes["a"]
    a.own(vip)
    old = client.connected(vip)
    a.fence.hide(vip, LONG_MS)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert who(old) == "a?"
    assert who(client.connected(vip)) == "a?"


@both
def test_many_bytes_pass_whole(nodes: dict[str, Node], client: Client, vip: str) -> None:
    a, b = nodes["a"], nodes["b"]
    a.own(vip)
    old = client.connected(vip)
    b.own(vip, a)
    client.goes_to(b, vip)
    sent = bytes(range(98, 106)) * 50_000
    sender = threading.Thread(target=old.sendall, args=(sent,))
    sender.start()
    got = b""
    while len(got.replace(b"a", b"")) < len(sent):
        got += old.recv(65536)
    sender.join()
    assert got.replace(b"a", b"") == sent


@both
def test_a_vip_that_moves_there_and_back_loses_neither_kind_of_connection(
    nodes: dict[str, Node], client: Client, vip: str
) -> None:
    a, b = nodes["a"], nodes["b"]
    a.own(vip)
    first = client.connected(vip)
    b.own(vip, a)
    client.goes_to(b, vip)
    assert who(first) == "a?"
    second = client.connected(vip)
    assert who(second) == "b?"
    a.own(vip, b)
    client.goes_to(a, vip)
    assert who(first) == "a?"
    assert who(second) == "b?"
    assert who(client.connected(vip)) == "a?"


def stray(client: Tap, to: bytes, flags: int, port: int = 55_555) -> bytes:
    """A TCP segment that belongs to no connection; nobody looks at its checksum on the way."""
    tcp = struct.pack("!HHIIBBHHH", port, PORT, 77, 88, 0x50, flags, 1000, 0, 0)
    return ipv4_frame(to, client.mac, (IPv4Address("10.9.0.3"), IPv4Address(VIP4)), 6, tcp)


def test_a_packet_never_runs_in_a_circle(nodes: dict[str, Node], client: Client) -> None:
    a, b = nodes["a"], nodes["b"]
    a.own(VIP4, b)
    b.own(VIP4, a)  # now each has the other as the former owner
    with Tap(client.host) as there, Tap(a.host) as tap, Tap(b.host) as other:
        for to in (a.mac, b.mac):
            there.wire.send(stray(there, to, flags=0x10))
            end = time.monotonic() + 0.5
            seen = 0
            while (left := end - time.monotonic()) > 0:
                for each in (tap, other):
                    seen += each.heard(
                        lambda f: f[23:24] == b"\x06" and f[34:36] == b"\xd9\x03", left / 2
                    )
            assert 1 <= seen <= 2


def test_a_flood_of_new_connections_ends_the_hand_off_and_nothing_else(
    network: netns.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence_table, "_FLOWS_SIZE", 8)
    vips = (f"{VIP4}/32", f"{VIP6}/128")
    a, b = (
        Node(network.add_host(name, f"10.9.0.{n}/24", f"fd09::{n}/64", *vips), name)
        for n, name in enumerate("ab", start=1)
    )
    client = Client(network.add_host("c", "10.9.0.3/24", "fd09::3/64"))
    a.own(VIP4)
    old = client.connected(VIP4)
    b.own(VIP4, a)
    client.goes_to(b, VIP4)
    before = client.connected(VIP4)
    assert who(old) == "a?"
    assert who(before) == "b?"
    with Tap(client.host) as there:
        for port in range(40_000, 40_020):
            there.wire.send(stray(there, b.mac, flags=0x02, port=port))
    after = [client.connected(VIP4) for _ in range(10)]
    for each in (before, *after):
        assert who(each) == "b?"
    with pytest.raises(ConnectionResetError):
        who(old)
    b.fence.take_over(VIP4, a.mac, LONG_MS)  # begins anew, not crowded
    with b.host.entered(), Nftables() as kernel:
        assert kernel.elements("piagent", "crowded4") == {}
    for each in (a, b):
        each.close()
    client.close()
