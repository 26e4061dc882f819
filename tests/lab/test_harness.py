"""The lab itself, before any agent runs in it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from piagent.config import load
from tests.lab.lab import BROKER, BROKER_PORT, HTTP_PORT, TCP_PORT, VIP, Lab
from tests.lab.traffic import Traffic, connect, http_get, tcp_name
from tests.waiting import wait_until


def test_the_client_reaches_every_backend_and_the_broker(lab: Lab) -> None:
    for name in lab.backends:
        address = lab.backend_address(name)
        assert tcp_name(lab.client, address, TCP_PORT) == name
        answer = http_get(lab.client, address, HTTP_PORT, "www.lab", "/a?b=c")
        assert (answer.status, answer.backend) == (200, name)
        assert answer.content["target"] == "/a?b=c"
    connect(lab.client, BROKER, BROKER_PORT).close()
    assert lab.owners() == []
    with pytest.raises(OSError, match=r"timed out|No route"):
        connect(lab.client, VIP, 80, timeout_s=0.5)


def test_every_nodes_file_is_valid(lab: Lab) -> None:
    for node in lab.nodes.values():
        loaded = load(str(node.config))
        assert not loaded.warnings
        assert loaded.config.vips() == (VIP,)


def test_traffic_measures_the_gap_of_a_pulled_cable(lab: Lab) -> None:
    address = lab.backend_address("backend1")
    with Traffic(lambda: tcp_name(lab.client, address, TCP_PORT, 0.1)) as traffic:
        traffic.wait_for_good(20)
        lab.backends["backend1"].host.pull_cable()
        wait_until(lambda: len(traffic.failures) >= 2, "failures")
        lab.backends["backend1"].host.plug_cable()
        traffic.wait_for_good(20)
    assert {sample.answer for sample in traffic.good} == {"backend1"}
    assert traffic.longest_gap_s() >= 0.2


def test_a_killed_backend_refuses_and_a_restarted_one_serves(lab: Lab) -> None:
    backend = lab.backends["backend2"]
    backend.kill()
    with pytest.raises(ConnectionRefusedError):
        tcp_name(lab.client, lab.backend_address("backend2"), TCP_PORT)
    backend.start()
    wait_until(lambda: backend.output.count("ready") == 2, "ready again")
    assert tcp_name(lab.client, lab.backend_address("backend2"), TCP_PORT) == "backend2"
    backend.send(signal.SIGTERM)
    assert backend.wait() == -signal.SIGTERM


def test_nothing_is_left_behind() -> None:
    with Lab(nodes=1, backends=1) as lab:
        process = lab.backends["backend1"].popen
        assert process is not None
    assert process.poll() is not None
    assert not lab.folder.exists()
    assert not list(Path("/run/netns").glob(f"piagent-lab-{os.getpid()}-*"))
