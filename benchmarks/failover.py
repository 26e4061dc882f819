"""Failover side by side with keepalived: a client asks the VIP every 5 ms while its owner goes.

Both run in the same kind of house: two or three hosts on one bridge, each in a network namespace.
The client sends ICMP echo requests, which the kernel of whoever has the address answers: the gap is
that of the address alone, no proxy behind it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.houses import VIP, House, Keepalived, Piagents, house
from benchmarks.pings import Pings
from benchmarks.tables import table
from piagent.adapters.netns import Network

SETTLE_S = 2.0


def measure(
    make: Callable[[Network, Path], House], fault: str, times: int
) -> tuple[list[float], int]:
    """(the gap of each turn in ms, how many pings were lost in all)."""
    gaps, lost = [], 0
    with house(make) as built, Pings(built.client, VIP) as pings:
        pings.wait()
        time.sleep(SETTLE_S)
        for _ in range(times):
            owner = built.owner()
            since_s = time.monotonic()
            getattr(built, fault)(owner)
            time.sleep(SETTLE_S)
            pings.wait()
            time.sleep(0.6)
            gaps.append(pings.gap_s(since_s) * 1000)
            lost += len(pings.lost_after(since_s))
            built.restore(owner)
            time.sleep(SETTLE_S)
            pings.wait()
    return gaps, lost


HOUSES: dict[str, Callable[[Network, Path], House]] = {
    "piagent fast": lambda network, folder: Piagents(network, folder, 'profile = "fast"'),
    "piagent normal": lambda network, folder: Piagents(network, folder, 'profile = "normal"'),
    "keepalived 1 s": lambda network, folder: Keepalived(network, folder, "1"),
    "keepalived 0.1 s": lambda network, folder: Keepalived(network, folder, "0.1"),
}


def run(times: int) -> str:
    """Every fault in every house, one after the other; a table for people."""
    rows = []
    for fault in ("power_off", "crash", "end", "move"):
        for name, make in HOUSES.items():
            if fault == "move" and name.startswith("keepalived"):
                continue
            gaps, lost = measure(make, fault, times)
            row = [f"{value:.0f}" for value in (statistics.median(gaps), min(gaps), max(gaps))]
            rows.append([fault.replace("_", " "), name, *row, str(lost)])
            print("  ", *rows[-1], file=sys.stderr, flush=True)
    return table(["owner's", "program", "median ms", "least", "most", "pings lost"], rows)


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
