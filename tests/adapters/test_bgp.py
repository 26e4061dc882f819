"""exabgp under `ExabgpSpeaker` against a real router, BIRD, and its kernel's routing table."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from piagent.adapters import bgp as bgp_adapter
from piagent.adapters import exabgp as exabgp_adapter
from piagent.adapters import netns
from piagent.adapters.bgp import ExabgpSpeaker
from piagent.core.bgp import BgpRoute
from piagent.core.model import Bgp, BgpPeer
from piagent.ports import BgpSession
from tests import bird
from tests.bird import Bird
from tests.waiting import until, wait_until

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("bgp_node.py")
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
PASSWORD = "pass 'word; } # \\ 1"


class Node:
    """A host with a speaker in a process of its own."""

    def __init__(self, host: netns.Host, number: int, folder: Path, *arguments: str) -> None:
        self.address, self.address6 = f"10.78.0.1{number}", f"fd78::1{number}"
        self._out = folder / f"node{number}.out"
        self._errors = folder / f"node{number}.log"
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                host.command([sys.executable, str(PROGRAM), *arguments]),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
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
        self.folder = folder
        self.nodes: dict[int, Node] = {}

    def start(self, number: int, *arguments: str) -> Node:
        self.nodes[number] = Node(self._hosts[number], number, self.folder, *arguments)
        return self.nodes[number]

    def bird(self, *, more: str = "", ipv6: bool = False) -> Bird:
        """A router that waits for every node; `ipv6`: over IPv6."""
        router = Bird(self.router, "10.78.0.1", ROUTER_ASN)
        network = "fd78::" if ipv6 else "10.78.0."
        for number in NODES:
            router.add_session(
                f"node{number}",
                local=f"{network}1",
                address=f"{network}1{number}",
                peer_asn=ASN,
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

        nodes[1].end(signal.SIGKILL)
        hops(router, VIP)
        hops(router, OTHER_VIP, "10.78.0.11")


@with_a_router
@pytest.mark.parametrize("arguments", [(), ("--without-setpriv",)], ids=["signal", "line"])
def test_exabgp_dies_with_its_agent_by_the_death_signal_and_by_its_line(
    net: Net, arguments: tuple[str, ...]
) -> None:
    with net.bird() as router:
        node = net.start(1, *arguments)
        node.configure(speaking(1))
        node.announce(route())
        hops(router, VIP, "10.78.0.11")
        (exabgp,) = node.children()
        if not arguments:
            os.kill(_relay_of(exabgp), signal.SIGSTOP)
        node.end(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{exabgp}").exists(), "exabgp dies, too")
        hops(router, VIP)


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
        assert not list(net.folder.rglob("exabgp*"))
        hops(router, VIP)
        wait_until(
            lambda: "Received: Peer de-configured" in router.log,
            lambda: f"a NOTIFICATION came: {router.log}",
        )
        assert "Error" not in router.ask("show", "protocols", "all", "node1")


@with_a_router
def test_communities_go_with_a_route_and_a_new_set_replaces_the_old_one(net: Net) -> None:
    with net.bird() as router:
        node = net.start(1)
        node.configure(speaking(1))
        node.announce(route(communities=("64512:100", "65535:65281", "64512:1:2")))
        hops(router, VIP, "10.78.0.11")
        seen = router.ask("show", "route", "all", "for", VIP)
        assert "BGP.community: (64512,100) (65535,65281)" in seen
        assert "BGP.large_community: (64512, 1, 2)" in seen
        assert "BGP.as_path: 64512" in seen

        node.announce(route(communities=("64512:7",)))
        wait_until(
            lambda: "BGP.community: (64512,7)\n" in router.ask("show", "route", "all", "for", VIP),
            "the route is announced again",
        )


@with_a_router
def test_a_router_of_the_own_as_gets_the_local_preference(net: Net) -> None:
    router = Bird(net.router, "10.78.0.1", ASN)
    # Else it asks a table for the way to the next hop.
    router.add_session(
        "node1", local="10.78.0.1", address="10.78.0.11", peer_asn=ASN, more="direct;"
    )
    with router:
        node = net.start(1)
        node.configure(speaking(1, peer(asn=ASN)))
        node.announce(route(local_pref=250))
        hops(router, VIP, "10.78.0.11")
        assert "BGP.local_pref: 250" in router.ask("show", "route", "all", "for", VIP)


@with_a_router
def test_a_session_over_ipv6_carries_both_ip_versions(net: Net) -> None:
    with net.bird(ipv6=True) as router:
        node = net.start(1)
        node.configure(speaking(1, peer(address="fd78::1"), next_hops=("10.78.0.11",)))
        node.announce(route(VIP6), route(VIP, next_hop="10.78.0.11"))
        hops(router, VIP6, "fd78::11")
        hops(router, VIP, "10.78.0.11")
        node.announce()
        hops(router, VIP6)
        hops(router, VIP)


@with_a_router
def test_only_who_knows_the_password_has_a_session(net: Net) -> None:
    with net.bird(more=f'password "{PASSWORD}";') as router:
        right, wrong = net.start(1), net.start(2)
        right.configure(speaking(1, peer(password=PASSWORD)))
        wrong.configure(speaking(2, peer(password="another one")))
        for node in (right, wrong):
            node.announce(route())
        hops(router, VIP, "10.78.0.11")
        wait_until(lambda: _counter(net.router, "TCPMD5Failure"), "the wrong one was tried")
        assert not router.is_established("node2")
        assert not any(session.up for session in wrong.sessions())
        everything = _what_is_known_of(right.children()[0]) + right.log
        files = list(net.folder.rglob("exabgp.conf"))
        assert len(files) == 2
        everything += "".join(file.read_text() for file in files)
        assert PASSWORD not in everything
        assert b64encode(PASSWORD.encode()).decode() not in everything


def _relay_of(exabgp: int) -> int:
    (relay,) = Path(f"/proc/{exabgp}/task/{exabgp}/children").read_text().split()
    return int(relay)


def _counter(host: netns.Host, name: str) -> int:
    """One of the TCP counters of a host's kernel."""
    argv = host.command(["cat", "/proc/net/netstat"])
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return int(dict(zip(lines[0].split(), lines[1].split(), strict=True))[name])


