"""Alternating runs: every proxy in turn, again and again."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.l4.comparisons import COMPARISONS
from benchmarks.l4.load import Load, load
from benchmarks.l4.proxies import Proxy, proxies
from benchmarks.l4.report import Samples, report
from benchmarks.processes import put_first


class Plan(NamedTuple):
    """How much of what."""

    only: Sequence[str]
    runs: int
    seconds: float
    first: bool
    """Before everything else on the machine."""


def _half_of_haproxy(both_ends: Load, found: dict[str, Proxy], seconds: float) -> float:
    """Requests a second."""
    workload, haproxy = COMPARISONS["request"].workload, found["haproxy"]
    rates = [both_ends.measure(workload, haproxy, seconds).rate for _ in range(3)]
    return statistics.median(rates) / 2


def _alternate(
    both_ends: Load, found: dict[str, Proxy], name: str, plan: Plan, say: Callable[[str], None]
) -> Samples:
    """One comparison. Who begins changes, so that no one always follows the same one."""
    comparison = COMPARISONS[name]
    workload, main = comparison.workload, comparison.figures[0]
    if workload.kind == "latency":
        workload = workload._replace(pace=_half_of_haproxy(both_ends, found, plan.seconds / 2))
    samples: Samples = {peer: [] for peer in comparison.peers}
    runs = round(plan.runs * comparison.turns)
    for number in range(runs):
        at = number % len(comparison.peers)
        for peer in (*comparison.peers[at:], *comparison.peers[:at]):
            seconds = plan.seconds / comparison.turns
            samples[peer].append(both_ends.measure(workload, found[peer], seconds))
        done = ", ".join(
            f"{peer} {getattr(s[-1], main.field) * main.scale:.{main.digits}f}"
            for peer, s in samples.items()
        )
        say(f"  {name} {number + 1}/{runs}, {main.title}: {done}")
    return samples


def compare(folder: Path, plan: Plan, say: Callable[[str], None]) -> dict[str, Samples]:
    """Every comparison that was asked for, all proxies up at the same time."""
    results = {}
    with load(folder) as both_ends, proxies(folder, both_ends.ports) as found:
        if plan.first:
            for pid in {both_ends.pid, *(proxy.process.pid for proxy in found.values())}:
                put_first(pid)
        for name in plan.only:
            results[name] = _alternate(both_ends, found, name, plan, say)
            say(report({name: results[name]}))
    return results
