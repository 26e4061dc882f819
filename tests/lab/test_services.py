"""The types of services on real agents: who reaches what, and what cannot be had."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from piagent.adapters.netns import Host
from tests.adapters.asker import Asker
from tests.lab.lab import SUBNET, TCP_PORT, Lab
from tests.lab.services import (
    POOLS,
    Place,
    Table,
    add_backend,
    ip,
    notes_of,
    reach,
    settle,
    table,
    write,
)
from tests.lab.traffic import Traffic, connect, tcp_name

FILE = f"""{POOLS}
[[service]]
name = "inner"
address = ["10.96.0.10", "fd96::10"]
ip_family_policy = "require-dual"
ports = [
  {{ port = 80, target_port = {TCP_PORT} }},
  {{ port = 80, target_port = {TCP_PORT}, protocol = "udp" }},
]
backends = ["{SUBNET}.21", "{SUBNET}.22"]

[[service]]
name = "open"
type = "node-port"
ports = [
  {{ port = 80, target_port = {TCP_PORT}, node_port = 30080 }},
  {{ port = 80, target_port = {TCP_PORT}, node_port = 30080, protocol = "udp" }},
]
backends = ["{SUBNET}.21", "{SUBNET}.22"]

[[service]]
name = "front"
type = "load-balancer"
ip_family_policy = "require-dual"
ports = [
  {{ port = 80, target_port = {TCP_PORT} }},
  {{ port = 80, target_port = {TCP_PORT}, protocol = "udp" }},
]
backends = ["{SUBNET}.21", "{SUBNET}.22"]

[[service]]
name = "here"
type = "node-port"
traffic_policy = "local"
ports = [{{ port = 81, target_port = {TCP_PORT}, node_port = 30081 }}]
backends = ["{SUBNET}.21", {{ address = "{SUBNET}.12", node = "node2" }}]

[[service]]
name = "peers"
headless = true
ports = [{{ port = {TCP_PORT} }}]
backends = ["{SUBNET}.21", "{SUBNET}.22"]

[[service]]
name = "elsewhere"
type = "external"
external_name = "db.example.com"