def _what_is_known_of(process: int) -> str:
    found = [Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ")]
    return b"".join(found).decode(errors="replace")


@with_a_router
def test_exabgp_comes_back_with_all_that_was_announced(net: Net) -> None:
    with net.bird() as router:
        node = net.start(1)
        node.configure(speaking(1))
        node.announce(route(), route(OTHER_VIP))
        hops(router, OTHER_VIP, "10.78.0.11")
        (first,) = node.children()
        os.kill(first, signal.SIGKILL)
        hops(router, VIP)
        node.announce(route())
        hops(router, VIP, "10.78.0.11")
        assert router.next_hops(OTHER_VIP) == set()
        assert node.children() != [first]
        # Its exit code is told unless a command was waiting for an answer when it died.
        ended = re.compile(r"exabgp (has ended|ended with code -9)")
        assert ended.search(node.log)
        assert any(ended.search(session.reason) for session in node.sessions() if not session.up)


@with_a_router
def test_exabgp_has_no_capability_and_dies_when_its_line_does(net: Net) -> None:
    node = net.start(1)
    node.configure(speaking(1))
    node.announce(route())
    with net.bird() as router:
        hops(router, VIP, "10.78.0.11")
        (exabgp,) = node.children()
        status = Path(f"/proc/{exabgp}/status").read_text()
        for line in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
            assert f"{line}:\t0000000000000000" in status
        os.kill(_relay_of(exabgp), signal.SIGKILL)
        wait_until(lambda: exabgp not in node.children(), "a deaf exabgp is ended")
        wait_until(node.children, "another one is started")
        hops(router, VIP, "10.78.0.11")


@with_a_router
def test_another_configuration_ends_the_sessions_and_none_ends_exabgp(net: Net) -> None:
    with net.bird() as router:
        node = net.start(1)
        node.configure(speaking(1))
        node.announce(route())
        hops(router, VIP, "10.78.0.11")
        node.configure(speaking(1, peer(name="gone", address="10.78.0.99"), peer()))
        wait_until(
            lambda: "Received: Peer de-configured" in router.log, "the first session is over"
        )
        hops(router, VIP, "10.78.0.11")
        node.configure(None)
        hops(router, VIP)
        wait_until(lambda: not node.children(), "no exabgp without a router")
        wait_until(
            lambda: node.sessions()[-1].reason == "not configured any more", "and it is said"
        )


NOT_INSTALLED = "exabgp is not installed: 'pip install piagent[bgp]'"
NO_FOLDER = "[Errno 2] No such file or directory: '/nonexistent"


@pytest.mark.parametrize("reason", [NOT_INSTALLED, NO_FOLDER])
def test_what_keeps_exabgp_from_running_is_said_once_and_tried_again(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if reason == NOT_INSTALLED:
        monkeypatch.setattr(exabgp_adapter.importlib.util, "find_spec", lambda _: None)
    else:
        monkeypatch.setattr(exabgp_adapter.importlib.util, "find_spec", lambda _: True)
        monkeypatch.setattr(exabgp_adapter.tempfile, "TemporaryDirectory", _no_folder)
    monkeypatch.setattr(bgp_adapter, "BACKOFF_MIN_S", 0.001)
    sessions: list[BgpSession] = []

    async def work() -> None:
        speaker = ExabgpSpeaker()
        speaker.configure(speaking(1))
        running = asyncio.create_task(speaker.run(sessions.append))
        await until(lambda: len(sessions) > 6)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(work())
    assert any(session.reason.startswith(reason) for session in sessions)
    assert not any(session.up for session in sessions)
    assert caplog.text.count(reason) == 1


def _no_folder(**_: object) -> object:
    raise FileNotFoundError(2, "No such file or directory", "/nonexistent")


@pytest.mark.skipif(importlib.util.find_spec("exabgp") is None, reason="exabgp is not installed")
def test_an_exabgp_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        exabgp_adapter.exabgp,
        "configuration",
        lambda *_: "neighbor 10.78.0.1 {\n    nonsense;\n}\n",
    )

    async def work() -> None:
        with pytest.raises(exabgp_adapter.ExabgpError, match="(?s)ended with code 1.*nonsense"):
            await exabgp_adapter.Exabgp.start(speaking(1), lambda _: None)

    asyncio.run(work())


@with_a_router
def test_the_how_tos_router_takes_the_vips_of_every_node_and_nothing_else(net: Net) -> None:
    page = (ROOT / "docs/how-to/announce-by-bgp.md").read_text()
    section = page[page.index("## A router with BIRD") :]
    block = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    with Bird(net.router, "", 0, block.replace("192.168.1.", "10.78.0.")) as router:
        for number in NODES:
            node = net.start(number)
            hop6 = f"fd78::1{number}"
            node.configure(speaking(number, peer(password="OneWord"), next_hops=(hop6,)))
            node.announce(route(), route(VIP6, next_hop=hop6), route("10.98.0.1"))
        hops(router, VIP, "10.78.0.11", "10.78.0.12")
        hops(router, VIP6, "fd78::11", "fd78::12")
        hops(router, "10.98.0.1")
