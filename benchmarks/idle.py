"""What a node costs that has nothing to do: memory, CPU and wake-ups, thread by thread.

Three agents and their guardians, 20 services, 40 backends that are checked every 2 s (the default)
and five VIPs, all default values. A wake-up is a voluntary context switch: the thread had slept.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import rss_kib
from benchmarks.tables import table
from piagent.cli.demo.cluster import Cluster
from piagent.cli.demo.site import LoopbackSite, NamespaceSite, Place, Site

SERVICES = 20
VIPS = 5
ON_VIP = 'type = "load-balancer"\nnode_ports = false'
"""Several of these agents may be on one host: node ports would be theirs in common."""
SETTLE_S = 4.0
"""The first checks and announcements are over then."""


class Thread(NamedTuple):
    """What one thread, or all of them, did in a second."""

    cpu_percent: float
    wakeups: float


class Idle(NamedTuple):
    """One agent and its guardian, idle."""

    node: str
    owner: bool
    rss_mib: float
    """The agent's."""
    guardian_rss_mib: float
    total: Thread
    """Of both."""
    threads: dict[str, Thread]


class _Count(NamedTuple):
    name: str
    cpu_ns: int
    wakeups: int


def counts(pid: int) -> dict[str, _Count]:
    """Thread -> nanoseconds on a CPU and voluntary context switches so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        cpu_ns = int((task / "schedstat").read_text().split()[0])
        wakeups = int(status["voluntary_ctxt_switches"])
        found[task.name] = _Count(status["Name"], cpu_ns, wakeups)
    return found


class _Node(NamedTuple):
    agent: int
    guardian: int

    def counts(self) -> dict[str, _Count]:
        """Of both processes."""
        guardian = counts(self.guardian).items()
        return counts(self.agent) | {task: it._replace(name="guardian") for task, it in guardian}


def node_file(site: Site, node: Place, secret: Path, socket: Path) -> str:
    """The file of a node that has 20 services."""
    interface = f'interface = "{node.interface}"' if node.interface else ""
    parts = [
        f'[node]\nname = "{node.name}"\n{interface}',
        f'[cluster]\nname = "bench"\nsecret_file = "{secret}"',
        f'[mqtt]\nbrokers = ["mqtt://{site.broker.address}:{site.broker_port}"]',
        f'[admin]\nsocket = "{socket}"',
        f'[[pool]]\nname = "lan"\naddresses = ["{site.pool}"]' if site.pool else "",
    ]
    net, _, host = site.vip.rpartition(".")
    for i in range(SERVICES):
        vip = f'address = "{net}.{int(host) + i}"\n{ON_VIP}' if i < VIPS else ""
        backends = [site.backends[i % 3].address, site.backends[(i + 1) % 3].address]
        parts.append(
            f'[[service]]\nname = "service-{i}"\n{vip}\nbackends = {backends}\nhealth = {{}}\n'
            f"ports = [{{ port = {8000 + i}, target_port = {site.backend_tcp_port} }}]"
        )
    return "\n".join(parts) + "\n"


async def measure(seconds: float) -> list[Idle]:
    """Look at three agents for some seconds."""
    with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
        site: Site = NamespaceSite(3) if os.geteuid() == 0 else LoopbackSite(3)
        cluster = Cluster(site, Path(folder), lambda _: None, node_file)
        try:
            await cluster.start()
            await asyncio.sleep(SETTLE_S)
            owner = await cluster.owner()
            names = cluster.running_nodes()
            nodes = {name: _Node(cluster.pid(name), cluster.guardian(name)) for name in names}
            before, since = {n: node.counts() for n, node in nodes.items()}, time.monotonic()
            await asyncio.sleep(seconds)
            passed_s = time.monotonic() - since
            found = [
                _difference(name, before[name], node, passed_s)._replace(owner=name == owner)
                for name, node in nodes.items()
            ]
        finally:
            await cluster.stop()
            site.close()
    return found


def _difference(name: str, before: dict[str, _Count], node: _Node, passed_s: float) -> Idle:
    threads: dict[str, Thread] = {}
    for task, now in node.counts().items():
        was = before.get(task, _Count(now.name, 0, 0))
        threads[f"{now.name}/{task}"] = Thread(
            (now.cpu_ns - was.cpu_ns) / passed_s / 1e7, (now.wakeups - was.wakeups) / passed_s
        )
    total = Thread(
        sum(t.cpu_percent for t in threads.values()), sum(t.wakeups for t in threads.values())
    )
    agent_mib, guardian_mib = (rss_kib(pid) / 1024 for pid in node)
    return Idle(name, False, agent_mib, guardian_mib, total, threads)


def report(found: list[Idle]) -> str:
    """One line an agent, and one for each of its threads that did anything."""
    rows = []
    for idle in found:
        title = f"{idle.node}, owner of the first VIP" if idle.owner else idle.node
        rows.append(
            [title, f"{idle.rss_mib:.1f}", f"{idle.guardian_rss_mib:.1f}", *_cells(idle.total)]
        )
        busy = {name: thread for name, thread in idle.threads.items() if thread.wakeups >= 0.05}
        if len(busy) > 1:
            rows += [[f"- {name}", "", "", *_cells(thread)] for name, thread in busy.items()]
    return table(["idle agent", "RSS MiB", "guardian MiB", "CPU %", "wake-ups/s"], rows)


def _cells(thread: Thread) -> list[str]:
    return [f"{thread.cpu_percent:.2f}", f"{thread.wakeups:.1f}"]
