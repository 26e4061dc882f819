"""Services and endpoints on whole agents: real processes, a real Mosquitto, the real engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.cli import main
from tests.cli.test_endpoint import Joining
from tests.cli.test_run import ROOT, Node, Setting, owner_of
from tests.mosquitto import WHY_NOT, Mosquitto
from tests.net import free_port
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
    pytest.mark.skipif(
        not list((ROOT / "fastpath").glob("engine.*.so")), reason="the engine is not built"
    ),
]


class Echo:
    """A backend that says its name to everybody."""

    def __init__(self, name: bytes) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._name = name
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(self._name)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


@pytest.fixture
def first() -> Iterator[Echo]:
    made = Echo(b"first")
    yield made
    made.end()


@pytest.fixture
def second() -> Iterator[Echo]:
    made = Echo(b"second")
    yield made
    made.end()


@pytest.fixture
def setting(tmp_path: Path, first: Echo) -> Iterator[Setting]:
    with Mosquitto() as broker:
        made = Setting(tmp_path, broker, first.port)
        try:
            yield made
        finally:
            for node in made.nodes:
                node.end()


def answers(setting: Setting) -> set[bytes]:
    """Who answers to a few clients."""
    found = set()
    for _ in range(8):
        with contextlib.suppress(OSError):
            found.add(setting.answer())
    return found


def piagent(node: Node, *words: str) -> int:
    return main([*words, "--socket", node.socket])


def test_an_endpoint_gets_traffic_until_it_goes_and_through_a_restart(
    setting: Setting, second: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = setting.node("n1").start()
    owner_of([node])
    place = f"127.0.0.1:{second.port}"
    words = ["echo", place, "--ttl", "1s", "--socket", node.socket]
    with Joining(tmp_path, *words) as joining:
        joining.until_said(1)
        wait_until(lambda: answers(setting) == {b"first", b"second"}, node.output)
        assert piagent(node, "endpoint", "list") == 0
        assert capsys.readouterr().out == f"echo  {place}  at n1\n"
        node.send(signal.SIGTERM)
        assert node.wait() == 0
        node.start()
        joining.until_said(2)
        wait_until(lambda: answers(setting) == {b"first", b"second"}, node.output)
        assert joining.stop() == 0
        assert piagent(node, "endpoint", "list") == 0
        assert capsys.readouterr().out.startswith("no endpoints")
        wait_until(lambda: answers(setting) == {b"first"}, node.output)


def test_an_endpoint_whose_process_is_killed_leaves_when_its_time_is_over(
    setting: Setting, second: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = setting.node("n1").start()
    owner_of([node])
    words = ["echo", f"127.0.0.1:{second.port}", "--ttl", "1s", "--socket", node.socket]
    with Joining(tmp_path, *words) as joining:
        joining.until_said(1)
        wait_until(lambda: answers(setting) == {b"first", b"second"}, node.output)
        joining.stop(signal.SIGKILL)

    def is_alone() -> bool:
        assert piagent(node, "endpoint", "list") == 0
        return capsys.readouterr().out.startswith("no endpoints")

    wait_until(is_alone, node.output)
    wait_until(lambda: answers(setting) == {b"first"}, node.output)


def test_a_service_is_applied_got_changed_in_conflict_and_deleted_at_any_node(
    setting: Setting, second: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"
    pool = f'[[pool]]\nname = "lan"\naddresses = ["{block}.9", "{block}.16/28"]\n'
    nodes = [setting.node(name, more=pool).start() for name in ("n1", "n2")]
    owner_of(nodes)
    setting.port = free_port()
    file = tmp_path / "late.toml"
    file.write_text(
        f"""\
