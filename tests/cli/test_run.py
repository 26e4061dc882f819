"""`piagent run` as real processes on loopback: a real Mosquitto, real engine, no privileges."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from piagent.admin.client import AskError, ask
from piagent.admin.status import Status, VipStatus
from tests.mosquitto import WHY_NOT, Mosquitto
from tests.net import free_port
from tests.prometheus import parse
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
    pytest.mark.skipif(
        not list((ROOT / "fastpath").glob("engine.*.so")), reason="the engine is not built"
    ),
]


class Node:
    """One agent process with its file."""

    def __init__(self, folder: Path, name: str, text: str) -> None:
        self.name = name
        self.file = folder / f"{name}.toml"
        self.socket = str(folder / f"{name}.sock")
        self.log = folder / f"{name}.log"
        self.file.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, environment: dict[str, str] | None = None, *, prefix: Sequence[str] = ()
    ) -> Node:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "piagent.cli", "run", "-c", str(self.file)],
                cwd=ROOT,
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        return self

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)

    @property
    def agent(self) -> int:
        """The process id of the agent, the guardian's child."""
        (child,) = self._children()
        return child

    def kill(self) -> None:
        """SIGKILL to guardian and agent at once, so that nobody is left to tell anybody."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # Stopped, or ended: from now on it starts no agent.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for child in self._children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def _children(self) -> list[int]:
        assert self.process is not None
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def status(self) -> Status | None:
        try:
            return ask(self.socket, "/api/v1/status", Status)
        except AskError:
            return None

    def vip(self) -> VipStatus | None:
        status = self.status()
        return status.vips[0] if status and status.vips else None

    def owns(self) -> bool:
        vip = self.vip()
        return vip is not None and vip.state == "owner"

    def await_output(self, text: str) -> None:
        wait_until(lambda: text in self.output(), lambda: f"{text!r} in {self.output()}")


class Setting:
    """A broker, a backend that answers with its name, and nodes of one cluster."""

    def __init__(self, folder: Path, broker: Mosquitto, backend_port: int) -> None:
        self.folder = folder
        self.broker = broker
        self.backend_port = backend_port
        # A loopback address of this test run alone.
        self.vip = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}.9"
        self.port = free_port()
        self.nodes: list[Node] = []
        secret = folder / "secret"
        secret.write_text("a secret for tests, long enough\n")
        secret.chmod(0o600)

    def node(self, name: str, more: str = "", **changes: str) -> Node:
        text = f"""\
