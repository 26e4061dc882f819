"""`python -m benchmarks`: prints tables, and writes every sample to build/bench.json."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import cluster, peers, traffic

OUT = Path("build/bench.json")


def _say(text: str) -> None:
    print(text, flush=True)


def _cluster(runs: int) -> dict[str, Any]:
    _say(f"the agent: {runs} fresh clusters of three")
    rounds = [asyncio.run(cluster.one_round(_say)) for _ in range(runs)]
    medians = {
        name: statistics.median(getattr(r, name) for r in rounds) for name in cluster.Round._fields
    }
    for name, value in medians.items():
        _say(f"{name:<20}{value:>10.1f}  (median of {runs})")
    return {"rounds": [r._asdict() for r in rounds], "medians": medians}


def _traffic(plan: traffic.Plan) -> dict[str, Any]:
    if absent := peers.missing():
        _say(f"traffic: not compared, not installed: {', '.join(absent)} ({peers.CURE})")
        return {}
    _say(
        f"traffic: {plan.runs} alternating runs, {plan.seconds:g} s, {plan.connections} connections"
    )
    with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
        results = traffic.compare(Path(folder), plan, _say)
    _say(traffic.table(results))
    return {
        title: {name: [s._asdict() for s in samples] for name, samples in by_name.items()}
        for title, by_name in results.items()
    }


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "cluster", "traffic"), default="all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one traffic run")
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args()
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # where servers are
    results: dict[str, Any] = {}
    if args.what in ("all", "cluster"):
        results["cluster"] = _cluster(args.runs)
    if args.what in ("all", "traffic"):
        results["traffic"] = _traffic(traffic.Plan(args.runs, args.seconds, args.connections))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1))
    _say(f"every sample: {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
