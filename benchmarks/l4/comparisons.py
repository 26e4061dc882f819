"""What is compared: workloads, proxies, figures, and where piagent is to be."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.l4.load import Workload

GB = 1e9
DATAGRAM = 0.5
"""Of an answer: it is two datagrams that the proxy took in and sent out."""

TCP = ("piagent", "haproxy", "nginx", "relay")
BULK = ("piagent", "haproxy", "haproxy-auto", "haproxy-splice", "nginx", "relay")
UDP = ("piagent", "nginx", "udp-relay")
HAPROXIES = ("haproxy", "haproxy-auto", "haproxy-splice")
"""As it comes, with `option splice-auto` (in 2.6 it may miss a stream that never pauses), and with
`option splice-response`: the best of them is the bar.
"""


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
    """The best of them counts."""
    limit: float


class Comparison(NamedTuple):
    """One workload through several proxies."""

    workload: Workload
    peers: tuple[str, ...]
    figures: tuple[Figure, ...]
    bars: tuple[Bar, ...]
    turns: float = 1.0
    """How many runs for each that was asked for; each is as much shorter."""


def _bulk(streams: int) -> Comparison:
    return Comparison(
        Workload("bulk", "stream", streams, 1, GB),
        BULK,
        (
            Figure("GB/s", "rate", 1, 2),
            Figure("CPU s per GB", "cpu_us", 1e-6, 3),
            Figure("engine's CPU s per GB", "engine_us", 1e-6, 3),
        ),
        (Bar("rate", HAPROXIES, 1.0), Bar("cpu_us", HAPROXIES, 1.0)),
    )


def _cost(workload: Workload, unit: str, peers: tuple[str, ...], *bars: Bar) -> Comparison:
    figures = (
        Figure(f"CPU us per {unit}", "cpu_us", 1, 2),
        Figure(f"engine's CPU us per {unit}", "engine_us", 1, 2),
        Figure(f"{unit}s/s", "rate", 1, 0),
    )
    return Comparison(workload, peers, figures, bars)


def _datagrams(kind: str, in_flight: int, *bars: Bar) -> Comparison:
    workload = Workload(kind, "udp", 32, in_flight, DATAGRAM)
    cost = _cost(workload, "datagram", UDP, *bars)
    return cost._replace(figures=(*cost.figures, Figure("lost %", "lost", 100, 3)))


COMPARISONS = {
    "request": _cost(
        Workload("request", "echo", 64, 1, 1), "request", TCP,
        Bar("cpu_us", ("haproxy",), 1.0), Bar("cpu_us", ("relay",), 1.05),
    ),
    "connect": _cost(
        Workload("connect", "echo", 32, 1, 1), "connection", TCP, Bar("cpu_us", ("haproxy",), 1.0)
    ),
    "bulk1": _bulk(1),
    "bulk8": _bulk(8),
    "latency": Comparison(
        Workload("latency", "echo", 64, 0, 1),  # the rate is half of HAProxy's: see runs.py
        TCP,
        (
            Figure("p50 us", "p50_us"),
            Figure("p99 us", "p99_us"),
            Figure("requests/s", "rate", 1, 0),
            Figure("CPU us per request", "cpu_us", 1, 2),
        ),
        (Bar("p99_us", ("haproxy",), 1.0),),
        turns=4,
    ),
    "udp-stream": _datagrams("udp", 16, Bar("cpu_us", ("nginx",), 0.5)),
    "udp-dns": _datagrams("udp", 1, Bar("cpu_us", ("nginx",), 0.5)),
    "udp-gso": _datagrams("udp-gso", 16, Bar("cpu_us", ("nginx",), 0.5)),
}  # fmt: skip
