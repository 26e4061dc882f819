"""What alternating runs say: medians, and ratios beside their bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.forward.nodes import KINDS
from benchmarks.forward.workloads import BARS, WORKLOADS, Bar
from benchmarks.paired import Ratio, ratio
from benchmarks.tables import table

BUSY = 0.85
"""Share of the time that a CPU is at work which has always something to do, or more."""


class Sample(NamedTuple):
    """One run of one workload by one way to forward."""

    rate: float
    """Packets, flows or bytes a second."""
    cpu_ns: float
    """Nanoseconds of the forwarding CPU for each."""
    busy: float
    """Share of the time that this CPU forwarded."""
    lost: float
    """Share of the packets that never came out."""

    @property
    def per_cpu(self) -> float:
        """What a second of the forwarding CPU is enough for."""
        return 1e9 / self.cpu_ns


Results = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Workload -> way -> its runs; runs with the same index were side by side."""


class Judgement(NamedTuple):
    """Where piagent is, beside where it is to be."""

    bar: Bar
    ratio: Ratio
    holds: bool


def median(samples: Sequence[Sample]) -> Sample:
    """Of each figure; they may come from different runs."""
    return Sample(*(statistics.median(figures) for figures in zip(*samples, strict=True)))


def judge(results: Results) -> list[Judgement]:
    """Every bar of what was run."""
    found = []
    for bar in BARS:
        if bar.workload in results:
            runs = results[bar.workload]
            ratios = ratio(
                *([getattr(s, bar.field) for s in runs[way]] for way in (bar.way, bar.peer))
            )
            found.append(Judgement(bar, ratios, ratios.middle >= bar.limit))
    return found


def _cells(name: str, samples: Sequence[Sample]) -> list[str]:
    workload = WORKLOADS[name]
    if not samples:
        return ["", ""]
    middle = median(samples)
    digits = workload.digits if workload.cpu_scale > 1 or workload.streams else 0
    return [
        f"{middle.rate / workload.scale:.{workload.digits}f}",
        f"{middle.cpu_ns / workload.cpu_scale:.{digits}f}",
    ]


def _medians(results: Results) -> str:
    head = ["median"]
    for name in results:
        workload = WORKLOADS[name]
        head += [f"{workload.title}: {workload.unit}", workload.cpu_unit]
    rows = [
        [
            kind.title,
            *(cell for name, runs in results.items() for cell in _cells(name, runs.get(way, ()))),
        ]
        for way, kind in KINDS.items()
    ]
    return table(head, rows)


def _named(bar: Bar) -> str:
    ways = " / ".join(KINDS[way].title for way in (bar.way, bar.peer))
    by = "" if bar.field == "rate" else " by CPU"
    return f"{WORKLOADS[bar.workload].title}{by}: {ways}"


def _bars(judgements: Sequence[Judgement]) -> str:
    rows = [
        [
            _named(j.bar),
            f"{j.ratio.middle:.2f}",
            f"{j.ratio.low:.2f} to {j.ratio.high:.2f}",
            f">= {j.bar.limit:.2f}",
            "yes" if j.holds else "NO",
        ]
        for j in judgements
    ]
    return table(["rate", "ratio", "half of the runs", "bar", "holds"], rows)


def _doubts(results: Results) -> str:
    """What speaks against the rates of datagrams, which are to be all that the CPU can do."""
    busy = {
        f"{WORKLOADS[name].title}, {KINDS[way].title}": median(found).busy
        for name, samples in results.items()
        for way, found in samples.items()
        if not WORKLOADS[name].streams
    }
    least = min(busy, key=lambda name: busy[name], default="")
    if not least or busy[least] >= BUSY:
        return ""
    return (
        f"The forwarding CPU forwarded only {busy[least]:.0%} of the time ({least}): something else"
        " was done on this machine. Rates say little then, CPU times more; --first helps."
    )


def report(results: Results) -> str:
    """Two tables, and what to think of them."""
    parts = [_medians(results)]
    if judgements := judge(results):
        parts.append(_bars(judgements))
    if doubts := _doubts(results):
        parts.append(doubts)
    return "\n\n".join(parts)
