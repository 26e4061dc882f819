"""Alternating runs, and what they say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.l4.comparisons import COMPARISONS, Bar, Comparison
from benchmarks.l4.load import Load, Sample, load
from benchmarks.l4.proxies import Proxy, proxies
from benchmarks.tables import table

Samples = dict[str, list[Sample]]
"""Proxy -> its runs; runs with the same index were side by side."""


class Plan(NamedTuple):
    """How much of what."""

    only: Sequence[str]
    runs: int
    seconds: float


class Judgement(NamedTuple):
    """Where piagent is, beside where it is to be."""

    workload: str
    field: str
    peer: str
    ratio: float
    limit: float
    holds: bool


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
        for name in plan.only:
            results[name] = _alternate(both_ends, found, name, plan, say)
            say(report({name: results[name]}))
    return results


def medians(samples: Samples) -> dict[str, Sample]:
    """Proxy -> the median of each figure; they may come from different runs."""
    return {
        peer: Sample(*(statistics.median(figures) for figures in zip(*runs, strict=True)))
        for peer, runs in samples.items()
    }


def ratio(samples: Samples, field: str, peer: str) -> float:
    """Of piagent to a peer: the median of the ratios of runs that were side by side, for what a
    noisy machine does to one of them it mostly does to the other.
    """
    pairs = zip(samples["piagent"], samples[peer], strict=True)
    ratios: list[float] = [
        getattr(ours, field) / (getattr(theirs, field) or math.inf) for ours, theirs in pairs
    ]
    return statistics.median(ratios)


def _judge(name: str, bar: Bar, samples: Samples) -> Judgement:
    more_is_better = bar.field == "rate"
    ratios = {peer: ratio(samples, bar.field, peer) for peer in bar.peers}
    best = (min if more_is_better else max)(ratios, key=ratios.__getitem__)
    found = ratios[best]
    holds = found >= bar.limit if more_is_better else found <= bar.limit
    return Judgement(name, bar.field, best, found, bar.limit, holds)


def judge(results: dict[str, Samples]) -> list[Judgement]:
    """Every bar of what was run."""
    return [
        _judge(name, bar, samples)
        for name, samples in results.items()
        for bar in COMPARISONS[name].bars
    ]


def _rows(
    name: str, comparison: Comparison, samples: Samples, peers: Sequence[str]
) -> list[list[str]]:
    middle = medians(samples)
    rows = []
    for figure in comparison.figures:
        shown = [p if figure.field != "engine_us" or p == "piagent" else "" for p in peers]
        rows.append(
            [
                f"{name}: {figure.title}",
                *(
                    f"{getattr(middle[peer], figure.field) * figure.scale:.{figure.digits}f}"
                    if peer in middle
                    else ""
                    for peer in shown
                ),
            ]
        )
    return rows


def report(results: dict[str, Samples]) -> str:
    """Two tables: medians, and ratios beside their bars."""
    peers = [p for p in COMPARISONS["bulk1"].peers if any(p in s for s in results.values())]
    rows = [
        row
        for name, samples in results.items()
        for row in _rows(name, COMPARISONS[name], samples, peers)
    ]
    said = table(["median", *peers], rows)
    titles = {"cpu_us": "CPU", "rate": "throughput", "p99_us": "p99"}
    judged = [
        [
            f"{j.workload}: {titles[j.field]} / {j.peer}'s",
            f"{j.ratio:.2f}",
            f"{'>=' if j.field == 'rate' else '<='} {j.limit:.2f}",
            "yes" if j.holds else "NO",
        ]
        for j in judge(results)
    ]
    if judged:
        said += "\n\n" + table(["piagent's", "ratio", "bar", "holds"], judged)
    return said
