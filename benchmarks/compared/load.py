"""Clients and backends (load.c) under command, and what a run of them cost the proxy between."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.commanded import Commanded
from benchmarks.peers import LOAD_CPU
from benchmarks.processes import family, pinned, rss_kib, threads_ns

HERE = Path(__file__).parent
SOURCES = tuple(HERE / name for name in ("load.c", "backends.c", "clients.c"))
WARM_S = 0.15


class Ports(NamedTuple):
    """Of a proxy, or of the backends; 0: it has none."""

    echo: int = 0
    stream: int = 0
    udp: int = 0
    http: int = 0
    routes: int = 0
    """HTTP, of a gateway with many routes."""


class Proxy(NamedTuple):
    """One that is running. Two of them may be one process, differently configured."""

    address: str
    ports: Ports
    process: subprocess.Popen[bytes]


class Workload(NamedTuple):
    """What clients do; load.c says what its numbers mean."""

    kind: str
    port: str
    """The field of Ports."""
    clients: int
    pace: float
    """Requests a second, or datagrams in flight a client."""
    per: float
    """What the figures are for: how many requests, bytes or answers of datagrams."""
    request: bytes = b""
    """The HTTP request that is sent; empty: the workload is not HTTP."""


class Sample(NamedTuple):
    """One run of one workload through one proxy; "unit" is the workload's."""

    cpu_us: float
    """CPU microseconds of the proxy per unit."""
    engine_us: float
    """Of them: its busiest thread's."""
    busy: float
    """Share of the time that the proxy was on its CPU."""
    rate: float
    """Units per second."""
    p50_us: float
    p99_us: float
    lost: float
    """Share of what was asked that had no answer, for whatever reason."""
    rss_mib: float = 0.0
    """Resident memory of the proxy after the run."""


class LoadError(RuntimeError):
    """A run that shows nothing."""


class Load(Commanded):
    """The process that is both ends."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        super().__init__(process, "the load generator", LoadError)
        self._request = folder / "request"
        self.ports = Ports(*map(int, self.hear("ports", "the start")))

    def measure(self, workload: Workload, proxy: Proxy, seconds: float) -> Sample:
        """One run; the proxy is idle whenever its CPU time is read."""
        pid, port = proxy.process.pid, getattr(proxy.ports, workload.port)
        what = f"{workload.kind} {proxy.address} {port} {workload.clients} {workload.pace}"
        if workload.request:
            self._request.write_bytes(workload.request)
            what += f" {self._request}"
        self.say(f"open {what}", "ready")
        before = threads_ns(pid)
        done = self.say(f"run {seconds}", "done")
        spent = {thread: ns - before.get(thread, 0) for thread, ns in threads_ns(pid).items()}
        self.say("close", "closed")
        count, errors, passed_s = int(done[0]), int(done[1]), float(done[2])
        if count == 0 or (errors > count / 1000 and workload.port != "udp"):
            raise LoadError(f"{what}: {count} answers, {errors} errors")
        units = count / workload.per
        total_us = sum(spent.values()) / 1000
        return Sample(
            cpu_us=total_us / units,
            engine_us=max(spent.values()) / 1000 / units,
            busy=total_us / 1e6 / passed_s,
            rate=units / passed_s,
            p50_us=float(done[3]),
            p99_us=float(done[4]),
            lost=errors / (count + errors),
            rss_mib=sum(map(rss_kib, family(pid))) / 1024,
        )


def compiled(program: Path, sources: Sequence[Path]) -> None:
    """Compile C files."""
    subprocess.run(["cc", "-O2", "-o", str(program), *map(str, sources), "-lm"], check=True)


@contextlib.contextmanager
def load(folder: Path, warm_s: float = WARM_S) -> Iterator[Load]:
    """The backends, listening, and the clients, waiting for work; they use a proxy for `warm_s`
    before they measure it.
    """
    program = folder / "load"
    compiled(program, SOURCES)
    with subprocess.Popen(
        pinned(LOAD_CPU, str(program), str(warm_s)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield Load(process, folder)
        finally:
            process.terminate()
