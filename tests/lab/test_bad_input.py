"""What goes wrong around a whole agent gets a clear answer each, and what ran goes on."""

from __future__ import annotations

import http.client
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import listdir

import pytest

from tests.lab.intruder import rss_kib
from tests.lab.lab import ECHO_PORT, ENTRY_PORT, VIP, Lab, Node
from tests.lab.test_one_owner import watch
from tests.lab.test_traffic import ask_http, load
from tests.lab.traffic import connect, http_get, tcp_name, wait_until
from tests.lab.watch import overlaps

GET = b"GET / HTTP/1.1\r\nHost: www.lab\r\n\r\n"
SOME_DESCRIPTORS = 40
RENEWED_S = 0.5
"""A renewal of profile "fast", and an echo of it, on a busy machine."""
"""Kept connections to backends, the admin API's clients, checks under way."""
_LISTEN, _TIME_WAIT = "0A", "06"


def descriptors(node: Node) -> int:
    assert node.popen is not None
    return len(listdir(f"/proc/{node.agent}/fd"))


def clients(node: Node) -> int:
    """Connections to the gateway that the kernel has not forgotten yet."""
    assert node.popen is not None
    with open(f"/proc/{node.agent}/net/tcp") as lines:
        rows = [line.split() for line in lines]
    ours = [row for row in rows if row[1].endswith(f":{ENTRY_PORT:04X}")]
    return sum(row[3] not in (_LISTEN, _TIME_WAIT) for row in ours)


def owner_alone(lab: Lab) -> Node:
    lab.start("node1")
    lab.wait_for_owner()
    wait_until(lambda: ask_http(lab), "it serves")
    return lab.nodes["node1"]


def ip(lab: Lab, node: str, *words: str) -> None:
    subprocess.run(lab.nodes[node].host.command(["ip", *words]), check=True)


@contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("words", [("del",), ("set", "down")])
def test_interface_that_goes_while_owning_costs_the_vip_and_nothing_else(
    lab: Lab, words: tuple[str, ...]
) -> None:
    node = lab.nodes["node1"]
    verb, *state = words
    try:
        ip(lab, "node1", "link", "add", "spare", "type", "veth", "peer", "name", "far")
    except subprocess.CalledProcessError:
        pytest.skip("no second interface can be made here")
    ip(lab, "node1", "link", "set", "spare", "up")
    node.config.write_text(node.config.read_text().replace('"eth0"', '"spare"'))
    lab.start("node1")
    wait_until(lambda: "acquired" in node.output, "node1 has the VIP")
    lab.start("node2")
    ip(lab, "node1", "link", verb, "spare", *state)
    wait_until(lambda: VIP in lab.nodes["node2"].vips(), "the other node has the VIP")
    assert tcp_name(lab.client, VIP, ECHO_PORT) in lab.backends
    wait_until(lambda: node.get("/api/v1/status")[1]["vips"][0]["owner"] == "node2", "it knows")
    assert "interface spare" in node.output
    assert "Traceback" not in node.output
    assert node.terminate() == 0


def test_toml_that_is_none_is_named_by_its_line_and_changes_nothing(lab: Lab) -> None:
    node, other = owner_alone(lab), lab.nodes["node2"]
    broken = node.config.read_text().replace("[cluster]", "[cluster")
    line = broken.splitlines().index("[cluster") + 1
    node.reload(broken)
    wait_until(lambda: "reason=bad-file" in node.output, "the refusal")
    other.config.write_text(broken)
    other.start()
    assert other.wait() == 2
    assert f"{node.config}:{line}:" in node.output
    assert f"{other.config}:{line}:" in other.output
    assert lab.owners() == ["node1"]
    assert ask_http(lab) in lab.backends


@pytest.mark.parametrize("lab", ["normal"], indirect=True)
def test_cloned_node_is_a_stranger_with_an_alarm_and_never_a_second_owner(lab: Lab) -> None:
    node, clone = owner_alone(lab), lab.nodes["node2"]
    clone.config.write_text(clone.config.read_text().replace('name = "node2"', 'name = "node1"'))
    with watch(lab) as seen:
        lab.start("node2")
        node.kill()
        wait_until(lambda: VIP in clone.vips(), "the clone has the VIP")
        node.start()
        wait_until(lambda: "node1 lives twice" in clone.output + node.output, "the alarm")
        assert VIP not in node.vips()
    assert overlaps(seen.lists) == []