[node]
name = "{name}"
interface = "lo"
workers = 1
[cluster]
name = "test"
secret_file = "{changes.get("secret", self.folder / "secret")}"
[mqtt]
brokers = ["mqtt://127.0.0.1:{changes.get("broker", self.broker.port)}"]
[election]
profile = "fast"
[admin]
socket = "{self.folder / name}.sock"
[[service]]
name = "echo"
type = "load-balancer"
address = "{self.vip}"
node_ports = false
ports = [{{ port = {changes.get("port", self.port)}, target_port = {self.backend_port} }}]
backends = ["127.0.0.1"]
health = {{ kind = "tcp", interval = "200ms", timeout = "150ms", rise = 1, fall = 2 }}
{more}"""
        made = Node(self.folder, name, text)
        self.nodes.append(made)
        return made

    def answer(self) -> bytes:
        with socket.create_connection((self.vip, self.port), timeout=5) as client:
            return client.recv(100)


@pytest.fixture
def backend_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(b"hello")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.fixture
def setting(tmp_path: Path, backend_port: int) -> Iterator[Setting]:
    with Mosquitto() as broker:
        made = Setting(tmp_path, broker, backend_port)
        try:
            yield made
        finally:
            for node in made.nodes:
                node.end()


def owner_of(nodes: list[Node]) -> Node:
    wait_until(
        lambda: sum(node.owns() for node in nodes) == 1,
        lambda: "one owner:\n" + "\n".join(node.output() for node in nodes),
    )
    return next(node for node in nodes if node.owns())


def test_vip_is_served_and_survives_the_kill_and_the_stop_of_its_owner(setting: Setting) -> None:
    nodes = [setting.node(name).start() for name in ("n1", "n2", "n3")]
    first = owner_of(nodes)
    assert setting.answer() == b"hello"
    first.kill()
    rest = [node for node in nodes if node is not first]
    second = owner_of(rest)
    assert setting.answer() == b"hello"
    second.send(signal.SIGTERM)
    assert second.wait() == 0
    (last,) = [node for node in rest if node is not second]
    assert owner_of([last]) is last
    assert setting.answer() == b"hello"
    vip = last.vip()
    assert vip is not None
    assert vip.reason == "yielded"
    assert "reason=stopping" in second.output()


def test_start_to_ready_and_notification_of_the_service_manager(setting: Setting) -> None:
    path = str(setting.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(30)
        node = setting.node("n1").start({"NOTIFY_SOCKET": path})
        assert manager.recv(1000).startswith(b"READY=1")
        wait_until(lambda: bool((status := node.status()) and status.ready), node.output)
        node.send(signal.SIGHUP)
        assert manager.recv(1000).startswith(b"RELOADING=1")
        assert manager.recv(1000).startswith(b"READY=1")
        node.send(signal.SIGTERM)
        assert manager.recv(1000).startswith(b"STOPPING=1")
        assert node.wait() == 0


def test_idle_agent_stays_within_its_memory(setting: Setting) -> None:
    node = setting.node("n1").start()
    owner_of([node])
    assert node.process is not None
    assert _resident_kib(node.agent) <= 45 * 1024
    # Half a MiB more than it is to have: the first run compiles it.
    assert _resident_kib(node.process.pid) <= 10.5 * 1024


def _resident_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (resident_kib,) = re.findall(r"(?m)^Rss: +(\d+) kB$", rollup)
    return int(resident_kib)


def test_unreachable_broker_is_said_once_and_shown(setting: Setting) -> None:
    node = setting.node("n1", broker=str(free_port())).start()
    node.await_output("broker b1")
    time.sleep(1.5)
    status = node.status()
    assert status is not None
    assert not status.ready
    (broker,) = status.brokers
    assert not broker.up
    assert "refused" in broker.reason.lower()
    assert sum("broker b1" in line for line in node.output().splitlines()) == 1
    node.send(signal.SIGTERM)
    assert node.wait() == 0


def test_port_in_use_costs_the_loopback_vip_and_nothing_else(setting: Setting) -> None:
    with socket.create_server((setting.vip, 0)) as taken:
        node = setting.node("n1", port=str(taken.getsockname()[1])).start()
        node.await_output("others may own it")
    assert f"cannot listen on {setting.vip}" in node.output()
    assert not node.owns()
    owner_of([node])  # the next try succeeds: the port is free now
    node.send(signal.SIGINT)
    assert node.wait() == 0


def test_wrong_file_is_exit_code_2_with_every_problem(setting: Setting) -> None:
    node = setting.node("n1", more="[nonsense]\n[[rout]]\n").start()
    assert node.wait() == 2
    assert "nonsense" in node.output()
    assert "rout" in node.output()


def test_second_agent_on_one_socket_is_exit_code_1(setting: Setting) -> None:
    node = setting.node("n1").start()
    wait_until(lambda: node.status() is not None, node.output)
    second = Node(setting.folder, "second", node.file.read_text()).start()
    setting.nodes.append(second)
    assert second.wait() == 1
    assert "another agent is running" in second.output()
    assert node.status() is not None


def test_second_signal_ends_the_drain(setting: Setting) -> None:
    node = setting.node("n1").start()
    owner_of([node])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        moved = node.file.read_text().replace(
            f"target_port = {setting.backend_port}", f"target_port = {silent.getsockname()[1]}"
        )
        node.file.write_text(moved)
        node.send(signal.SIGHUP)
        node.await_output("reload: done")
        with socket.create_connection((setting.vip, setting.port), timeout=5):
            upstream, _ = silent.accept()
            node.send(signal.SIGTERM)
            node.await_output("released")
            time.sleep(0.5)
            assert node.process is not None
            assert node.process.poll() is None, "it waits for the open connection"
            node.send(signal.SIGTERM)
            started = time.monotonic()
            assert node.wait() == 0
            assert time.monotonic() - started < 8
            upstream.close()


def test_majority_of_brokers_is_enough(setting: Setting) -> None:
    with Mosquitto() as second, Mosquitto() as third:
        nodes = [setting.node(name) for name in ("n1", "n2")]
        ports = (setting.broker.port, second.port, third.port)
        brokers = ", ".join(f'"mqtt://127.0.0.1:{port}"' for port in ports)
        for node in nodes:
            text = node.file.read_text()
            node.file.write_text(text.replace(f'"mqtt://127.0.0.1:{setting.broker.port}"', brokers))
            node.start()
        owner = owner_of(nodes)
        second.kill()
        time.sleep(2)
        assert owner.owns()
        status = owner.status()
        assert status is not None
        assert status.ready
        assert [broker.up for broker in status.brokers] == [True, False, True]
        third.kill()
        wait_until(lambda: not owner.owns(), owner.output)
        assert "reason=lease-ran-out" in owner.output()
        second.start()
        third.start()
        owner_of(nodes)


def test_embedded_broker_outlives_the_yield_and_nothing_else(setting: Setting) -> None:
    port = free_port()
    node = setting.node("n1", broker=str(port))
    text = node.file.read_text()
    node.file.write_text(text.replace("[election]", f'embedded = "127.0.0.1:{port}"\n[election]'))
    node.start()
    other = setting.node("n2", broker=str(port)).start()
    owner_of([node, other])
    for stopped in (other, node):
        assert stopped.process is not None
        stopped.send(signal.SIGINT)
        assert stopped.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    assert "ERROR" not in node.output()


def test_more_connections_than_descriptors_cost_nobody_but_themselves(setting: Setting) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=500) as silent:
        setting.backend_port = silent.getsockname()[1]
        node = setting.node("n1").start(prefix=["prlimit", "--nofile=256"])
        owner_of([node])
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection((setting.vip, setting.port), 10))
                for _ in range(400)
            ]
            wait_until(lambda: sum(map(_is_closed, clients)) >= 200, lambda: "most are turned away")
            assert not all(map(_is_closed, clients)), "some are served"
            time.sleep(1.5)  # longer than a lease
            assert node.owns()
            metrics = _metrics(node)
            assert metrics["piagent_rejected_total", "capacity"] >= 200
        silent.close()

        def served() -> bool:
            with socket.create_server(("127.0.0.1", setting.backend_port)) as backend:
                backend.settimeout(0.5)
                with socket.create_connection((setting.vip, setting.port), 10):
                    try:
                        backend.accept()[0].close()
                    except TimeoutError:
                        return False
            return True

        wait_until(served, node.output)
    node.send(signal.SIGTERM)
    assert node.wait() == 0


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _metrics(node: Node) -> dict[tuple[str, str], float]:
    """(name, value of the only label) -> value."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(node.socket)
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    families = parse(answer.partition(b"\r\n\r\n")[2])
    return {
        (name, labels[0][1]): value
        for family in families.values()
        for (name, labels), value in family.samples.items()
        if len(labels) == 1
    }


