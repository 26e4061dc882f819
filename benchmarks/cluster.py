"""The agent and its guardian: start to ready, memory, failover gaps in the demo's cluster."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import rss_kib
from benchmarks.tables import table
from piagent.cli.demo.client import Client, Probe
from piagent.cli.demo.cluster import Cluster
from piagent.cli.demo.site import LoopbackSite, NamespaceSite, Site

SETTLE_S = 0.5
JOIN_S = 3.0
"""A node that has just started listens first, and is nobody's successor for so long."""


class Round(NamedTuple):
    """What one fresh cluster showed."""

    ready_ms: float
    """A restarted node: from exec of `piagent run` until its agent says that it is ready."""
    start_rss_kib: int
    """The largest agent, just started."""
    guardian_rss_kib: int
    """The largest guardian."""
    sigkill_gap_ms: float
    """The owner's agent is killed; its guardian yields."""
    lost_gap_ms: float
    """The owner's agent and guardian are killed at once: the lease runs out."""
    sigterm_gap_ms: float


async def _gap(site: Site, client: Client, end_owner: Callable[[], asyncio.Future[None]]) -> float:
    """The longest time without an answer while the owner ends, client asking every 5 ms; ms."""
    probe = Probe(client, site.http_port, "www.demo")
    await probe.answered_since(time.monotonic() + SETTLE_S, 10)
    await end_owner()
    await probe.answered_since(time.monotonic() + SETTLE_S, 20)
    return (await probe.stop()).length_s * 1000


async def one_round(say: Callable[[str], None]) -> Round:
    """Start a cluster, look at it, end an owner in order, kill one, lose one."""
    with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
        site: Site = NamespaceSite(3) if os.geteuid() == 0 else LoopbackSite(3)
        cluster = Cluster(site, Path(folder), lambda _: None)
        try:
            await cluster.start()
            client = Client(site.client_socket, site.vip)
            nodes = cluster.running_nodes()
            rss = max(rss_kib(cluster.pid(node)) for node in nodes)
            guardian_rss = max(rss_kib(cluster.guardian(node)) for node in nodes)
            owner = await cluster.owner()
            soft = await _gap(site, client, lambda: asyncio.ensure_future(cluster.end(owner)))
            ready = await cluster.time_to_ready(owner)
            await asyncio.sleep(JOIN_S)
            owner = await cluster.owner()
            hard = await _gap(site, client, lambda: asyncio.ensure_future(cluster.kill(owner)))
            owner = await cluster.owner()
            lost = await _gap(site, client, lambda: asyncio.ensure_future(cluster.lose(owner)))
        finally:
            await cluster.stop()
            site.close()
    result = Round(ready * 1000, rss, guardian_rss, hard, lost, soft)
    say(
        f"  ready {result.ready_ms:.0f} ms, RSS {rss / 1024:.1f} + {guardian_rss / 1024:.1f} MiB,"
        f" gap SIGKILL {hard:.0f} ms, node lost {lost:.0f} ms, SIGTERM {soft:.0f} ms"
    )
    return result


def report(rounds: list[Round]) -> str:
    """Medians, and the range that they come from."""
    columns = zip(Round._fields, zip(*rounds, strict=True), strict=True)
    rows = [
        [name, *(f"{pick(values):.0f}" for pick in (statistics.median, min, max))]
        for name, values in columns
    ]
    return table(["agent", "median", "least", "most"], rows)
