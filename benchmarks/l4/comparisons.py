"""What is compared: workloads, proxies, figures, and where piagent is to be."""

from __future__ import annotations

from benchmarks.compared.comparisons import GB, Bar, Comparison, Figure, bulk, cost, latency
from benchmarks.compared.load import Workload

DATAGRAM = 0.5
"""Of an answer: it is two datagrams that the proxy took in and sent out."""

TCP = ("piagent", "haproxy", "nginx", "relay")
BULK = ("piagent", "haproxy", "haproxy-auto", "haproxy-splice", "nginx", "relay")
UDP = ("piagent", "nginx", "udp-relay")
HAPROXIES = ("haproxy", "haproxy-auto", "haproxy-splice")
"""As it comes, with `option splice-auto` (in 2.6 it may miss a stream that never pauses), and with
`option splice-response`: the best of them is the bar.
"""


def _bulk(streams: int) -> Comparison:
    workload = Workload("bulk", "stream", streams, 1, GB)
    return bulk(workload, BULK, Bar("rate", HAPROXIES, 1.0), Bar("cpu_us", HAPROXIES, 1.0))


def _datagrams(kind: str, in_flight: int, *bars: Bar) -> Comparison:
    workload = Workload(kind, "udp", 32, in_flight, DATAGRAM)
    found = cost(workload, "datagram", UDP, *bars)
    return found._replace(figures=(*found.figures, Figure("lost %", "lost", 100, 3)))


COMPARISONS = {
    "request": cost(
        Workload("request", "echo", 64, 1, 1), "request", TCP,
        Bar("cpu_us", ("haproxy",), 1.0), Bar("cpu_us", ("relay",), 1.05),
    ),
    "connect": cost(
        Workload("connect", "echo", 32, 1, 1), "connection", TCP, Bar("cpu_us", ("haproxy",), 1.0)
    ),
    "bulk1": _bulk(1),
    "bulk8": _bulk(8),
    "latency": latency(
        Workload("latency", "echo", 64, 0, 1),  # the rate is half of HAProxy's: see runs.py
        TCP,
        Bar("p99_us", ("haproxy",), 1.0),
    ),
    "udp-stream": _datagrams("udp", 16, Bar("cpu_us", ("nginx",), 0.5)),
    "udp-dns": _datagrams("udp", 1, Bar("cpu_us", ("nginx",), 0.5)),
    "udp-gso": _datagrams("udp-gso", 16, Bar("cpu_us", ("nginx",), 0.5)),
}  # fmt: skip
