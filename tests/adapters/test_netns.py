"""The lab's network itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.adapters import netns

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network("pa-test") as built:
        yield built


def answer(server: netns.Host, client: netns.Host, address: str, family: int) -> bytes:
    """One UDP datagram from the client to the server and back."""
    with server.entered():
        here = socket.socket(family, socket.SOCK_DGRAM)
    with client.entered():
        there = socket.socket(family, socket.SOCK_DGRAM)
    with here, there:
        here.bind((address, 0))
        here.settimeout(2)
        there.settimeout(2)
        there.sendto(b"ping", (address, here.getsockname()[1]))
        _, sender = here.recvfrom(16)
        here.sendto(b"pong", sender)
        return there.recv(16)


def test_hosts_reach_each_other_over_the_bridge_and_this_host_sees_none_of_it(
    network: netns.Network,
) -> None:
    before = socket.if_nameindex()
    a = network.add_host("a", "10.9.0.1/24", "fd09::1/64")
    b = network.add_host("b", "10.9.0.2/24", "fd09::2/64")
    assert answer(a, b, "10.9.0.1", socket.AF_INET) == b"pong"
    assert answer(b, a, "fd09::2", socket.AF_INET6) == b"pong"
    assert socket.if_nameindex() == before


def test_a_pulled_cable_cuts_a_host_off_until_it_is_plugged_in_again(
    network: netns.Network,
) -> None:
    a = network.add_host("a", "10.9.0.1/24")
    b = network.add_host("b", "10.9.0.2/24")
    assert answer(a, b, "10.9.0.1", socket.AF_INET) == b"pong"
    a.pull_cable()
    with pytest.raises(OSError, match=r"timed out|unreachable"):
        answer(b, a, "10.9.0.2", socket.AF_INET)
    a.plug_cable()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert answer(b, a, "10.9.0.2", socket.AF_INET) == b"pong"
            break
        except OSError:
            assert time.monotonic() < deadline


def test_a_command_runs_inside_and_keeps_its_process_id(network: netns.Network) -> None:
    host = network.add_host("a", "10.9.0.1/24")
    with subprocess.Popen(host.command(SLEEP)) as process:
        deadline = time.monotonic() + 10
        while process.pid not in host.processes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()


def test_closing_ends_the_processes_inside_and_removes_every_name() -> None:
    with netns.Network("pa-test") as network:
        host = network.add_host("a", "10.9.0.1/24")
        process = subprocess.Popen(host.command(SLEEP))
        deadline = time.monotonic() + 10
        while process.pid not in host.processes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert process.wait(timeout=5) == -9
    assert not list(Path("/run/netns").glob(f"pa-test-{os.getpid()}-*"))


def test_a_later_run_removes_what_a_killed_one_left() -> None:
    script = (
        "import os, signal, subprocess\n"
        "from piagent.adapters import netns\n"
        "QUIET = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "network = netns.Network('pa-test-crash').__enter__()\n"
        "host = network.add_host('a', '10.9.0.1/24')\n"
        f"child = subprocess.Popen(host.command({SLEEP!r}), **QUIET)\n"
        "while child.pid not in host.processes(): pass\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    orphan = int(killed.stdout)
    assert list(Path("/run/netns").glob("pa-test-crash-*"))
    netns.clean_up("pa-test-crash")
    assert not list(Path("/run/netns").glob("pa-test-crash-*"))
    status = Path(f"/proc/{orphan}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()
