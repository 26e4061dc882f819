"""What is said of a flow is what the forwarder then does with it, on wires: byte for byte."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Iterator

import pytest

from fastpath.explain_forwarded import Node, explain
from fastpath.forwards import Forward
from fastpath.packet.conversation import Ends, frame
from fastpath.trial import Trial
from piagent.adapters import netns
from tests.adapters.asker import mac_of
from tests.fastpath.forwarding_lab import KEY, PORT, PORTS, VIPS, Lab

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
N_FLOWS = 40
N_BACKENDS = 3
PATIENCE_S = 20
ETH_P_ALL = socket.htons(3)
NETWORKS = {4: "203.0.113.", 6: "2001:db8::"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with netns.Network("pa-explain") as network, Lab(network, N_BACKENDS) as built:
        yield built


def listening(host: netns.Host) -> socket.socket:
    with host.entered():
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ETH_P_ALL)
        heard.bind((netns.INTERFACE, 3))
    return heard


def arrived(sockets: dict[str, socket.socket], wanted: set[bytes]) -> dict[bytes, str]:
    """Who of them got which of the wanted frames; waits until all have come."""
    found: dict[bytes, str] = {}
    end = time.monotonic() + PATIENCE_S
    while len(found) < len(wanted) and (left := end - time.monotonic()) > 0:
        for ready in select.select(list(sockets.values()), [], [], left)[0]:
            got, where = ready.recvfrom(65536)
            if where[2] != socket.PACKET_OUTGOING and got in wanted:
                found[got] = next(name for name, each in sockets.items() if each is ready)
    return found


def random_flows(version: int, *, udp: bool) -> list[Ends]:
    drawn = random.Random(f"{version} {udp}")
    return [
        Ends(
            f"{NETWORKS[version]}{drawn.randint(1, 254)}", drawn.randint(1, 65535),
            VIPS[version], PORT, udp,
        )
        for _ in range(N_FLOWS)
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["nat", "dsr", "ipip"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_every_flow_goes_where_it_was_said_to_go_as_it_was_said_to_go(
    lab: Lab, how: str, version: int, udp: bool
) -> None:
    """NAT's port is the one that was said unless another flow has it, which one trial of all
    knows.
    """
    forward: Forward = lab.forward(how, version=version, udp=udp)
    lab.publish(forward)
    node = Node(KEY, lab.index, mac_of(lab.node), 1500, PORTS)
    macs = node.mac, mac_of(lab.client)
    trial = Trial([forward], hash_key=KEY, interface=lab.index, mtu=1500, ports=PORTS)
    sockets = {f"b{i}": listening(host) for i, host in enumerate(lab.backends, 1)}
    client = listening(lab.client)
    expected: dict[bytes, str] = {}
    n_alike = 0
    for ends in dict.fromkeys(random_flows(version, udp=udp)):
        said = explain(forward, [], node, ends)
        sent = frame(ends, macs)
        went = trial.take(sent).out[0].frame
        expected[went] = said["chosen"]
        n_alike += went == said["frame_out"]
        client.send(sent)
    got = arrived(sockets, set(expected))
    for each in (client, *sockets.values()):
        each.close()
    assert got == expected
    assert set(got.values()) == set(sockets)
    assert n_alike >= (N_FLOWS * 3 // 4 if how == "nat" else len(expected))
