"""`python -m benchmarks`: prints tables, and writes every sample as JSON.

cluster: fresh clusters of three, start to ready and failover gaps; idle: what an agent with 20
services costs that has nothing to do; traffic: CPU time per request beside nginx and HAProxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import cluster, idle, peers, traffic

OUT = Path("build/bench.json")


def _say(text: str) -> None:
    print(text, flush=True)


def machine() -> dict[str, Any]:
    """What the figures depend on; the load says whether the machine was ours alone."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(": ")[2] for line in facts if line.startswith(("model name", "Model"))}
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cluster(runs: int) -> dict[str, Any]:
    _say(f"\nthe agent: {runs} fresh clusters of three")
    rounds = [asyncio.run(cluster.one_round(_say)) for _ in range(runs)]
    _say(cluster.report(rounds))
    return {"rounds": [r._asdict() for r in rounds]}


def _idle(seconds: float) -> dict[str, Any]:
    _say(f"\nidle: three agents, {idle.SERVICES} services, {idle.VIPS} VIPs, {seconds:g} s")
    found = asyncio.run(idle.measure(seconds))
    _say(idle.report(found))
    return {
        agent.node: agent._asdict()
        | {
            "total": agent.total._asdict(),
            "threads": {name: thread._asdict() for name, thread in agent.threads.items()},
        }
        for agent in found
    }


def _traffic(plan: traffic.Plan) -> dict[str, Any]:
    if absent := peers.missing():
        _say(f"\ntraffic: not compared, not installed: {', '.join(absent)} ({peers.CURE})")
        return {}
    _say(
        f"\ntraffic: {plan.runs} alternating runs, {plan.seconds:g} s,"
        f" {plan.connections} connections, one worker each"
    )
    with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
        results = traffic.compare(Path(folder), plan, _say)
    _say(traffic.report(results))
    return {
        title: {
            "samples": {name: [s._asdict() for s in runs] for name, runs in samples.items()},
            "medians": {n: s._asdict() for n, s in traffic.medians(samples).items()},
        }
        for title, samples in results.items()
    }


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = ("all", "cluster", "idle", "traffic")
    parser.add_argument("what", nargs="?", choices=what, default="all")
    parser.add_argument("--quick", action="store_true", help="one short run: shows that it works")
    parser.add_argument("--runs", type=int, help="of everything but idle; 5")
    parser.add_argument("--seconds", type=float, help="length of one traffic run; 3")
    parser.add_argument("--idle-seconds", type=float, help="how long to watch idle agents; 30")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--out", type=Path, default=OUT, help=f"for every sample; {OUT}")
    args = parser.parse_args(given)
    usual = (1, 0.3, 2.0) if args.quick else (5, 3.0, 30.0)
    for name, value in zip(("runs", "seconds", "idle_seconds"), usual, strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(given: list[str] | None = None) -> int:
    """Run what was asked for."""
    args = _arguments(given)
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # where servers are
    results: dict[str, Any] = {"machine": machine()}
    _say(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    if args.what in ("all", "cluster"):
        results["cluster"] = _cluster(args.runs)
    if args.what in ("all", "idle"):
        results["idle"] = _idle(args.idle_seconds)
    if args.what in ("all", "traffic"):
        results["traffic"] = _traffic(traffic.Plan(args.runs, args.seconds, args.connections))
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1))
    _say(f"\nevery sample: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