def test_ten_thousand_connections_within_eight_thousand_descriptors(lab: Lab) -> None:
    node = lab.nodes["node1"]
    node._argv[:0] = ["prlimit", "--nofile=8000:8000"]
    owner_alone(lab)
    before = descriptors(node)
    with many_descriptors(), ExitStack() as stack:
        kept = http.client.HTTPConnection(VIP, ENTRY_PORT)
        kept.sock = stack.enter_context(connect(lab.client, VIP, ENTRY_PORT))
        opened: list[socket.socket] = []
        with lab.client.entered():
            for _ in range(10_000):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.connect((VIP, ENTRY_PORT))
                opened.append(client)
                if len(opened) % 500 == 0:
                    time.sleep(0.05)
        for _ in range(20):
            kept.request("GET", "/", headers={"Host": "www.lab"})
            answer = kept.getresponse()
            assert (answer.status, answer.read()[:1]) == (200, b"{")
            status, said = node.get("/readyz")
            assert (status, said.strip()) == (200, "ready")
        assert rejected(node) > 1000
        assert lab.owners() == ["node1"]
        assert all(backend["up"] for s in services(node) for backend in s["backends"])
    wait_until(lambda: descriptors(node) <= before + SOME_DESCRIPTORS, "they are given back")
    assert ask_http(lab) in lab.backends
    assert "Traceback" not in node.output


def services(node: Node) -> list[dict[str, object]]:
    found: list[dict[str, object]] = node.get("/api/v1/status")[1]["services"]
    return found


def test_hostile_http_clients_leave_nothing_behind_and_keep_nobody_waiting(lab: Lab) -> None:
    node = owner_alone(lab)
    with load(lab) as flows, ExitStack() as stack:
        for number in range(600):
            client = stack.enter_context(connect(lab.client, VIP, ENTRY_PORT))
            with suppress(OSError):
                client.sendall(HOSTILE[number % len(HOSTILE)])
                if number % 3 == 0:
                    client.shutdown(socket.SHUT_WR)
        assert node.get("/healthz")[0] == 200
        for flow in flows:
            flow.wait_for_good(100)
    for flow in flows:
        assert flow.failures == []
    wait_until(lambda: clients(node) == 0, "all are given back")
    wait_until(lambda: active(node) == 0, "none is counted as active")


HOSTILE = (
    b"G",
    b"GET / HTTP/1.1\r\nHost: www.lab\r\nA: ",
    b"POST / HTTP/1.1\r\nHost: www.lab\r\nContent-Length: 1000000\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: www.lab\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nabc",
    b"POST / HTTP/1.1\r\nHost: www.lab\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    GET * 500,
    b"GET http://www.lab/ HTTP/1.1\r\nHost: evil\r\nX: " + b"x" * 100_000,
    b"GET /%0d%0aSet-Cookie:%20a HTTP/1.1\r\nHost: www.lab\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: www.lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00" + bytes(500),
    b"\r\n" * 10_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


def active(node: Node) -> float:
    """Connections to backends that serve a client now."""
    return total(node, "piagent_connections_active{")


def rejected(node: Node) -> float:
    """Connections that reached no backend."""
    return total(node, "piagent_rejected_total{")


def total(node: Node, metric: str) -> float:
    lines = node.get("/metrics")[1].splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(metric))


def test_two_hundred_reloads_and_lost_brokers_under_load_leave_no_trace(lab: Lab) -> None:
    node = owner_alone(lab)
    assert node.popen is not None
    whole = lab.config_for("node1")
    fewer = lab.config_for("node1", ["backend1", "backend2"])
    done = 0

    def reloads(count: int) -> None:
        nonlocal done
        for _ in range(count):
            done += 1
            node.reload((whole, fewer)[done % 2])
            wait_until(lambda n=done: node.output.count("reload: done") == n, "the reload")

    with load(lab) as flows:
        reloads(50)
        before, memory = descriptors(node), rss_kib(node.agent)
        reloads(150)
        for _ in range(12):
            lab.broker.kill()
            lab.broker.start()
            wait_until(node.is_ready, "it is connected again")
            # Time to renew: the only broker, gone for a lease, would rightly end it.
            time.sleep(RENEWED_S)
        assert descriptors(node) <= before + SOME_DESCRIPTORS
        assert rss_kib(node.agent) - memory < 4 * 1024
        for flow in flows:
            flow.wait_for_good(20)
    assert flows[0].failures == []
    assert flows[1].failures == []
    assert lab.owners() == ["node1"]


def test_crowd_on_the_admin_socket_is_sent_away_and_the_node_works_on(lab: Lab) -> None:
    node = owner_alone(lab)
    before = descriptors(node)
    with ExitStack() as stack:
        for number in range(2000):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(5)
            with suppress(OSError):
                client.connect(str(node.socket))
                if number % 2:
                    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        # While all of them hold on; those just accepted may still be on their way out.
        most = before + SOME_DESCRIPTORS + 150
        wait_until(lambda: descriptors(node) <= most, "the crowd is sent away")
        assert http_get(lab.client, VIP, ENTRY_PORT, "www.lab").status == 200
        assert lab.owners() == ["node1"]
    wait_until(node.is_ready, "there is room again")
    wait_until(lambda: descriptors(node) <= before + SOME_DESCRIPTORS, "all are given back")
    node.send(signal.SIGTERM)
    assert node.wait() == 0
