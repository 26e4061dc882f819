"""exabgp under `ExabgpSpeaker` against a real router, BIRD, and its kernel's routing table."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from piagent.adapters import netns
from piagent.core.bgp import BgpRoute
from piagent.core.model import Bgp, BgpPeer
from piagent.ports import BgpSession
from tests import bird
from tests.bird import Bird
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = (
    netns.why_not()
    or bird.WHY_NOT
    or (None if importlib.util.find_spec("exabgp") else "exabgp is not installed (pip)")
)
with_a_router = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

NODES = (1, 2)
ASN, ROUTER_ASN = 64512, 64500
VIP, OTHER_VIP, VIP6 = "10.99.0.1", "10.99.0.2", "fd99::1"
HOLD_S = 3
PASSWORD = 'pass "word"; } \\ #1'


class Node:
    """A host with a speaker in a process of its own."""

    def __init__(self, host: netns.Host, number: int, folder: Path) -> None:
        self.address, self.address6 = f"10.78.0.1{number}", f"fd78::1{number}"
        self._out = folder / f"node{number}.out"
        self._errors = folder / f"node{number}.log"
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                host.command([sys.executable, str(Path(__file__).with_name("bgp_node.py"))]),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
            )

    def configure(self, bgp: Bgp | None) -> None:
        self._order("configure", msgspec.to_builtins(bgp))

    def announce(self, *routes: BgpRoute) -> None:
        self._order("announce", msgspec.to_builtins(routes))

    def sessions(self) -> list[BgpSession]:
        """Every change of a session's state so far."""
        lines = self._out.read_bytes().splitlines()
        return [msgspec.json.decode(line, type=BgpSession) for line in lines]

    def children(self) -> list[int]:
        """The exabgp that it runs, if any."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    @property
    def log(self) -> str:
        return self._errors.read_text()

    def end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code

    def _order(self, what: str, value: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps({what: value})}\n".encode())
        self.process.stdin.flush()


class Net:
    """Two nodes and a router."""

    def __init__(self, network: netns.Network, folder: Path) -> None:
        self._hosts = {
            number: network.add_host(
                f"node{number}", f"10.78.0.1{number}/24", f"fd78::1{number}/64"
            )
            for number in NODES
        }
        self.router = network.add_host("router", "10.78.0.1/24", "fd78::1/64")
        self._folder = folder
        self.nodes: dict[int, Node] = {}

    def start(self, number: int) -> Node:
        self.nodes[number] = Node(self._hosts[number], number, self._folder)
        return self.nodes[number]

    def bird(self, *, more: str = "", ipv6: bool = False, peer_asn: int = ASN) -> Bird:
        """A router that waits for every node; `ipv6`: over IPv6."""
        router = Bird(self.router, "10.78.0.1", ROUTER_ASN)
        network = "fd78::" if ipv6 else "10.78.0."
        for number in NODES:
            router.add_session(
                f"node{number}",
                local=f"{network}1",
                address=f"{network}1{number}",
                peer_asn=peer_asn,
                more=more,
            )
        return router


@pytest.fixture
def net() -> Iterator[Net]:
    with (
        tempfile.TemporaryDirectory(prefix="piagent-bgp-test-") as folder,
        netns.Network("piagent-bgp") as network,
    ):
        built = Net(network, Path(folder))
        try:
            yield built
        finally:
            for node in built.nodes.values():
                node.end(signal.SIGKILL)
                print(node.log)  # pytest shows it when the test failed


def peer(**changes: Any) -> BgpPeer:
    base = BgpPeer(name="router", address="10.78.0.1", asn=ROUTER_ASN, hold_s=HOLD_S)
    return replace(base, **changes)


def speaking(number: int, *peers: BgpPeer, **changes: Any) -> Bgp:
    base = Bgp(asn=ASN, router_id=f"10.78.0.1{number}", peers=peers or (peer(),))
    return replace(base, **changes)


def route(vip: str = VIP, **changes: Any) -> BgpRoute:
    return replace(BgpRoute(peer="router", vip=vip), **changes)


def hops(router: Bird, vip: str, *wanted: str) -> None:
    """Wait for the VIP's next hops in the router's kernel."""
    wait_until(
        lambda: router.next_hops(vip) == set(wanted),
        lambda: f"{vip} by {wanted}: {router.next_hops(vip)}\n{router.log[-2000:]}",
        every_s=0.05,
    )


@with_a_router
def test_every_node_that_announces_a_vip_gets_its_share_until_it_withdraws_or_dies(
    net: Net,
) -> None:
    with net.bird() as router:
        nodes = [net.start(number) for number in NODES]
        for number, node in enumerate(nodes, 1):
            node.configure(speaking(number, next_hops=(f"fd78::1{number}",)))
            node.announce(
                route(),
                route(OTHER_VIP),
                route(VIP6, next_hop=f"fd78::1{number}"),
            )
        hops(router, VIP, "10.78.0.11", "10.78.0.12")
        hops(router, OTHER_VIP, "10.78.0.11", "10.78.0.12")
        hops(router, VIP6, "fd78::11", "fd78::12")
        assert nodes[0].sessions()[0] == BgpSession("router", up=False, reason="connecting")
        assert nodes[0].sessions()[-1] == BgpSession("router", up=True, reason="established")

        nodes[0].announce(route(OTHER_VIP))  # its last backend of VIP is down
        hops(router, VIP, "10.78.0.12")
        hops(router, VIP6, "fd78::12")
        hops(router, OTHER_VIP, "10.78.0.11", "10.78.0.12")

        exabgp = nodes[1].children()
        assert len(exabgp) == 1
        nodes[1].end(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{exabgp[0]}").exists(), "exabgp dies with its agent")
        hops(router, VIP)
        hops(router, OTHER_VIP, "10.78.0.11")


@with_a_router
def test_a_host_that_falls_silent_is_forgotten_within_the_hold_time(net: Net) -> None:
    with net.bird() as router:
        node = net.start(1)
        node.configure(speaking(1))
        node.announce(route())
        hops(router, VIP, "10.78.0.11")
        net._hosts[1].pull_cable()
        hops(router, VIP)
        assert "Hold timer expired" in router.log


@with_a_router
def test_a_planned_end_tells_the_router(net: Net) -> None:
    with net.bird() as router:
        node = net.start(1)
        node.configure(speaking(1))
        node.announce(route())
        hops(router, VIP, "10.78.0.11")
        assert node.end(signal.SIGTERM) == 0
        hops(router, VIP)
        wait_until(
            lambda: "Received: Administrative shutdown" in router.log,
            lambda: f"a NOTIFICATION came: {router.log}",
        )
