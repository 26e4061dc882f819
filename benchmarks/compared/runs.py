"""Alternating runs: every proxy in turn, again and again."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from benchmarks.compared.comparisons import Comparison
from benchmarks.compared.load import WARM_S, Load, Ports, Proxy, load
from benchmarks.compared.report import Samples, report
from benchmarks.processes import put_first

Start = Callable[[Path, Ports], AbstractContextManager[dict[str, Proxy]]]
"""Begin the proxies, by name; the ports are those that the backends listen on."""
Say = Callable[[str], None]


class Plan(NamedTuple):
    """How much of what."""

    only: Sequence[str]
    runs: int
    seconds: float
    first: bool
    """Before everything else on the machine."""
    quick: bool = False
    """To see that it works, and for nothing else."""


class Field(NamedTuple):
    """What is compared, and who."""

    comparisons: Mapping[str, Comparison]
    start: Start
    pacemakers: tuple[str, ...]
    """The latency run asks for half of what the slowest of them can do; they are never absent."""


class Stage(NamedTuple):
    """What is up."""

    both_ends: Load
    proxies: dict[str, Proxy]


def _half(stage: Stage, field: Field, plan: Plan) -> float:
    """Requests a second: half of what the slowest pacemaker can do."""
    workload, makers = field.comparisons["request"].workload, field.pacemakers
    seconds, n = plan.seconds / 2, 1 if plan.quick else 3
    rates = [
        [stage.both_ends.measure(workload, stage.proxies[one], seconds).rate for _ in range(n)]
        for one in makers
    ]
    return min(map(statistics.median, rates)) / 2


def _alternate(stage: Stage, field: Field, name: str, plan: Plan, say: Say) -> Samples:
    """One comparison. Who begins changes, so that no one always follows the same one."""
    comparison = field.comparisons[name]
    peers = [peer for peer in comparison.peers if peer in stage.proxies]
    workload, main = comparison.workload, comparison.figures[0]
    if workload.kind == "latency":
        workload = workload._replace(pace=_half(stage, field, plan))
    samples: Samples = {peer: [] for peer in peers}
    turns = 1 if plan.quick else comparison.turns
    runs = round(plan.runs * turns)
    for number in range(runs):
        at = number % len(peers)
        for peer in (*peers[at:], *peers[:at]):
            seconds = plan.seconds / turns
            sample = stage.both_ends.measure(workload, stage.proxies[peer], seconds)
            samples[peer].append(sample)
        done = ", ".join(
            f"{peer} {getattr(s[-1], main.field) * main.scale:.{main.digits}f}"
            for peer, s in samples.items()
        )
        say(f"  {name} {number + 1}/{runs}, {main.title}: {done}")
    return samples


def compare(folder: Path, field: Field, plan: Plan, say: Say) -> dict[str, Samples]:
    """Every comparison that was asked for, all proxies up at the same time."""
    results = {}
    warm_s = plan.seconds / 2 if plan.quick else WARM_S
    with load(folder, warm_s) as both_ends, field.start(folder, both_ends.ports) as found:
        if plan.first:
            for pid in {both_ends.pid, *(proxy.process.pid for proxy in found.values())}:
                put_first(pid)
        for name in plan.only:
            results[name] = _alternate(Stage(both_ends, found), field, name, plan, say)
            say(report(field.comparisons, {name: results[name]}))
    return results
