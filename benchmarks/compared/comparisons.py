"""What one comparison is: a workload, proxies, figures, and where piagent is to be."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.compared.load import Workload

GB = 1e9


class Figure(NamedTuple):
    """One line of the table."""

    title: str
    field: str
    """Of Sample."""
    scale: float = 1.0
    digits: int = 1


class Bar(NamedTuple):
    """A figure of piagent's as a multiple of a peer's: at most, or of a rate at least, `limit`."""

    field: str
    peers: tuple[str, ...]
    """The best of them counts; those that this machine has not do not."""
    limit: float


class Comparison(NamedTuple):
    """One workload through several proxies."""

    workload: Workload
    peers: tuple[str, ...]
    figures: tuple[Figure, ...]
    bars: tuple[Bar, ...]
    turns: float = 1.0
    """How many runs for each that was asked for; each is as much shorter."""


def cost(workload: Workload, unit: str, peers: tuple[str, ...], *bars: Bar) -> Comparison:
    """The CPU time that one `unit` takes."""
    figures = (
        Figure(f"CPU us per {unit}", "cpu_us", 1, 2),
        Figure(f"engine's CPU us per {unit}", "engine_us", 1, 2),
        Figure(f"{unit}s/s", "rate", 1, 0),
    )
    return Comparison(workload, peers, figures, bars)


def bulk(workload: Workload, peers: tuple[str, ...], *bars: Bar) -> Comparison:
    """The CPU time that 10^9 bytes take, and how many pass in a second."""
    figures = (
        Figure("GB/s", "rate", 1, 2),
        Figure("CPU s per GB", "cpu_us", 1e-6, 3),
        Figure("engine's CPU s per GB", "engine_us", 1e-6, 3),
    )
    return Comparison(workload, peers, figures, bars)


def latency(workload: Workload, peers: tuple[str, ...], *bars: Bar) -> Comparison:
    """How long a request takes at a fixed rate, which runs.py finds."""
    figures = (
        Figure("p50 us", "p50_us"),
        Figure("p99 us", "p99_us"),
        Figure("requests/s", "rate", 1, 0),
        Figure("CPU us per request", "cpu_us", 1, 2),
    )
    return Comparison(workload, peers, figures, bars, turns=4)