[[service]]
name = "late"
type = "load-balancer"
node_ports = false
ports = [{{ port = {setting.port}, target_port = {second.port} }}]
backends = ["127.0.0.1"]
"""
    )
    assert piagent(nodes[0], "service", "apply", str(file), "--dry-run") == 0
    would = capsys.readouterr().out
    assert would == f"service/late would be created, version 1: {block}.16\n"
    assert piagent(nodes[0], "service", "apply", str(file)) == 0
    assert capsys.readouterr().out == f"service/late created, version 1: {block}.16\n"
    setting.vip = f"{block}.16"
    wait_until(lambda: answers(setting) == {b"second"}, nodes[0].output)

    wait_until(lambda: _versions(nodes[1], capsys) == {"late": 1}, nodes[1].output)
    assert piagent(nodes[1], "service", "get", "late") == 0
    got = tmp_path / "got.toml"
    got.write_text(capsys.readouterr().out)
    assert piagent(nodes[1], "service", "apply", str(got)) == 0
    assert capsys.readouterr().out == f"service/late unchanged, version 1: {block}.16\n"
    got.write_text(got.read_text().replace('["127.0.0.1"]', '["127.0.0.1", "127.0.0.2"]'))
    assert piagent(nodes[1], "service", "apply", str(got)) == 0
    assert "service/late changed, version 2" in capsys.readouterr().out
    got.write_text(got.read_text().replace(', "127.0.0.2"]', ', "127.0.0.3"]'))
    assert piagent(nodes[0], "service", "apply", str(got)) == 1
    told = capsys.readouterr().err
    assert "service/late conflict: it has version 2, not 1" in told
    assert "    +backends = " in told

    assert piagent(nodes[0], "why", "late") == 0
    assert capsys.readouterr().out.startswith("service late: applied, version 2\n")
    assert piagent(nodes[0], "pool", "list") == 0
    assert "2 of 17 used, 15 free" in capsys.readouterr().out
    assert piagent(nodes[0], "service", "delete", "echo") == 1
    assert "it is in a node's file" in capsys.readouterr().err
    assert piagent(nodes[1], "service", "delete", "late", "--if-version", "2") == 0
    assert capsys.readouterr().out == "service/late deleted\n"
    wait_until(lambda: answers(setting) == set(), nodes[0].output)
    assert piagent(nodes[0], "service", "delete", "late") == 1
    assert "service/late not-found: it is not applied" in capsys.readouterr().err


def test_what_an_applied_service_says_of_its_connections_holds(
    setting: Setting, second: Echo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vip = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}.32"
    node = setting.node("n1", more=f'[[pool]]\nname = "lan"\naddresses = ["{vip}"]\n').start()
    owner_of([node])
    port, file = free_port(), tmp_path / "late.toml"
    printed: list[str] = []  # by the commands, and by the agent: its access log
    flow = ["flow", "explain", "--src", "127.0.0.1:40000", "--dst", f"{vip}:{port}"]

    def apply(to: int, *lines: str) -> None:
        service = (
            "[[service]]", 'name = "late"', 'type = "load-balancer"', "node_ports = false",
            f"ports = [{{ port = {port}, target_port = {to} }}]", 'backends = ["127.0.0.1"]',
            'drain_timeout = "2s"', 'access_log = "-"', *lines,
        )  # fmt: skip
        file.write_text("\n".join(service))
        assert piagent(node, "service", "apply", str(file)) == 0

    def says(words: list[str], text: str) -> None:
        def said() -> bool:
            assert piagent(node, *words) == 0
            printed.append(capfd.readouterr().out)
            return text in printed[-1]

        wait_until(said, node.output)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        apply(silent.getsockname()[1])
        says(flow, f"goes to 127.0.0.1:{silent.getsockname()[1]}: maglev")
        wait_until(lambda: reachable(vip, port), node.output)
        with socket.create_connection((vip, port), timeout=20) as client:
            says(["status"], "late (load-balancer")
            apply(second.port, 'allowed_sources = ["192.0.2.0/24"]')
            says(flow, "is turned away: allowed_sources does not have 127.0.0.1")
            says(["status"], f"127.0.0.1:{silent.getsockname()[1]}  of late:{port}")
            with socket.create_connection((vip, port), timeout=20) as stranger:
                assert stranger.recv(1) == b""
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    says(["status"], "late (load-balancer")
    node.send(signal.SIGTERM)
    assert node.wait() == 0
    printed.append(capfd.readouterr().out)
    for end in ("source_not_allowed", "drained"):
        assert f'"end":"{end}"' in "".join(printed)


def reachable(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=5):
        return True
    return False


def _versions(node: Node, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """What a node lists as applied and served."""
    assert piagent(node, "service", "list", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    return {one["name"]: one["applied"] for one in said["services"] if one["applied"]}
