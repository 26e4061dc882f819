"""`python -m benchmarks.l4.held`: what connections cost that nobody uses.

Opens 8,000 connections through the agent and through HAProxy, lets each carry a request, and then
watches: memory of the process for each of them, and CPU time while nothing happens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.compared.load import Ports, Proxy, load
from benchmarks.l4.proxies import proxies
from benchmarks.peers import VIP, agent
from benchmarks.processes import cpu_ns, family, free_port, rss_kib

OUT = Path("build/bench-held.json")
CONNECTIONS = 8000
HAPROXY_MAX = 4000  # its maxconn in proxies.py
DESCRIPTORS = 20_000
REQUEST_SIZE = 100
# Without UDP, for whose sessions it would keep some of the 20,000 descriptors that there are.
SERVICE = """
[[service]]
name = "bench"
type = "load-balancer"
address = "{address}"
node_ports = false
backends = ["127.2.1.1", "127.2.1.2"]
ports = [{{ port = {port}, target_port = {to} }}]
"""
SETTLE_S = 3.0
"""After the connections are there, before anything is measured."""


class Held(NamedTuple):
    """What it cost."""

    connections: int
    bytes_each: float
    """Of the process's resident memory, by what it grew with them."""
    cpu_percent: float
    """Of one core, while they were idle."""
    cpu_percent_without: float
    """The same before there were any."""


def _rss_bytes(proxy: Proxy) -> int:
    return sum(map(rss_kib, family(proxy.process.pid))) * 1024


def _cpu_percent(proxy: Proxy, seconds: float) -> float:
    before, began = cpu_ns(proxy.process.pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_ns(proxy.process.pid) - before) / (time.monotonic() - began) / 1e7


def _ask(connection: socket.socket) -> None:
    """One request and its answer (backends.c)."""
    connection.sendall(bytes(REQUEST_SIZE))
    left = REQUEST_SIZE
    while left > 0:
        got = len(connection.recv(left))
        if got == 0:
            raise RuntimeError("a connection that should be held was closed")
        left -= got


@contextlib.contextmanager
def _connections(proxy: Proxy, n: int) -> Iterator[None]:
    """So many, each of which has carried something; more than one port's worth of addresses."""
    opened: list[socket.socket] = []
    try:
        for number in range(n):
            source = (f"127.3.0.{1 + number % 4}", 0)
            opened.append(socket.create_connection((proxy.address, proxy.ports.echo), 10, source))
            _ask(opened[-1])
        yield
        for one in opened:
            _ask(one)
    finally:
        for one in opened:
            one.close()


@contextlib.contextmanager
def _piagent(folder: Path, to: Ports) -> Iterator[Proxy]:
    port = free_port()
    with agent(folder, SERVICE.format(address=VIP, port=port, to=to.echo), port) as process:
        yield Proxy(VIP, Ports(port, 0, 0), process)


@contextlib.contextmanager
def _haproxy(folder: Path, to: Ports) -> Iterator[Proxy]:
    with proxies(folder, to) as found:
        yield found["haproxy"]


def measure(proxy: Proxy, n: int, seconds: float) -> Held:
    """Of one proxy."""
    with _connections(proxy, 20):
        time.sleep(SETTLE_S)
    without = _cpu_percent(proxy, seconds)
    before = _rss_bytes(proxy)
    with _connections(proxy, n):
        time.sleep(SETTLE_S)
        busy = _cpu_percent(proxy, seconds)
        grown = _rss_bytes(proxy) - before
    return Held(n, grown / n, busy, without)


PEERS = {"piagent": _piagent, "haproxy": _haproxy}


def main(given: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.l4.held", description=__doc__)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to watch; 30")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(given)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    found: dict[str, Held] = {}
    with (
        tempfile.TemporaryDirectory(prefix="piagent-bench-") as name,
        load(Path(name)) as both_ends,
    ):
        for peer, start in PEERS.items():
            n = min(args.connections, HAPROXY_MAX) if peer == "haproxy" else args.connections
            folder = Path(name, peer)
            folder.mkdir()
            with start(folder, both_ends.ports) as proxy:
                found[peer] = measure(proxy, n, args.seconds)
            print(
                f"{peer}: {n} idle connections, {found[peer].bytes_each:.0f} bytes each,"
                f" {found[peer].cpu_percent:.2f} % of a core"
                f" (without them {found[peer].cpu_percent_without:.2f} %)",
                flush=True,
            )
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(
        json.dumps({peer: held._asdict() for peer, held in found.items()}, indent=1)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
