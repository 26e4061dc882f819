"""Clients under way while backends die and files are reloaded."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.lab.lab import ECHO_PORT, ENTRY_PORT, VIP, Lab
from tests.lab.traffic import Traffic, connect, http_get, tcp_name
from tests.waiting import wait_until

FALL_S = 2 * 0.2 + 0.15
"""The lab's checks: two failures, 200 ms apart, each up to 150 ms late."""


def ask_http(lab: Lab) -> str:
    answer = http_get(lab.client, VIP, ENTRY_PORT, "www.lab")
    assert answer.status == 200, answer.status
    return answer.backend


@contextmanager
def load(lab: Lab) -> Iterator[list[Traffic]]:
    """One TCP client and one HTTP client, both being answered."""
    with ExitStack() as stack:
        asks = (lambda: tcp_name(lab.client, VIP, ECHO_PORT), lambda: ask_http(lab))
        flows = [stack.enter_context(Traffic(ask)) for ask in asks]
        for flow in flows:
            flow.wait_for_good(50)
        yield flows


def test_requests_go_by_host_and_path(lab: Lab) -> None:
    lab.start("node1")
    lab.wait_for_owner()
    www = {ask_http(lab) for _ in range(30)}
    assert len(www) > 1, "balanced over the backends"
    api = http_get(lab.client, VIP, ENTRY_PORT, "api.lab", "/v1/x")
    assert (api.status, api.backend) == (200, "backend1")
    assert api.content["headers"]["x-forwarded-host"] == "api.lab"
    assert http_get(lab.client, VIP, ENTRY_PORT, "api.lab", "/v2").status == 404
    assert http_get(lab.client, VIP, ENTRY_PORT, "else.lab").status == 404


def test_killed_backend_costs_no_request_after_the_checks_fall_time(lab: Lab) -> None:
    lab.start("node1")
    lab.wait_for_owner()
    with load(lab) as flows:
        lab.backends["backend2"].kill()
        killed_s = time.monotonic()
        node = lab.nodes["node1"]
        wait_until(lambda: "10.77.0.22: down" in node.output, "the check notices")
        noticed_s = time.monotonic()
        for flow in flows:
            flow.wait_for_good(100)
        services = node.get("/api/v1/services")[1]
        echo = next(service for service in services if service["name"] == "echo")
        states = {backend["address"]: backend["up"] for backend in echo["backends"]}
        assert states == {"10.77.0.21": True, "10.77.0.22": False, "10.77.0.23": True}
        lab.backends["backend2"].start()
        wait_until(lambda: node.output.count("10.77.0.22: up") >= 4, "and that it is back")
        for flow in flows:
            flow.wait_for_good(100)
    assert noticed_s - killed_s < FALL_S + 5
    for flow in flows:
        assert flow.failures_after(noticed_s) == []


def test_reload_under_load_loses_nothing(lab: Lab) -> None:
    lab.start("node1")
    lab.wait_for_owner()
    node = lab.nodes["node1"]
    whole = lab.config_for("node1")
    without_third = lab.config_for("node1", ["backend1", "backend2"])
    with load(lab) as flows, connect(lab.client, VIP, ECHO_PORT) as kept:
        lines = kept.makefile("rwb", buffering=0)
        lines.readline()
        for count, text in enumerate([without_third, whole] * 4, 1):
            node.reload(text)
            wait_until(lambda n=count: node.output.count("reload: done") == n, "the reload")
            lines.write(b"still there\n")
            assert lines.readline() == b"still there\n"
        for flow in flows:
            flow.wait_for_good(50)
    for flow in flows:
        assert flow.failures == []


def test_bad_file_on_reload_changes_nothing_and_says_why(lab: Lab) -> None:
    lab.start("node1")
    lab.wait_for_owner()
    node = lab.nodes["node1"]
    good = node.config.read_text()
    with load(lab) as flows:
        node.reload(good.replace("[[service]]", "[[servce]]", 1))
        wait_until(lambda: "reason=bad-file" in node.output, "the refusal")
        node.reload(good.replace('name = "node1"', 'name = "node9"'))
        wait_until(lambda: "reason=restart-needed" in node.output, "the refusal")
        for flow in flows:
            flow.wait_for_good(50)
    assert "service" in node.output
    assert "restart needed to change node.name" in node.output
    metrics = node.get("/metrics")[1]
    assert 'piagent_config_reloads_total{result="bad-file"} 1' in metrics
    assert 'piagent_config_reloads_total{result="restart-needed"} 1' in metrics
    for flow in flows:
        assert flow.failures == []


def test_port_in_use_is_refused_on_reload_and_at_the_start(lab: Lab) -> None:
    lab.start("node1")
    lab.wait_for_owner()
    node, other = lab.nodes["node1"], lab.nodes["node2"]
    taken = 7001
    with ExitStack() as stack:
        for host in (node.host, other.host):
            with host.entered():
                stack.enter_context(socket.create_server(("0.0.0.0", taken)))
        node.reload(node.config.read_text().replace(f"port = {ECHO_PORT}", f"port = {taken}"))
        wait_until(lambda: "reason=failed" in node.output, "the refusal")
        assert f"cannot listen on {VIP}:{taken}" in node.output
        assert tcp_name(lab.client, VIP, ECHO_PORT) in lab.backends
        moved = other.config.read_text().replace(f"port = {ECHO_PORT}", f"port = {taken}")
        other.config.write_text(moved)
        other.start()
        assert other.wait() == 1
        assert f"cannot listen on {VIP}:{taken}" in other.output


def test_missing_interface_is_said_and_the_vip_is_left_to_others(lab: Lab) -> None:
    node = lab.nodes["node1"]
    node.config.write_text(node.config.read_text().replace('"eth0"', '"eth7"'))
    lab.start("node1")
    said = "interface eth7: no such interface"
    wait_until(lambda: said in node.output, "it says so")
    lab.start("node2")
    assert lab.wait_for_owner() == "node2"
