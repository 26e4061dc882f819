"""CPU time per request of the serving process, beside nginx and HAProxy."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import LOAD_CPU, PEERS, Ports, Target
from benchmarks.processes import cpu_ns, free_port, pinned, running, wait_for_port
from benchmarks.tables import table

REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
REQUEST = (
    b"GET /index.html?a=1 HTTP/1.1\r\nHost: www.bench\r\nUser-Agent: load/1\r\n"
    b"Accept: text/html,*/*\r\nAccept-Language: en\r\nCookie: session=0123456789abcdef\r\n\r\n"
)


class Kind(NamedTuple):
    """One comparison."""

    title: str
    http: bool
    kept: bool


KINDS = (
    Kind("HTTP request, kept connections", http=True, kept=True),
    Kind("HTTP request, new connection each", http=True, kept=False),
    Kind("TCP 100-byte request, kept connections", http=False, kept=True),
    Kind("TCP connect, request, close", http=False, kept=False),
)


class Sample(NamedTuple):
    """One run."""

    cpu_us: float
    """CPU microseconds of the proxy per request."""
    rate: float
    """Requests per second."""
    p99_us: float


@contextlib.contextmanager
def backends(folder: Path, load: Path) -> Iterator[tuple[int, int]]:
    """The HTTP and the TCP backend; their ports."""
    (folder / "reply").write_bytes(REPLY)
    http, tcp = free_port(), free_port()
    log = folder / "backend.log"
    with (
        running(str(load), "serve", str(http), str(folder / "reply"), cpu=LOAD_CPU, log=log) as one,
        running(str(load), "serve", str(tcp), "echo", cpu=LOAD_CPU, log=log) as other,
    ):
        wait_for_port("127.0.0.1", http, one)
        wait_for_port("127.0.0.1", tcp, other)
        yield http, tcp


def build_load(folder: Path) -> Path:
    """Compile the load generator."""
    load = folder / "load"
    source = Path(__file__).with_name("load.c")
    subprocess.run(["cc", "-O2", "-o", str(load), str(source)], check=True)
    return load


class Plan(NamedTuple):
    """How long and how hard."""

    runs: int
    seconds: float
    connections: int


def run_once(load: Path, folder: Path, kind: Kind, target: Target, plan: Plan) -> Sample:
    """Ask for some seconds and see what it cost the proxy."""
    request = folder / ("request.http" if kind.http else "request.tcp")
    request.write_bytes(REQUEST if kind.http else b"x" * 100)
    port = target.http_port if kind.http else target.tcp_port
    before = cpu_ns(target.process.pid)
    out = subprocess.run(
        pinned(
            LOAD_CPU, str(load), "ask", target.address, str(port), str(request),
            str(plan.connections), str(plan.seconds), "kept" if kind.kept else "new",
        ),
        check=True, capture_output=True, text=True, timeout=plan.seconds + 30,
    ).stdout.split()  # fmt: skip
    spent = cpu_ns(target.process.pid) - before
    requests, errors = int(out[0]), int(out[1])
    if requests == 0 or errors > requests / 1000:
        raise RuntimeError(
            f"{target.log.stem}: {kind.title}: {requests} answers, {errors} errors; "
            f"its log ends with:\n{target.log.read_text()[-2000:]}"
        )
    return Sample(spent / 1000 / requests, requests / float(out[2]), float(out[4]))


def compare(
    folder: Path, plan: Plan, say: Callable[[str], None]
) -> dict[str, dict[str, list[Sample]]]:
    """Every kind on every proxy, alternating, all proxies up at the same time."""
    load = build_load(folder)
    results: dict[str, dict[str, list[Sample]]] = {}
    with contextlib.ExitStack() as stack:
        http, tcp = stack.enter_context(backends(folder, load))
        targets = {}
        for name, peer in PEERS.items():
            ports = Ports(free_port(), free_port(), http, tcp)
            targets[name] = stack.enter_context(peer(folder, ports))
        for kind in KINDS:
            samples = results[kind.title] = {name: [] for name in targets}
            for number in range(plan.runs):
                for name, target in targets.items():
                    samples[name].append(run_once(load, folder, kind, target, plan))
                done = ", ".join(f"{name} {s[-1].cpu_us:.1f}" for name, s in samples.items())
                say(f"  {kind.title}, run {number + 1}: {done} us")
    return results


def medians(samples: dict[str, list[Sample]]) -> dict[str, Sample]:
    """Proxy -> the median of each figure; they may come from different runs."""
    return {
        name: Sample(*(statistics.median(figures) for figures in zip(*runs, strict=True)))
        for name, runs in samples.items()
    }


def report(results: dict[str, dict[str, list[Sample]]]) -> str:
    """Medians of the CPU time, and piagent's ratio to the better peer."""
    rows = []
    for title, samples in results.items():
        cpu_us = {name: median.cpu_us for name, median in medians(samples).items()}
        best = min(value for name, value in cpu_us.items() if name != "piagent")
        cells = [f"{cpu_us[name]:.1f}" for name in PEERS]
        rows.append([title, *cells, f"{cpu_us['piagent'] / best:.2f}"])
    return table(["CPU us per", *PEERS, "piagent / better peer"], rows)
