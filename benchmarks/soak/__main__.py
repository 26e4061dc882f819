"""`python -m benchmarks.soak`: a million connections through one agent in ten minutes.

Its file changes and is reloaded every second, one of four backends fails its health checks again
and again. Ends with 0 when no connection failed or came to the backend that was down, and when
descriptors and memory did not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import LOAD_CPU, VIP, agent
from benchmarks.processes import family, free_port, pinned, rss_kib

OUT = Path("build/soak.json")
ADDRESSES = tuple(f"127.5.0.{i}" for i in range(1, 5))
INTERVAL_S, TIMEOUT_S, FALL = 0.5, 0.5, 2
UP_S, DOWN_S = 6.0, 5.0
# The last good check may be as old as an interval; then `fall` bad ones, each as late as a timeout
# and as the grid of checks allows, and a moment for the tables.
SLACK_S = INTERVAL_S * (FALL + 1) + TIMEOUT_S + 0.5
WARM = 0.25
"""Part of the run after which nothing may grow any more."""
GROWTH_MAX_KIB = 1024
"""Of memory between the medians of the second and the last quarter: less than one byte for each
connection of a long run."""
SETTLE_S = 20.0
SERVICE = """
[[service]]
name = "soak"
type = "load-balancer"
address = "{vip}"
node_ports = false
ports = [{{ port = {port}, target_port = {to} }}]
balance = "{balance}"
backends = [{backends}]
health = {{ kind = "http", port = {health}, interval = "{interval:g}s", timeout = "{timeout:g}s",
           fall = {fall}, rise = 2 }}
{other}
"""
OTHER = """
[[service]]
name = "other-{number}"
type = "load-balancer"
address = "{vip}"
sharing_key = "other"
node_ports = false
ports = [{{ port = {port}, target_port = 9 }}]
backends = ["127.0.0.1"]
"""
OTHER_VIP = "127.99.0.2"
NAMES = 8
"""Of the service that comes and goes. What left a file keeps its address for ten minutes (decision
012): new names without end would look like a leak."""
BALANCES = ("maglev", "round-robin", "least-connections", "random-two")


class Ports(NamedTuple):
    """Of the service, its backends, their checks, and of a service that comes and goes."""

    service: int
    backends: int
    health: int
    other: int


class Sample(NamedTuple):
    """Of the agent, without its guardian; descriptors without pipes."""

    passed_s: float
    rss_kib: int
    descriptors: int
    done: int


def services(ports: Ports, number: int) -> str:
    """The file's services after so many reloads: weights, policy and a second service change."""
    other = OTHER.format(vip=OTHER_VIP, port=ports.other, number=number % NAMES)
    weights = [1 + (number + index) % 3 for index in range(len(ADDRESSES))]
    listed = zip(ADDRESSES, weights, strict=True)
    return SERVICE.format(
        vip=VIP,
        port=ports.service,
        to=ports.backends,
        health=ports.health,
        interval=INTERVAL_S,
        timeout=TIMEOUT_S,
        fall=FALL,
        balance=BALANCES[number // 2 % len(BALANCES)],
        backends=", ".join(f'{{ address = "{at}", weight = {weight} }}' for at, weight in listed),
        other=other if number % 2 else "",
    )


class Words:
    """A process that prints two numbers each second; the last ones."""

    def __init__(self, module: str, *argv: object) -> None:
        command = [sys.executable, "-u", "-m", module, *map(str, argv)]
        self._process = subprocess.Popen(
            pinned(LOAD_CPU, *command), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._last = (0, 0)

    def last(self) -> tuple[int, int]:
        """What it said last. RuntimeError: it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._process.args!r} ended")
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            first, second = line.split()
            self._last = int(first), int(second)
        return self._last

    def end(self) -> None:
        """Kill it: what it still has open is reset."""
        self._process.kill()
        self._process.wait()


def _is_pipe(descriptor: Path) -> bool:
    """Whether it is one of those that streams leave for the next (memory/pipes.pxd)."""
    try:
        return str(descriptor.readlink()).startswith("pipe:")
    except FileNotFoundError:
        return True  # closed meanwhile


def sample(pid: int, began_s: float, done: int) -> Sample:
    """Look at the agent."""
    descriptors = sum(1 for fd in Path(f"/proc/{pid}/fd").iterdir() if not _is_pipe(fd))
    return Sample(time.monotonic() - began_s, rss_kib(pid), descriptors, done)


def settled(pid: int, wanted: int) -> int:
    """Descriptors when they are as few as wanted, or when there was time enough."""
    end_s = time.monotonic() + SETTLE_S
    while (found := sample(pid, 0, 0).descriptors) > wanted and time.monotonic() < end_s:
        time.sleep(0.2)
    return found


class Outcome(NamedTuple):
    """What there is to say in the end."""

    connections: int
    failed: int
    late: int
    reloads: int
    grown_kib: float
    descriptors_before: int
    descriptors_after: int
    samples: list[Sample]

    def troubles(self) -> list[str]:
        """What should not be."""
        found = []
        if self.failed:
            found.append(f"{self.failed} connections failed, or brought other bytes back")
        if self.late:
            found.append(f"{self.late} connections came to a backend that was down")
        if self.grown_kib > GROWTH_MAX_KIB:
            found.append(f"memory grew by {self.grown_kib:.0f} KiB")
        if self.descriptors_after > self.descriptors_before:
            found.append(
                f"{self.descriptors_after - self.descriptors_before} descriptors were left open"
            )
        return found


def grown(samples: list[Sample], seconds: float) -> float:
    """KiB between the second and the last quarter."""
    warm = [s.rss_kib for s in samples if WARM * seconds <= s.passed_s < 2 * WARM * seconds]
    late = [s.rss_kib for s in samples if s.passed_s >= (1 - WARM) * seconds]
    return statistics.median(late) - statistics.median(warm)


def soak(folder: Path, seconds: float, rate: float, say: Callable[[str], None]) -> Outcome:
    """The whole run."""
    ports = Ports(*(free_port() for _ in range(4)))
    file, number = folder / "piagent.toml", 0
    backends = Words(
        "benchmarks.soak.backends", ports.backends, ports.health, UP_S, DOWN_S, SLACK_S, *ADDRESSES
    )
    time.sleep(1)
    with agent(folder, services(ports, 0), ports.service) as process:
        head = file.read_text().removesuffix(services(ports, 0))
        pid = family(process.pid)[-1]
        before = _warmed_up(ports, pid)
        clients = [
            Words("benchmarks.soak.clients", VIP, ports.service, rate / 2, i) for i in range(2)
        ]
        samples: list[Sample] = []
        began_s = time.monotonic()
        try:
            while time.monotonic() - began_s < seconds:
                time.sleep(1)
                number += 1
                file.write_text(head + services(ports, number))
                process.send_signal(signal.SIGHUP)
                done = [one.last() for one in clients]
                samples.append(sample(pid, began_s, sum(d[0] for d in done)))
                if number % 10 == 0:
                    say(_progress(samples[-1], sum(d[1] for d in done), backends.last()[1]))
        finally:
            for one in clients:
                one.end()
        after = settled(pid, before)
        late = backends.last()[1]
        backends.end()
    return Outcome(
        connections=samples[-1].done,
        failed=sum(d[1] for d in done),
        late=late,
        reloads=number,
        grown_kib=grown(samples, seconds),
        descriptors_before=before,
        descriptors_after=after,
        samples=samples,
    )


def _warmed_up(ports: Ports, pid: int) -> int:
    """Descriptors of the idle agent, once it has had connections."""
    clients = Words("benchmarks.soak.clients", VIP, ports.service, 300, 9)
    time.sleep(4)
    clients.end()
    time.sleep(2)
    return sample(pid, 0, 0).descriptors


def _progress(now: Sample, failed: int, late: int) -> str:
    return (
        f"  {now.passed_s:4.0f} s: {now.done} connections, {failed} failed, {late} late,"
        f" {now.rss_kib / 1024:.1f} MiB, {now.descriptors} descriptors"
    )


def main(given: list[str] | None = None) -> int:
    """Run, and say what was found."""
    parser = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=1750.0, help="connections a second; 1750")
    parser.add_argument("--out", type=Path, default=OUT, help=f"for every sample; {OUT}")
    args = parser.parse_args(given)

    def say(text: str) -> None:
        print(text, flush=True)

    with tempfile.TemporaryDirectory(prefix="piagent-soak-") as folder:
        found = soak(Path(folder), args.seconds, args.rate, say)
    say(
        f"{found.connections} connections, {found.reloads} reloads: {found.failed} failed,"
        f" {found.late} to a backend that was down, memory {found.grown_kib:+.0f} KiB,"
        f" descriptors {found.descriptors_before} -> {found.descriptors_after}"
    )
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(found._asdict(), indent=1))
    for trouble in found.troubles():
        say(f"soak: {trouble}")
    return 1 if found.troubles() else 0


if __name__ == "__main__":
    sys.exit(main())
