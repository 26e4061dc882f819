"""The agent itself: start to ready, idle memory and CPU, failover gaps in the demo's cluster."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import cpu_ns, rss_kib
from piagent.cli.demo.client import Client, Probe
from piagent.cli.demo.cluster import Cluster
from piagent.cli.demo.site import LoopbackSite, NamespaceSite, Site

SETTLE_S = 0.5
IDLE_S = 5.0


class Round(NamedTuple):
    """What one fresh cluster showed."""

    ready_ms: float
    """A restarted agent: from exec to the first 200 of /readyz."""
    rss_kib: int
    idle_cpu_percent: float
    sigkill_gap_ms: float
    sigterm_gap_ms: float


async def _gap(site: Site, client: Client, end_owner: Callable[[], asyncio.Future[None]]) -> float:
    """The longest time without an answer while the owner ends, client asking every 5 ms; ms."""
    probe = Probe(client, site.http_port, "www.demo")
    await probe.answered_since(time.monotonic() + SETTLE_S, 10)
    await end_owner()
    await probe.answered_since(time.monotonic() + SETTLE_S, 20)
    return (await probe.stop()).length_s * 1000


async def one_round(say: Callable[[str], None]) -> Round:
    """Start a cluster, look at it, end one owner softly and one hard."""
    with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
        site: Site = NamespaceSite(3) if os.geteuid() == 0 else LoopbackSite(3)
        cluster = Cluster(site, Path(folder), lambda _: None)
        try:
            await cluster.start()
            client = Client(site.client_socket, site.vip)
            pids = cluster.agents()
            before, since = {p: cpu_ns(p) for p in pids}, time.monotonic()
            await asyncio.sleep(IDLE_S)
            idle = max(cpu_ns(p) - before[p] for p in pids) / (time.monotonic() - since) / 1e7
            rss = max(rss_kib(p) for p in pids)
            owner = await cluster.owner()
            soft = await _gap(site, client, lambda: asyncio.ensure_future(cluster.end(owner)))
            ready = await cluster.time_to_ready(owner)
            owner = await cluster.owner()
            hard = await _gap(site, client, lambda: asyncio.ensure_future(cluster.kill(owner)))
        finally:
            await cluster.stop()
            site.close()
    result = Round(ready * 1000, rss, idle, hard, soft)
    say(
        f"  ready {result.ready_ms:.0f} ms, RSS {rss / 1024:.1f} MiB, idle {idle:.2f} % CPU,"
        f" gap SIGKILL {hard:.0f} ms, SIGTERM {soft:.0f} ms"
    )
    return result
