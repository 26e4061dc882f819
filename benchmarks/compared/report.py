"""What alternating runs say: medians, ratios, and where piagent is beside where it is to be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks import paired
from benchmarks.compared.comparisons import Bar, Comparison, Figure
from benchmarks.compared.load import Sample
from benchmarks.paired import Ratio
from benchmarks.tables import table

Samples = dict[str, list[Sample]]
"""Proxy -> its runs; runs with the same index were side by side."""

FIELDS = {"cpu_us": "CPU", "rate": "throughput", "p99_us": "p99"}
OURS = "piagent"

Comparisons = Mapping[str, Comparison]
"""By the workload's name."""


class Judgement(NamedTuple):
    """Where piagent is, beside where it is to be."""

    workload: str
    field: str
    peer: str
    ratio: float
    low: float
    """The ratios of half of the runs are between `low` and `high`: what the noise was."""
    high: float
    limit: float
    holds: bool


def medians(samples: Samples) -> dict[str, Sample]:
    """Proxy -> the median of each figure; they may come from different runs."""
    return {
        peer: Sample(*(statistics.median(figures) for figures in zip(*runs, strict=True)))
        for peer, runs in samples.items()
    }


def ratio(samples: Samples, field: str, peer: str) -> Ratio:
    """Of piagent to a peer."""
    return paired.ratio(*([getattr(s, field) for s in samples[who]] for who in (OURS, peer)))


def _judge(name: str, bar: Bar, samples: Samples) -> Judgement:
    more_is_better = bar.field == "rate"
    ratios = {peer: ratio(samples, bar.field, peer) for peer in bar.peers if peer in samples}
    best = (min if more_is_better else max)(ratios, key=lambda peer: ratios[peer][1])
    low, found, high = ratios[best]
    holds = found >= bar.limit if more_is_better else found <= bar.limit
    return Judgement(name, bar.field, best, found, low, high, bar.limit, holds)


def judge(comparisons: Comparisons, results: dict[str, Samples]) -> list[Judgement]:
    """Every bar of what was run, beside somebody who was."""
    return [
        _judge(name, bar, samples)
        for name, samples in results.items()
        for bar in comparisons[name].bars
        if samples.keys() & set(bar.peers)
    ]


def _cell(figure: Figure, peer: str, sample: Sample) -> str:
    if figure.field == "engine_us" and peer != OURS:
        return ""  # theirs is all that they are
    return f"{getattr(sample, figure.field) * figure.scale:.{figure.digits}f}"


def _rows(name: str, comparison: Comparison, samples: Samples) -> list[list[str]]:
    middle = medians(samples)
    return [
        [f"{name}: {figure.title}", *(_cell(figure, peer, s) for peer, s in middle.items())]
        for figure in comparison.figures
    ]


def _bars(judgements: list[Judgement]) -> str:
    rows = [
        [
            f"{j.workload}: {FIELDS[j.field]} / {j.peer}'s",
            f"{j.ratio:.2f}",
            f"{j.low:.2f} to {j.high:.2f}",
            f"{'>=' if j.field == 'rate' else '<='} {j.limit:.2f}",
            "yes" if j.holds else "NO",
        ]
        for j in judgements
    ]
    return table([OURS, "ratio", "half of the runs", "bar", "holds"], rows)


def report(comparisons: Comparisons, results: dict[str, Samples]) -> str:
    """Medians, a table for each set of proxies, then ratios beside their bars."""
    parts: dict[tuple[str, ...], list[list[str]]] = {}
    for name, samples in results.items():
        parts.setdefault(tuple(samples), []).extend(_rows(name, comparisons[name], samples))
    tables = [table(["median", *peers], rows) for peers, rows in parts.items()]
    if judgements := judge(comparisons, results):
        tables.append(_bars(judgements))
    return "\n\n".join(tables)
