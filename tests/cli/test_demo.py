"""The demo runs whole, says what it measured, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETNS = Path("/run/netns")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def demo(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "piagent.cli", "demo", *args],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def leftovers() -> tuple[set[str], set[str], set[str]]:
    """Namespaces, demo folders and demo processes that exist now."""
    spaces = {p.name for p in NETNS.glob("piagent-demo-*")}
    folders = {p.name for p in Path(tempfile.gettempdir()).glob("piagent-demo-*")}
    processes = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if "piagent-demo-" in line or "piagent.cli.demo" in line:
            processes.add(line)
    return spaces, folders, processes


def check_tour(*args: str) -> None:
    before = leftovers()
    done = demo("--once", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"GET http://api\.demo/v1/x +-> 200 backend-[12] ", done.stdout)
    assert re.search(r"GET http://www\.demo/ +-> 200 backend-3 ", done.stdout)
    gap = re.search(r"failover gap: (\d+) ms", done.stdout)
    assert gap is not None, done.stdout
    killed = re.search(r"(pi-\d) owns .*SIGKILL", done.stdout)
    new = re.search(r"answers again from (pi-\d)", done.stdout)
    assert killed is not None
    assert new is not None
    assert killed[1] != new[1]
    assert leftovers() == before


def test_the_tour_on_loopback_shows_routing_balancing_and_a_failover_and_leaves_nothing() -> None:
    check_tour("--loopback")


@needs_root
def test_the_tour_in_namespaces_moves_a_real_vip_and_leaves_nothing() -> None:
    check_tour()


def test_ctrl_c_ends_the_demo_and_leaves_nothing() -> None:
    before = leftovers()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "piagent.cli", "demo", "--loopback"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "Ctrl-C" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(30) == 0, rest
    assert leftovers() == before


def test_a_wrong_number_of_nodes_is_refused() -> None:
    done = demo("--nodes", "1")
    assert done.returncode == 2
    assert "--nodes" in done.stderr
