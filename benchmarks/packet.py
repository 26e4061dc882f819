"""What the forwarder's code takes for one packet, without I/O: `make bench-packet`.

CPU time to parse it, to hash its flow's key, to look that up, and to rewrite it; thousands of
flows, one packet of each after the other. A step's time is what it adds to those before. And what
Maglev tables take: to make one, off the packets' thread, and to choose a backend by one, each hash
hanging on the choice before.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from typing import Any

from benchmarks.tables import table
from fastpath.packet import _aim_probe as aim
from fastpath.packet import _probe as probe
from tests.fastpath.packet import frames
from tests.fastpath.packet.frames import TCP, UDP, Ports

DATA = bytes(64)
BACKENDS = (3, 32, 1000)
CHOICES = 100_000
BARS = {"a packet, ns": 150.0, "a table of 1000, ms": 5.0, "a choice of 1000, ns": 10.0}
"""At most."""
MACS = {"destination_mac": bytes(6), "source_mac": bytes(6)}


def packets(n: int, protocol: int, *, v6: bool) -> list[bytes]:
    """Frames of `n` clients."""
    vip = frames.VIP6 if v6 else frames.VIP4
    made = []
    for i in range(n):
        client = f"2001:db8::{i + 1:x}" if v6 else f"192.{i >> 16}.{i >> 8 & 255}.{i & 255}"
        ports = Ports(1024 + i % 60000, 443)
        l4 = frames.tcp(ports, DATA) if protocol == TCP else frames.udp(ports, DATA)
        made.append(frames.ether(frames.ip(client, vip, protocol, l4)))
    return made


def rewrites(*, v6: bool) -> dict[str, dict[str, Any]]:
    """What becomes of them, by name."""
    ends = (frames.NODE6, frames.BACKEND6) if v6 else (frames.NODE4, frames.BACKEND4)
    there = MACS | dict(zip(("source", "destination"), map(frames.mapped, ends), strict=True))
    ports = {"source_port": 40000, "destination_port": 8080}
    return {
        "dsr": MACS | {"how": probe.MAC},
        "nat": there | ports | {"how": probe.NAT},
        "dsr, ipip": there | {"how": probe.ENCAPSULATE, "v6": v6},
    }


def measure(n_flows: int, rounds: int, runs: int) -> dict[str, dict[str, float]]:
    """Nanoseconds by case and step; the best of the runs: others may only add to it."""
    found = {}
    for v6 in (False, True):
        for protocol, name in ((TCP, "TCP"), (UDP, "UDP")):
            made = packets(n_flows, protocol, v6=v6)
            for how, what in rewrites(v6=v6).items():
                results = [probe.nanoseconds(made, what, rounds) for _ in range(runs)]
                found[f"{how}, {name}, IPv{6 if v6 else 4}"] = {
                    step: min(result[step] for result in results) for step in probe.STEPS
                }
    return found


def measure_maglev(runs: int) -> dict[str, dict[str, float]]:
    """Milliseconds to make a table, nanoseconds to choose by it, by how many backends there are."""
    found = {}
    for n in BACKENDS:
        names = [f"10.0.{i >> 8}.{i & 255}:8080" for i in range(n)]
        found[f"{n} backends"] = {
            "make, ms": min(aim.build_ns(names) for _ in range(runs)) / 1e6,
            "choose, ns": min(aim.choose_ns(names, CHOICES) for _ in range(runs)),
        }
    return found


def judge(
    packets: dict[str, dict[str, float]], maglev: dict[str, dict[str, float]]
) -> dict[str, float]:
    """What there are bars for: of packets the case that takes longest."""
    times = [list(up_to.values()) for up_to in packets.values()]
    figures = (max(each[-1] - each[0] for each in times), *maglev["1000 backends"].values())
    return dict(zip(BARS, figures, strict=True))


def report_maglev(found: dict[str, dict[str, float]]) -> str:
    """A table."""
    rows = [[case, *(f"{value:.2f}" for value in its.values())] for case, its in found.items()]
    return table([f"Maglev, {aim.ENTRIES} entries", *next(iter(found.values()))], rows)


def report_bars(figures: dict[str, float]) -> str:
    """A table."""
    rows = [
        [name, f"{value:.2f}", f"<= {BARS[name]:g}", "yes" if value <= BARS[name] else "NO"]
        for name, value in figures.items()
    ]
    return table(["at most", "found", "bar", "holds"], rows)


def report(found: dict[str, dict[str, float]]) -> str:
    """A table: what each step adds, and all of them; copying is the measurement's own."""
    rows = []
    for case, up_to in found.items():
        times = list(up_to.values())
        added = [after - before for before, after in pairwise(times)]
        rows.append([case, *(f"{each:.1f}" for each in (*added, sum(added)))])
    return table(["ns a packet", *probe.STEPS[1:], "all"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packet", description=__doc__)
    parser.add_argument("--flows", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=100, help="times that each flow has a packet")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = measure(options.flows, options.rounds, options.runs)
    maglev = measure_maglev(options.runs)
    if options.json:
        print(json.dumps({"packets": found, "maglev": maglev}))
    else:
        print(report(found), report_maglev(maglev), report_bars(judge(found, maglev)), sep="\n\n")


if __name__ == "__main__":
    main()
