"""An admin server that always says the same, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.admin.exposition import Family
from piagent.admin.server import AdminServer
from piagent.admin.status import (
    BackendStatus,
    BrokerStatus,
    DrainStatus,
    FlowBackend,
    FlowStatus,
    ForwardBackend,
    ForwardChange,
    ForwardStatus,
    GatewayStatus,
    NodeStatus,
    NoteStatus,
    PortStatus,
    ProgramRun,
    RejectedNode,
    RoutedStatus,
    RouteStatus,
    ServiceStatus,
    SessionStatus,
    Status,
    VipStatus,
    Why,
)
from piagent.core.flow import FlowQuestion
from piagent.core.model import host_port
from tests.admin.known import ScriptedServices

FLOW = FlowStatus(
    node="pi-1", vip=True, owner="pi-1", listener="10.0.0.9:80", gateway=None, service="api:80",
    allowed=True, header=False, policy="maglev", affinity=False, hash="00000000000000ff",
    entry=255, table="10.0.0.21:8080", remembered=None, chosen="10.0.0.21:8080",
    orders=(("10.0.0.21:8080", "10.0.0.22:8080"),) * 2,
    backends=tuple(
        FlowBackend(
            name=f"10.0.0.{last}:8080", weight=weight, up=weight > 0, active=active, share=1.0,
            ejected_ms=0, passed_over="" if weight else "unusable",
        )
        for last, weight, active in ((21, 2, 7), (22, 1, 0), (23, 0, 0))
    ),
)  # fmt: skip
FORWARD = ForwardStatus(
    how="nat", verdict="sent", kind="flow", interface="eth0", mac="02:00:00:00:00:21", mtu=1500,
    changes=(
        ForwardChange("source", "10.0.0.77", "10.0.0.9"),
        ForwardChange("source port", "51234", "50001"),
        ForwardChange("ttl", "64", "63"),
    ),
    remembers_ms=0, frame_in="00", frame_out="01", answer="", answer_mtu=None,
    backends=(
        ForwardBackend(name="10.0.0.21:8080", weight=2, up=True, passed_over="", reason="resolved"),
        ForwardBackend(
            name="10.0.0.22:8080", weight=1, up=True, passed_over="unreachable", reason="failed"
        ),
    ),
    flow_cache="tc", cache_reason="no native XDP", carried=None,
    bpf=(ProgramRun(program="xdp", way="request", verdict="carried", same=True),),
)  # fmt: skip
DRAIN = DrainStatus(service="api:80", backend="10.0.0.22:8080", connections=3, until=0)


def status() -> Status:
    """As of over a minute ago: the words for it do not change while a test runs."""
    then_ms = int(time.time() * 1000) - 90_000
    return Status(
        node="pi-1",
        cluster="home",
        version="0.1.0",
        started=then_ms - 2 * 60_000,
        ready=False,
        reason="fewer than a majority of the brokers are connected",
        brokers=(
            BrokerStatus(
                name="b1", address="10.0.0.1:1883", up=False, since=then_ms, reason="refused"
            ),
        ),
        leader="pi-2",
        fence="nf_tables is not there: modprobe nf_tables",
        nodes=(
            NodeStatus(name="pi-1", host="pi-1", vips=1, share=1, zone="", draining=False),
            NodeStatus(name="pi-2", host="other", vips=0, share=1, zone="shelf", draining=True),
        ),
        vips=(
            VipStatus(
                address="10.0.0.9", state="owner", owner="pi-1", epoch=17,
                since=then_ms - 7_300_000, reason="silence",
            ),
            VipStatus(
                address="10.0.0.10", state="follower", owner=None, epoch=0, since=then_ms,
                reason="no-quorum",
            ),
        ),
        services=(
            ServiceStatus(
                name="api",
                type="load-balancer",
                vips=("10.0.0.9",),
                cluster_ips=(),
                applied=0,
                mode="dsr",
                encapsulation="ipip",
                ports=(PortStatus(name="80", port=80, protocol="tcp", node_port=None),),
                backends=(
                    BackendStatus(
                        address="10.0.0.21", weight=2, up=False, since=then_ms, reason="timeout"
                    ),
                ),
            ),
            ServiceStatus(
                name="web",
                type="node-port",
                vips=(),
                cluster_ips=("10.96.0.1",),
                applied=2,
                ports=(PortStatus(name="dns", port=53, protocol="udp", node_port=30000),),
                backends=(),
            ),
        ),
        gateways=(
            GatewayStatus(name="front", vips=("10.0.0.9",), ports=(80, 443), applied=0),
            GatewayStatus(name="new", vips=(), ports=(8080,), applied=1),
        ),
        notes=(
            NoteStatus(about="gateway/new", reason="exhausted", detail="vip: lan has none left"),
        ),
        routed=(RoutedStatus(address="10.0.1.9", announced=True, reason="announced"),),
        drains=(replace(DRAIN, until=then_ms + 90_000 + 2 * 60_000 + 30_000),),
        bgp=(SessionStatus(peer="10.0.0.254", up=False, reason="refused"),),
    )  # fmt: skip


class Source:
    """Always says the same."""

    def __init__(self, services: ScriptedServices) -> None:
        self.services = services

    def status(self) -> Status:
        return status()

    def routes(self) -> tuple[RouteStatus, ...]:
        return ()

    def why(self, vip: str) -> Why | None:
        known = {each.address: each for each in status().vips}
        if vip not in known:
            return None
        other = RejectedNode(node="pi-2", reason="no-room", detail="has 1 of at most 1")
        return Why(vip=known[vip], rival="02:00:00:00:00:99", next="pi-2", others=(other,))

    def explain(self, asked: FlowQuestion) -> FlowStatus:
        flow = asked.flow
        udp = "/udp" if flow.protocol == "udp" else ""
        told = replace(FLOW, listener=f"{host_port(flow.dst, flow.dst_port)}{udp}")
        return replace(told, forward=FORWARD) if asked.about_packets else told

    async def move(self, vip: str, node: str) -> str | None:
        return None if node == "pi-2" else f"node {node} is not there"

    def drain(self, node: str, *, drain: bool) -> str | None:
        return None if node in {"", "pi-2"} else f"node {node} is not there"

    def metrics(self) -> tuple[Family, ...]:
        return ()


@pytest.fixture
def services() -> ScriptedServices:
    """What the agent says of services, and what it was asked."""
    return ScriptedServices()


@pytest.fixture
def agent_socket(tmp_path: Path, services: ScriptedServices) -> Iterator[str]:
    path = str(tmp_path / "admin.sock")
    loop = asyncio.new_event_loop()
    server = AdminServer(path, Source(services))
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield path
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a wide terminal, so that help is not broken into lines."""
    monkeypatch.setenv("COLUMNS", "400")
