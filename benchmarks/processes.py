"""Processes under measurement: started, waited for, their CPU time and memory read, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

WAIT_S = 15.0


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when somebody accepts there; RuntimeError when the process ended or time is up."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection((address, port), 0.2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen on {address}:{port}")


def wait_for_datagrams(port: int, process: subprocess.Popen[bytes]) -> None:
    """The same of a UDP port, at whatever address."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and process.poll() is None:
        if f":{port:04X} " in Path("/proc/net/udp").read_text():
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen on UDP port {port}")


def pinned(cpu: int, *argv: str) -> list[str]:
    """The command line that runs `argv` on one CPU only."""
    return ["taskset", "-c", str(cpu), *argv]


@contextlib.contextmanager
def running(*argv: str, cpu: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child pinned to one CPU, ended with its own children at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(  # a session each: a kernel with autogroups shares CPUs by them
            pinned(cpu, *argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in family(process.pid):  # a guardian's agent would live on for a while
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def put_first(pid: int) -> None:
    """Let a process and its children go before everything else on this machine (root only)."""
    for member in family(pid):
        for task in Path(f"/proc/{member}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), -19)
        with contextlib.suppress(FileNotFoundError):  # a kernel without
            Path(f"/proc/{member}/autogroup").write_text("-19")


def threads_ns(pid: int) -> dict[str, int]:
    """Thread -> nanoseconds on a CPU so far, of the process and of its children (schedstat)."""
    return {
        stat.parent.name: int(stat.read_text().split()[0])
        for member in family(pid)
        for stat in Path(f"/proc/{member}/task").glob("*/schedstat")
    }


def cpu_ns(pid: int) -> int:
    """Nanoseconds on a CPU so far, all threads of the process and of its children."""
    return sum(threads_ns(pid).values())


def rss_kib(pid: int) -> int:
    """Resident memory of one process, KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"no VmRSS for {pid}")
