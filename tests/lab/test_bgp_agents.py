"""Whole agents beside a real router, BIRD: who may serve a VIP announces it, nobody else."""

from __future__ import annotations

import importlib.util
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests import bird
from tests.bird import Bird
from tests.lab.lab import SUBNET, TCP_PORT, Lab
from tests.lab.services import Place, add_backend, ip, reach, settle, write
from tests.lab.traffic import Traffic, tcp_name
from tests.waiting import wait_until

WHY_NOT = bird.WHY_NOT or (
    None if importlib.util.find_spec("exabgp") else "exabgp is not installed (pip)"
)
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

ROUTER, ROUTER_ASN, ASN, HOLD_S = f"{SUBNET}.1", 64500, 64512, 3
EVERY, NEAR = "10.99.0.1", "10.99.0.2"
"""VIPs of a service that every node may serve, and of one with traffic_policy = "local"."""
NODES = {"node1": f"{SUBNET}.11", "node2": f"{SUBNET}.12"}
FILE = f"""
[bgp]
asn = {ASN}
hold_time = "{HOLD_S}s"
peers = [{{ name = "router", address = "{ROUTER}", asn = {ROUTER_ASN} }}]

[[pool]]
name = "routed"
addresses = ["10.99.0.0/28"]
announce = "bgp"

[[service]]
name = "every"
type = "load-balancer"
address = "{EVERY}"
ports = [{{ port = 80, target_port = {TCP_PORT} }}]
backends = ["{SUBNET}.21"]

[[service]]
name = "near"
type = "load-balancer"
address = "{NEAR}"
traffic_policy = "local"
ports = [{{ port = 80, target_port = {TCP_PORT} }}]
backends = [
  {{ address = "{SUBNET}.11", node = "node1" }},
  {{ address = "{SUBNET}.12", node = "node2" }},
]
health = {{ kind = "tcp", interval = "200ms", timeout = "150ms", rise = 1, fall = 2 }}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes, a client that knows only a router, and a backend on each node."""
    with Lab(nodes=2, backends=1) as built:
        host = built.network.add_host("router", f"{ROUTER}/24")
        for setting in (
            "ip_forward=1",
            "fib_multipath_hash_policy=1",  # by ports, too
            "conf.all.send_redirects=0",  # the client is to come by here each time
            "conf.eth0.send_redirects=0",
        ):
            argv = host.command(["sysctl", "-q", "-w", f"net.ipv4.{setting}"])
            subprocess.run(argv, check=True)
        ip(built.client, "route", "add", "10.99.0.0/24", "via", ROUTER)
        write(built, FILE)
        for name, address in NODES.items():
            add_backend(built, f"of-{name}", built.nodes[name].host, address)
        built.start()
        yield built


@pytest.fixture
def router(lab: Lab) -> Iterator[Bird]:
    made = Bird(lab.network.hosts["router"], ROUTER, ROUTER_ASN)
    for name, address in NODES.items():
        made.add_session(
            name,
            local=ROUTER,
            address=address,
            peer_asn=ASN,
            hold_s=HOLD_S,
            more="error wait time 1, 2;",  # else a minute after a hold time that has expired
        )
    with made:
        hops(made, EVERY, "node1", "node2")
        hops(made, NEAR, "node1", "node2")
        yield made


def hops(router: Bird, vip: str, *names: str) -> float:
    """Wait until the router sends what is for the VIP to these nodes; when it did."""
    wanted = {NODES[name] for name in names}
    settle(lambda: router.next_hops(vip), wanted, 30)
    return time.monotonic()


def answers(lab: Lab, vip: str) -> set[str]:
    """Who answers to a few clients."""
    return {reach(lab.client, Place(vip, 80)) for _ in range(20)}


def test_router_shares_clients_out_and_local_traffic_follows_the_backends(
    lab: Lab, router: Bird
) -> None:
    settle(lambda: answers(lab, EVERY), {"backend1"})
    settle(lambda: answers(lab, NEAR), {"of-node1", "of-node2"})
    status = lab.nodes["node1"].get("/api/v1/status")[1]
    assert {one["address"]: one["announced"] for one in status["routed"]} == {
        EVERY: True,
        NEAR: True,
    }
    with Traffic(lambda: tcp_name(lab.client, EVERY, 80)) as others:
        others.wait_for_good(20)
        lab.backends["of-node1"].kill()
        hops(router, NEAR, "node2")
        hops(router, EVERY, "node1", "node2")
        settle(lambda: answers(lab, NEAR), {"of-node2"})
        routed = lab.nodes["node1"].get("/api/v1/status")[1]["routed"]
        assert [one["announced"] for one in routed] == [True, False]
        lab.backends["of-node1"].start()
        hops(router, NEAR, "node1", "node2")
        settle(lambda: answers(lab, NEAR), {"of-node1", "of-node2"})
        others.wait_for_good(20)
    assert others.failures == []


@pytest.mark.parametrize("fault", ["agent", "node", "cable", "stop"])
def test_routes_go_with_who_announced_them(lab: Lab, router: Bird, fault: str) -> None:
    node = lab.nodes["node1"]
    begun_s = time.monotonic()
    if fault == "agent":
        node.kill_agent()
    elif fault == "node":
        node.kill()
    elif fault == "cable":
        node.host.pull_cable()
    else:
        node.terminate()
    gone_s = hops(router, EVERY, "node2") - begun_s
    hops(router, NEAR, "node2")
    settle(lambda: answers(lab, EVERY), {"backend1"})
    settle(lambda: answers(lab, NEAR), {"of-node2"})
    print(f"{fault}: the router knew after {gone_s:.2f} s")
    if fault == "cable":
        assert "Hold timer expired" in router.log
        node.host.plug_cable()
    else:
        node.wait()
        lab.start(node.name)
    wait_until(node.is_ready, "it is back")
    hops(router, EVERY, "node1", "node2")
