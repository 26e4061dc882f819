"""`piagent status` against a real admin server in another thread (conftest.py)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from piagent.admin.status import BackendStatus
from piagent.cli import main
from piagent.cli.status import backend_rows


def test_status_says_everything_in_lines(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--socket", agent_socket]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        (
            "node pi-1 of cluster home, piagent 0.1.0, running for 3 min, not ready: "
            "fewer than a majority of the brokers are connected"
        ),
        "no kernel fence: nf_tables is not there: modprobe nf_tables",
        "",
        "brokers",
        "b1 10.0.0.1:1883 down for 1 min refused",
        "",
        "nodes",
        "pi-1 1 VIPs of at most 1",
        "pi-2 0 VIPs of at most 1 host other, zone shelf, draining, leader",
        "",
        "VIPs",
        "10.0.0.9 owner pi-1 epoch 17 owner here for 2 h silence",
        "10.0.0.10 no owner epoch 0 follower here for 1 min no-quorum",
        "",
        "VIPs that BGP leads to",
        "10.0.1.9 announced here announced",
        "",
        "BGP sessions",
        "10.0.0.254 DOWN refused",
        "",
        "services",
        "api (load-balancer) 10.0.0.9 80",
        "backend 10.0.0.21 weight 2 DOWN for 1 min timeout",
        "web (node-port, applied, version 2) 10.96.0.1 53:30000/udp",
        "",
        "gateways",
        "front 10.0.0.9 80,443",
        "new (applied, version 1) no address 8080",
        "",
        "draining backends",
        "10.0.0.22:8080 of api:80 3 connections, cut in 2 min",
        "",
        "not as wished",
        "gateway/new exhausted vip: lan has none left",
    ]


def test_a_backend_that_is_ejected_says_so() -> None:
    one = BackendStatus(address="a", weight=1, up=True, since=0, reason="connected", ejected=True)
    ((_, state, reason),) = backend_rows((one,))
    assert state.endswith(" d, ejected")
    assert reason == "connected"


def test_a_backend_says_which_node_checked_it_and_how_long_ago() -> None:
    checked = int((time.time() - 90) * 1000)
    one = BackendStatus(
        address="a", weight=1, up=True, since=0, reason="r", checked_by="pi-2", checked=checked
    )
    ((_, _, reason),) = backend_rows((one,))
    assert reason == "r (checked by pi-2 1 min ago)"


def test_status_as_json_is_what_the_agent_says(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--socket", agent_socket, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["node"] == "pi-1"
    assert said["services"][0]["backends"][0]["reason"] == "timeout"


def test_status_finds_the_socket_by_the_file(
    agent_socket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "piagent.toml"
    file.write_text(
        '[node]\nname = "pi-1"\ninterface = "lo"\n[cluster]\nname = "home"\n'
        f'[mqtt]\nbrokers = ["mqtt://127.0.0.1"]\n[admin]\nsocket = "{agent_socket}"\n'
    )
    assert main(["status", "-c", str(file)]) == 0
    assert "node pi-1" in capsys.readouterr().out


def test_status_of_a_file_that_is_wrong_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "piagent.toml"
    file.write_text("[nodee]\n")
    assert main(["status", "-c", str(file)]) == 2
    assert "nodee" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["vip", "list"]])
def test_agent_that_is_not_running_is_one_clear_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--socket", str(tmp_path / "none.sock")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "not running" in line
