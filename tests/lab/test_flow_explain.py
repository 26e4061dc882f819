"""`piagent flow explain` of agents that forward: what they say is what then happens."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from piagent.cli import main
from tests.lab.lab import ECHO_PORT, SUBNET, VIP, Lab, Node
from tests.lab.test_forwarding import ALL, DSR_PORT, NODES, backends_on_nodes, forward, names
from tests.waiting import wait_until

CLIENT = f"{SUBNET}.100"
N_FLOWS = 8
Capture = pytest.CaptureFixture[str]


def asked(node: Node, src: str, port: int, *more: str) -> list[str]:
    return [
        "flow", "explain", "--src", src, "--dst", f"{VIP}:{port}",
        "--socket", str(node.socket), *more,
    ]  # fmt: skip


def told(capsys: Capture, node: Node, src: str, port: int) -> dict[str, Any]:
    capsys.readouterr()
    assert main(asked(node, src, port, "--json")) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def bound(lab: Lab) -> tuple[socket.socket, str]:
    """A client's socket that is not connected yet, and its place."""
    with lab.client.entered():
        made = socket.socket()
    made.settimeout(20)
    made.bind((CLIENT, 0))
    return made, f"{CLIENT}:{made.getsockname()[1]}"


def test_every_node_says_which_backend_answers_and_the_owner_what_the_kernel_carries(
    lab: Lab, capsys: Capture
) -> None:
    forward(lab, "nat")
    lab.start()
    owner = lab.nodes[lab.wait_for_owner()]
    wait_until(lambda: names(lab) == ALL, "every backend serves")
    for _ in range(N_FLOWS):
        client, place = bound(lab)
        with client, client.makefile("rb") as lines:
            said = {told(capsys, each, place, ECHO_PORT)["chosen"] for each in lab.nodes.values()}
            client.connect((VIP, ECHO_PORT))
            answered = lines.readline().decode().strip()
            assert len(said) == 1
            assert said.pop().startswith(f"{lab.backend_address(answered)}:")
            for _ in range(5):
                client.sendall(b"hello\n")
                assert lines.readline() == b"hello\n"
            forwarded = told(capsys, owner, place, ECHO_PORT)["forward"]
            if forwarded["flow_cache"] != "forwarder":
                carried = forwarded["carried"]
                assert carried["backend"].startswith(f"{lab.backend_address(answered)}:")
                assert carried["packets"] >= 4


def test_the_owner_lets_its_kernel_try_a_flow(lab: Lab, capsys: Capture) -> None:
    forward(lab, "nat")
    lab.start("node1")
    lab.wait_for_owner()
    wait_until(lambda: names(lab) == ALL, "every backend serves")
    node, place = lab.nodes["node1"], f"{CLIENT}:40000"
    capsys.readouterr()
    code = main(asked(node, place, ECHO_PORT, "--bpf", "--size", "1400"))
    said = capsys.readouterr()
    if code != 0:
        assert "CAP_BPF" in said.err
        pytest.skip(said.err)
    assert "is forwarded by nat; if it is a new flow:" in said.out
    assert said.out.count("carried  as the forwarder") == 4
    assert main(asked(node, place, ECHO_PORT, "--size", "1501")) == 0
    assert "its sender is told that 1500 bytes are not" in capsys.readouterr().out
    assert main(asked(node, place, 1, "--bpf")) == 1
    assert "is not forwarded" in capsys.readouterr().err


def test_dsr_to_the_nodes_themselves_is_said_as_it_is(lab: Lab, capsys: Capture) -> None:
    forward(lab, "dsr", DSR_PORT, here=True)
    with backends_on_nodes(lab):
        lab.start()
        owner = lab.nodes[lab.wait_for_owner()]
        wait_until(lambda: names(lab, DSR_PORT) == NODES, "every node serves")
        ways = set()
        for port in range(40_000, 40_040):
            said = told(capsys, owner, f"{CLIENT}:{port}", DSR_PORT)
            ways.add((said["chosen"], said["forward"]["interface"]))
        assert len(ways) == 3
        assert sorted(interface for _, interface in ways) == ["eth0", "eth0", "lo"]
