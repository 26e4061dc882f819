"""Who reaches service addresses on `lo`: asked from the node and by a neighbour on its LAN."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from piagent.adapters import netns
from tests.adapters.asker import Asker, mac_of
from tests.adapters.two_hosts import (
    INSIDE4,
    INSIDE6,
    NEIGHBOUR4,
    NEIGHBOUR6,
    NODE4,
    NODE6,
    PORT,
    ROUTED4,
    ROUTED6,
    configure,
    family,
    here,
    listening,
    reaches,
    run,
    two_hosts,
)

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

LONG_S = 5.0
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
inside = pytest.mark.parametrize("address", [INSIDE4, INSIDE6])
routed = pytest.mark.parametrize("address", [ROUTED4, ROUTED6])
kinds = pytest.mark.parametrize("kind", KINDS, ids=["tcp", "udp"])
needs_nft = pytest.mark.skipif(shutil.which("nft") is None, reason="nft writes foreign rules")


@pytest.fixture
def hosts() -> Iterator[tuple[netns.Host, netns.Host]]:
    with two_hosts("pa-inside") as pair:
        yield pair


@pytest.fixture
def node(hosts: tuple[netns.Host, netns.Host]) -> netns.Host:
    return hosts[0]


@pytest.fixture
def neighbour(hosts: tuple[netns.Host, netns.Host]) -> netns.Host:
    return hosts[1]


@pytest.fixture
def asker(neighbour: netns.Host) -> Iterator[Asker]:
    with Asker(neighbour, NEIGHBOUR4, NEIGHBOUR6) as asking:
        yield asking


def source_of(address: str) -> str:
    return NODE6 if ":" in address else NODE4


@inside
def test_without_a_fence_linux_gives_lo_away(
    node: netns.Host, neighbour: netns.Host, asker: Asker, address: str
) -> None:
    run(node, "ip", "address", "add", address, "dev", "lo")
    # IPv6 answers NDP only on the interface that has the address.
    assert asker.gets_mac(address, LONG_S if ":" not in address else 0.25) == (":" not in address)
    assert asker.gets_pong(address, mac_of(node), LONG_S)
    for kind in KINDS:
        assert reaches(neighbour, node, address, kind, patience_s=LONG_S)


@inside
def test_an_inside_address_is_nobodys_on_the_lan(
    node: netns.Host, neighbour: netns.Host, asker: Asker, address: str
) -> None:
    assert configure(node, (address,)) == {}
    assert not asker.gets_mac(address)
    assert not asker.gets_pong(address, mac_of(node))
    for kind in KINDS:
        assert not reaches(neighbour, node, address, kind)
    own = source_of(address)
    assert asker.gets_mac(own, LONG_S)
    assert asker.gets_pong(own, mac_of(node), LONG_S)


@inside
@kinds
def test_an_inside_address_serves_its_own_host(
    node: netns.Host, address: str, kind: socket.SocketKind
) -> None:
    configure(node, (INSIDE4, INSIDE6))
    assert reaches(node, node, address, kind, patience_s=LONG_S)
    assert reaches(node, node, address, kind, source=source_of(address), patience_s=LONG_S)


@routed
def test_a_routed_address_is_reached_over_its_router_and_by_no_arp(
    node: netns.Host, neighbour: netns.Host, asker: Asker, address: str
) -> None:
    assert configure(node, (), (address,)) == {}
    assert not asker.gets_mac(address)
    assert asker.gets_pong(address, mac_of(node), LONG_S)
    for kind in KINDS:
        assert reaches(neighbour, node, address, kind, patience_s=LONG_S)
        assert reaches(node, node, address, kind, patience_s=LONG_S)


@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "as Linux does it"])
def test_who_is_asked_for_its_hardware_address_does_not_learn_ours(
    node: netns.Host, neighbour: netns.Host, asker: Asker, *, fenced: bool
) -> None:
    if fenced:
        configure(node, (), (ROUTED4,))
    else:
        run(node, "ip", "address", "add", ROUTED4, "dev", "lo")
    # The node knows nobody, and what it wants to send comes from the routed address.
    run(node, "ip", "neighbour", "flush", "dev", "eth0")
    senders: list[IPv4Address] = []

    def notes_questions(frame: bytes) -> bool:
        if frame[12:14] == b"\x08\x06" and frame[38:42] == IPv4Address(NEIGHBOUR4).packed:
            senders.append(IPv4Address(frame[28:32]))
        return bool(senders)

    with node.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind((ROUTED4, 0))
        sending.sendto(b"x", (NEIGHBOUR4, PORT))
    assert asker.heard(notes_questions, LONG_S)
    assert senders == [IPv4Address("0.0.0.0") if fenced else IPv4Address(ROUTED4)]


@inside
def test_nothing_leaves_in_the_name_of_an_inside_address(
    node: netns.Host, neighbour: netns.Host, address: str
) -> None:
    configure(node, (address,), (ROUTED4, ROUTED6))
    there = NEIGHBOUR6 if ":" in address else NEIGHBOUR4
    with listening(neighbour, there, socket.SOCK_DGRAM) as hearing, node.entered():
        with socket.socket(family(address), socket.SOCK_DGRAM) as sending:
            sending.bind((address, 0))
            with pytest.raises(PermissionError):
                sending.sendto(b"from inside", (there, PORT))
        with socket.socket(family(address), socket.SOCK_DGRAM) as sending:
            sending.bind((ROUTED6 if ":" in address else ROUTED4, 0))
            sending.sendto(b"from outside", (there, PORT))
        assert hearing.recv(32) == b"from outside"


def test_nothing_comes_in_the_name_of_an_inside_address(
    node: netns.Host, neighbour: netns.Host
) -> None:
    """IPv4 sees by itself that it is forged; for IPv6 only the fence does."""
    run(neighbour, "ip", "address", "add", INSIDE6, "dev", "eth0", "nodad")
    with listening(node, NODE6, socket.SOCK_DGRAM) as hearing, neighbour.entered():

        def send(source: str, data: bytes) -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sending:
                sending.bind((source, 0))
                sending.sendto(data, (NODE6, PORT))

        send(INSIDE6, b"forged, and believed")
        assert hearing.recv(32) == b"forged, and believed"
        configure(node, (INSIDE6,))
        with neighbour.entered():
            send(INSIDE6, b"forged")
            send(NEIGHBOUR6, b"true")
        assert hearing.recv(32) == b"true"


@needs_nft
def test_what_is_masqueraded_may_leave(node: netns.Host, neighbour: netns.Host) -> None:
    """As a translating balancer does it: a local client's packet goes to a backend elsewhere."""
    configure(node, (INSIDE4,))
    run(node, "nft", "add table inet other")
    run(node, "nft", "add chain inet other out { type nat hook output priority -100; }")
    run(node, "nft", "add chain inet other post { type nat hook postrouting priority 100; }")
    to = f"{NEIGHBOUR4}:{PORT}"
    run(node, "nft", f"add rule inet other out ip daddr {INSIDE4} tcp dport 80 dnat ip to {to}")
    run(node, "nft", f"add rule inet other post ip saddr {INSIDE4} oifname eth0 masquerade")
    with (
        listening(neighbour, NEIGHBOUR4, socket.SOCK_STREAM) as backend,
        node.entered(),
        socket.create_connection((INSIDE4, 80), timeout=LONG_S),
    ):
        accepted, (whence, _) = backend.accept()
        accepted.close()
    assert whence == NODE4


@inside
def test_a_near_interface_counts_as_this_host(
    node: netns.Host, neighbour: netns.Host, asker: Asker, address: str
) -> None:
    """What the neighbour is here, a container behind a bridge would be."""
    with here(node, "eth0") as addresses:
        assert addresses.configure((address,), ()) == {}
    for kind in KINDS:
        assert reaches(neighbour, node, address, kind, patience_s=LONG_S)
    assert not asker.gets_mac(address)


@needs_nft
def test_dropped_packets_are_counted(node: netns.Host, neighbour: netns.Host) -> None:
    configure(node, (INSIDE4,))
    assert not reaches(neighbour, node, INSIDE4)
    listing = run(node, "nft", "list chain inet piagent-local prerouting").splitlines()
    (rule,) = [line for line in listing if "ip daddr @inside4" in line]
    assert 'iifname != "lo" counter packets' in rule
    assert "counter packets 0 " not in rule
