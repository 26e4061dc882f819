"""What the ways to forward are asked to do, by whom of them, and where piagent is to be."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.forward.nodes import KINDS

FLOWS = 512
"""That are established before they are measured."""
NEW_FLOWS = 60_000
"""Of a run; each has one datagram."""


class Workload(NamedTuple):
    """One of them."""

    title: str
    ways: tuple[str, ...]
    unit: str
    scale: float
    """By which units a second are divided in tables."""
    cpu_unit: str
    cpu_scale: float
    """By which nanoseconds of CPU a unit are divided."""
    digits: int = 2
    streams: int = 0
    """TCP connections; 0: datagrams."""


def _packets(title: str, ways: tuple[str, ...]) -> Workload:
    return Workload(title, ways, "M/s", 1e6, "ns", 1)


def _bulk(n: int) -> Workload:
    """The unit is a byte."""
    title = f"bulk TCP, {n}"
    return Workload(title, tuple(KINDS), "GB/s", 1e9, "CPU s/GB", 1, streams=n)


WORKLOADS = {
    "packets": _packets("packets", tuple(KINDS)),
    "both": _packets("both ways", ("nft", "nat-xdp", "nat-tc", "nat")),
    "new": Workload("new flows", ("nft", "dsr", "nat"), "k/s", 1e3, "us", 1e3),
    "bulk1": _bulk(1),
    "bulk8": _bulk(8),
}


class Bar(NamedTuple):
    """A figure as a multiple of another one: at least `limit`."""

    workload: str
    way: str
    peer: str
    limit: float
    field: str = "rate"
    """Of Sample."""


BARS = (
    Bar("packets", "dsr-xdp", "nft", 3.0),
    Bar("packets", "nat-tc", "nft", 1.2),
    Bar("both", "nat-tc", "nft", 1.2),
    Bar("bulk1", "nat-tc", "nft", 0.95),
    Bar("bulk1", "nat-tc", "nft", 0.95, "per_cpu"),
    Bar("bulk8", "nat-tc", "nft", 0.95),
    Bar("bulk8", "nat-tc", "nft", 0.95, "per_cpu"),
)
"""How fast TCP is its ends decide, too, but not what a second of the forwarding CPU carries."""
