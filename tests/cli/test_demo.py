"""The demo runs whole, says what it measured, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from piagent.adapters import netns

ROOT = Path(__file__).parents[2]
NETNS = Path("/run/netns")
END_S = 15.0

needs_root = pytest.mark.skipif(netns.why_not() is not None, reason=str(netns.why_not()))


class Demo:
    """A running demo. All its processes carry a mark, so that no other demo is mistaken for it."""

    def __init__(self, *args: str, before: tuple[str, ...] = ()) -> None:
        self._mark = f"PIAGENT_TEST_DEMO={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [*before, sys.executable, "-u", "-m", "piagent.cli", "demo", *args],
            cwd=ROOT, env=os.environ | {name: value}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.said = ""

    def until(self, text: str) -> None:
        """Read on until a line has this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return
        pytest.fail(f"no {text!r} in:\n{self.said}")

    def end(self, *signals: signal.Signals) -> int:
        """Send the signals, read what is still said; the exit code."""
        for signum in signals:
            self.process.send_signal(signum)
            time.sleep(0.02)
        self.said += self.process.communicate(timeout=100)[0]
        return self.process.returncode

    def processes(self) -> dict[int, str]:
        """The command lines of what runs of it, by process id."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes()
                    found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # ended meanwhile
        return {pid: line for pid, line in found.items() if line}  # a zombie has none

    def names(self) -> list[str]:
        """Its network namespaces and temporary folders."""
        places = (NETNS, Path(tempfile.gettempdir()))
        pattern = f"piagent-demo-{self.process.pid}-*"
        return [str(path) for place in places for path in place.glob(pattern)]


@contextmanager
def running(*args: str, before: tuple[str, ...] = ()) -> Iterator[Demo]:
    demo = Demo(*args, before=before)
    try:
        yield demo
    finally:
        demo.process.kill()
        demo.process.communicate()


def check_tour(*args: str) -> None:
    with running("--once", *args) as demo:
        assert demo.end() == 0, demo.said
        said = demo.said
    assert re.search(r"GET http://api\.demo/v1/x +-> 200 backend-[12] ", said)
    assert re.search(r"GET http://www\.demo/ +-> 200 backend-3 ", said)
    gap = re.search(r"failover gap: (\d+) ms", said)
    assert gap is not None, said
    killed = re.search(r"(pi-\d) owns .*SIGKILL", said)
    new = re.search(r"answers again from (pi-\d)", said)
    assert killed is not None
    assert new is not None
    assert killed[1] != new[1]
    assert demo.processes() == {}
    assert demo.names() == []


def test_the_tour_on_loopback_shows_routing_balancing_and_a_failover_and_leaves_nothing() -> None:
    check_tour("--loopback")


@needs_root
def test_the_tour_in_namespaces_moves_a_real_vip_and_leaves_nothing() -> None:
    check_tour()


@needs_root
def test_root_in_a_container_without_its_powers_gets_loopback_addresses_and_the_reason() -> None:
    powerless = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    with running(before=powerless) as demo:
        demo.until("Ctrl-C")
        assert demo.end(signal.SIGINT) == 0, demo.said
        assert demo.said.startswith("loopback addresses (network namespaces do not work here: ")


def test_ports_that_others_use_on_every_address_do_not_stop_the_loopback_demo() -> None:
    with ExitStack() as stack:
        for port in (8080, 7000, 1883):
            try:
                stack.enter_context(socket.create_server(("0.0.0.0", port)))
            except OSError:
                continue  # somebody has it already: as well
        with running("--loopback", "--nodes", "2") as demo:
            demo.until("Ctrl-C")
            assert demo.end(signal.SIGINT) == 0, demo.said


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_leaves_nothing(signum: signal.Signals) -> None:
    with running("--loopback") as demo:
        demo.until("Ctrl-C")
        assert demo.end(signum) == 0, demo.said
        assert demo.said.endswith("stopping\n")
        assert demo.processes() == {}
        assert demo.names() == []


@pytest.mark.parametrize("moment", ["a broker", "agents", "Ctrl-C"])
@pytest.mark.parametrize(
    "site", ["--loopback", pytest.param("--nodes=3", marks=needs_root, id="namespaces")]
)
def test_ctrl_c_pressed_again_and_again_at_any_moment_leaves_nothing(
    site: str, moment: str
) -> None:
    with running(site) as demo:
        demo.until(moment)
        code = demo.end(*[signal.SIGINT] * 4)
        # The last one may come after the demo's end, or after the interpreter's.
        assert code in {0, 130, -signal.SIGINT}, demo.said
        assert "Traceback" not in demo.said
        assert demo.processes() == {}
        assert demo.names() == []


def test_ctrl_c_pressed_again_ends_agents_that_hang() -> None:
    with running("--loopback") as demo:
        demo.until("Ctrl-C")
        running_agent = re.compile(r"\S+ -m piagent\.cli run ")
        agents = [pid for pid, line in demo.processes().items() if running_agent.match(line)]
        assert len(agents) == 3
        for agent in agents:
            os.kill(agent, signal.SIGSTOP)
        demo.process.send_signal(signal.SIGINT)
        demo.until("stopping")
        assert demo.end(signal.SIGINT) == 0, demo.said
        left = demo.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == {}


def test_a_tour_that_is_broken_off_is_no_success() -> None:
    with running("--loopback", "--once") as demo:
        demo.until("HTTP, by host and by path")
        assert demo.end(signal.SIGINT) == 130, demo.said


@pytest.mark.parametrize(
    "site", ["--loopback", pytest.param("--nodes=3", marks=needs_root, id="namespaces")]
)
def test_a_killed_demo_takes_its_processes_along_and_the_next_one_removes_the_rest(
    site: str,
) -> None:
    with running(site) as killed:
        killed.until("Ctrl-C")
        killed.end(signal.SIGKILL)
        deadline = time.monotonic() + END_S
        while left := killed.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.02)
        assert killed.names()
    with running(site) as following:
        following.until("agents")
        assert killed.names() == []
        following.end(signal.SIGINT)
        assert following.names() == []


def test_the_demo_says_what_ends_and_who_owns_the_vip_then() -> None:
    with running("--loopback") as demo:
        demo.until("Ctrl-C")
        found = re.search(r"^(pi-\d) owns .*?kill -9 (\d+)$", demo.said, re.DOTALL | re.MULTILINE)
        assert found is not None, demo.said
        os.kill(int(found[2]), signal.SIGKILL)
        demo.until(f"{found[1]} has ended")
        demo.until("owns the VIP (process")
        assert f"\n{found[1]} owns the VIP (process" not in demo.said
        assert demo.end(signal.SIGINT) == 0


def test_the_commands_that_the_demo_prints_work_from_any_folder() -> None:
    with running("--loopback") as demo:
        demo.until("Ctrl-C")
        for label, answer in (("HTTP by host and path", "backend-"), ("the cluster", "owner pi-")):
            command = re.search(rf"{label}  +(\S.*)", demo.said)
            assert command is not None, demo.said
            if command[1].startswith("curl") and not Path("/usr/bin/curl").exists():
                continue
            done = subprocess.run(
                command[1], shell=True, cwd="/", capture_output=True, text=True,
                timeout=30, check=True,
            )  # fmt: skip
            assert answer in done.stdout


def test_a_wrong_number_of_nodes_is_refused() -> None:
    for number in ("1", "10"):
        with running("--nodes", number) as demo:
            assert demo.end() == 2
            assert "--nodes" in demo.said