def test_no_secret_reaches_the_log(setting: Setting) -> None:
    node = setting.node("n1").start()
    owner_of([node])
    node.send(signal.SIGHUP)
    node.await_output("reload: done")
    node.send(signal.SIGTERM)
    node.wait()
    assert "a secret for tests" not in node.output()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_users_of_a_file_may_ask_and_a_reload_reads_it_again(setting: Setting) -> None:
    users, hashed = (
        setting.folder / "users",
        "abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
    )
    users.write_text(f"alice:$2y$04${hashed}\n")
    users.chmod(0o600)
    more = f"""\
[[gateway]]
name = "web"
address = "{setting.vip.removesuffix(".9")}.10"
listen = [{{ port = {setting.port} }}]
[[route]]
name = "family"
gateway = "web"
filters = [{{ basic_auth = {{ users_file = "users" }} }}, {{ respond = {{ status = 200 }} }}]
"""
    node = setting.node("solo", more).start()

    def asks(who: str) -> bytes:
        url = f"http://{setting.vip.removesuffix('.9')}.10:{setting.port}/"
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-u", who, url]
        return subprocess.run(command, capture_output=True, check=False, timeout=20).stdout

    wait_until(lambda: asks("alice:secret") == b"200", node.output)
    assert asks("alice:wrong") == asks("bob:secret") == b"401"
    users.write_text(f"bob:$2b$04${hashed}\n")
    node.send(signal.SIGHUP)
    wait_until(lambda: asks("bob:secret") == b"200", node.output)
    assert asks("alice:secret") == b"401"
    # A file that cannot be changes nothing.
    users.write_text("bob:secret\n")
    node.send(signal.SIGHUP)
    node.await_output("line 1: what stands for the hash is none of")
    assert asks("bob:secret") == b"200"
    assert not any(text in node.output() for text in (hashed, "secret\n", "bob:"))