[dns]
listen = "127.0.0.55:53"
"""
VIP, VIP6 = f"{SUBNET}.200", "fd77::200"
"""What the pool gives to the one service that takes any."""
PLACES = {
    "cluster address": Place("10.96.0.10", 80),
    "cluster address, v6": Place("fd96::10", 80),
    "VIP": Place(VIP, 80),
    "VIP, v6": Place(VIP6, 80),
    "node port of node1": Place(f"{SUBNET}.11", 30080),
    "node port of node2": Place(f"{SUBNET}.12", 30080),
    "node port of node3": Place(f"{SUBNET}.13", 30080),
    "node port of node3, v6": Place("fd77::13", 30080),
    "node port of the VIP": Place(VIP, 30080),
    "node port of its own loopback": Place("127.0.0.1", 30080),
}
OUTSIDE = {"cluster address": "silent", "cluster address, v6": "silent",
           "node port of its own loopback": "refused"}  # fmt: skip
"""What is not for everybody, with a static route to the cluster addresses by node1."""
BACKENDS = {"backend1", "backend2"}
NO_NEIGHBOUR = "no route (No route to host)"
BUSY_PORT = 30082
BUSY = f"""
[[service]]
name = "busy"
type = "node-port"
ports = [{{ port = 82, target_port = {TCP_PORT}, node_port = {BUSY_PORT} }}]
backends = ["{SUBNET}.21"]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A running cluster; each test leaves it as it was."""
    with Lab(backends=2) as built:
        hosts = built.network.hosts
        for number, name in enumerate(("client", "backend1", "backend2"), 0x50):
            hosts[name].add_address(f"fd77::{number:x}/64")
        for number in (1, 2, 3):
            hosts[f"node{number}"].add_address(f"fd77::1{number}/64")
        for name in ("client", "backend1"):
            ip(hosts[name], "route", "add", "10.96.0.0/24", "via", f"{SUBNET}.11")
            ip(hosts[name], "-6", "route", "add", "fd96::/112", "via", "fd77::11")
        write(built, FILE)
        add_backend(built, "local2", hosts["node2"], f"{SUBNET}.12")
        built.start()
        built.wait_for_owner(VIP)
        built.wait_for_owner(VIP6)
        yield built


def sources(lab: Lab) -> dict[str, Host]:
    names = ("client", "backend1", "node1", "node2", "node3")
    return {name: lab.network.hosts[name] for name in names}


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_who_reaches_what(lab: Lab, udp: bool) -> None:
    hosts = sources(lab)
    every = dict.fromkeys(PLACES, "yes")
    wanted: Table = {name: every if name in lab.nodes else {**every, **OUTSIDE} for name in hosts}
    settle(lambda: table(hosts, PLACES, BACKENDS, udp=udp), wanted)


def test_nobody_answers_arp_or_ndp_for_a_cluster_address(lab: Lab) -> None:
    with Asker(lab.client, f"{SUBNET}.100", "fd77::50") as asker:
        assert all(asker.gets_mac(vip, 2.0) for vip in (VIP, VIP6))
        assert not any(asker.gets_mac(inside, 1.0) for inside in ("10.96.0.10", "fd96::10"))


def test_local_traffic_is_for_nodes_that_have_a_backend(lab: Lab) -> None:
    def local() -> dict[str, str]:
        return {
            name: reach(lab.client, Place(f"{SUBNET}.1{name[-1]}", 30081)) for name in lab.nodes
        }

    settle(local, {"node1": "closed", "node2": "local2", "node3": "closed"})
    lab.backends["local2"].kill()
    try:
        # Without a check it counts as up: its own host refuses, and nobody else is asked.
        settle(local, dict.fromkeys(lab.nodes, "closed"))
    finally:
        lab.backends["local2"].start()
    settle(local, {"node1": "closed", "node2": "local2", "node3": "closed"})


def dig(host: Host, *words: str) -> list[str]:
    argv = host.command(["dig", "@127.0.0.55", "+short", "+time=2", *words])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return sorted(done.stdout.split())


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (("inner.lab.piagent", "A"), ["10.96.0.10"]),
        (("inner.lab.piagent", "AAAA"), ["fd96::10"]),
        (("peers.lab.piagent", "A"), [f"{SUBNET}.21", f"{SUBNET}.22"]),
        (("elsewhere.lab.piagent", "CNAME"), ["db.example.com."]),
    ],
    ids=lambda value: value[0],
)
def test_names_lead_to_what_is_reached(
    lab: Lab, question: tuple[str, ...], answers: list[str]
) -> None:
    for node in lab.nodes.values():
        settle(lambda node=node: dig(node.host, *question), answers)


def test_node_port_of_another_program_is_left_out_on_that_node_until_it_ends(lab: Lab) -> None:
    taker = lab.nodes["node1"]
    with taker.host.entered():
        wire = socket.create_server(("0.0.0.0", BUSY_PORT))

    def found() -> dict[str, str]:
        return {
            name: reach(lab.client, Place(f"{SUBNET}.1{name[-1]}", BUSY_PORT), timeout_s=0.3)
            for name in lab.nodes
        }

    def others() -> Table:
        hosts, places = {"client": lab.client, "node1": taker.host}, dict(PLACES)
        del places["node port of its own loopback"]
        return table(hosts, places, BACKENDS, udp=False)

    before = others()
    with wire:
        for node in lab.nodes.values():
            node.reload(node.config.read_text() + BUSY)
        settle(found, {"node1": "silent", "node2": "backend1", "node3": "backend1"})
        settle(lambda: [(one["about"], one["reason"]) for one in notes_of(taker)],
               [(f"0.0.0.0:{BUSY_PORT}", "port-unavailable")])  # fmt: skip
        assert "another program listens there" in notes_of(taker)[0]["detail"]
        assert others() == before
        assert notes_of(lab.nodes["node2"]) == []
    settle(found, dict.fromkeys(lab.nodes, "backend1"), 15)
    assert notes_of(taker) == []
    write(lab, FILE)
    for node in lab.nodes.values():
        node.send(signal.SIGHUP)
    settle(found, dict.fromkeys(lab.nodes, "refused"))


def change(name: str, **keys: object) -> dict[str, object]:
    """A service to apply, as /api/v1/apply takes it; without keys: one to delete."""
    return {"kind": "service", "name": name, "table": {"name": name, **keys} if keys else None}


def test_service_that_is_deleted_takes_nothing_new_and_others_do_not_notice(lab: Lab) -> None:
    node = lab.nodes["node3"]
    made = change(
        "passing",
        type="load-balancer",
        ports=[{"port": 82, "target_port": TCP_PORT, "node_port": 30083}],
        backends=[f"{SUBNET}.21"],
    )
    status, verdict = node.post("/api/v1/apply", {"changes": [made]})
    assert status == 200, verdict
    (outcome,) = verdict["outcomes"]
    vip, inside = Place(outcome["vips"][0], 82), Place(outcome["cluster_ips"][0], 82)
    opened = Place(f"{SUBNET}.13", 30083)
    asking = {vip: lab.client, inside: node.host, opened: lab.client}

    def found() -> list[str]:
        return [reach(host, place) for place, host in asking.items()]

    settle(found, ["backend1"] * 3)
    with ExitStack() as stack:
        streams = {
            place: stack.enter_context(connect(host, *place)) for place, host in asking.items()
        }
        lines = {p: stack.enter_context(s.makefile("rwb", 0)) for p, s in streams.items()}
        for each in lines.values():
            assert each.readline() == b"backend1\n"
        probes = stack.enter_context(Traffic(lambda: tcp_name(lab.client, VIP, 80)))
        status, verdict = node.post("/api/v1/apply", {"changes": [change("passing")]})
        assert status == 200, verdict

        lines[opened].write(b"still there\n")
        assert lines[opened].readline() == b"still there\n"
        settle(lambda: reach(node.host, opened), "refused")
        settle(lambda: reach(node.host, inside).partition(" (")[0], "no route")
        for gone in (inside, vip):
            streams[gone].settimeout(20)
            with pytest.raises(ConnectionResetError):
                lines[gone].readline()
        settle(lambda: reach(lab.client, vip) in {"silent", NO_NEIGHBOUR}, True)
        probes.wait_for_good(10)
    assert probes.failures == []
