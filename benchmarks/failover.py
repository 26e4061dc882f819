"""Failover side by side with keepalived: a client asks the VIP every 5 ms while its owner goes.

Both run in the same kind of house: two or three hosts on one bridge, each in a network namespace.
The client sends ICMP echo requests, which the kernel of whoever has the address answers: the gap is
that of the address alone, no proxy behind it. When the owner's end is planned it also asks 500 HTTP
requests a second over four kept connections.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.houses import VIP, House, Keepalived, Piagents, election, house
from benchmarks.pings import Pings
from benchmarks.tables import table
from piagent.adapters.netns import Network
from tests.lab.traffic import KeptRequests

SETTLE_S = 2.0
EACH_S = 0.008
"""From one request of a connection to its next."""
FAULTS = ("power_off", "crash", "end", "move")
PLANNED = ("end", "move")


class Turns(NamedTuple):
    """What a client saw of one fault in one house, again and again."""

    gaps_ms: list[float]
    """The longest silence of each turn."""
    pings_lost: int
    requests: int
    """Answered; 0 when none were asked."""
    requests_failed: int


def measure(make: Callable[[Network, Path], House], fault: str, times: int) -> Turns:
    """Do it so often; with HTTP requests besides when the fault is a planned one."""
    gaps_ms, lost = [], 0
    with ExitStack() as stack:
        built = stack.enter_context(house(make))
        pings = stack.enter_context(Pings(built.client, VIP))
        pings.wait()
        time.sleep(SETTLE_S)
        requests = KeptRequests(built.client, VIP, "www.bench", connections=4, every_s=EACH_S)
        if fault in PLANNED:
            stack.enter_context(requests)
            requests.wait_for(100)
        for _ in range(times):
            owner = built.owner()
            since_s = time.monotonic()
            getattr(built, fault)(owner)
            time.sleep(SETTLE_S)
            pings.wait()
            time.sleep(0.6)
            gaps_ms.append(pings.gap_s(since_s) * 1000)
            lost += len(pings.lost_after(since_s))
            built.restore(owner)
            time.sleep(SETTLE_S)
            pings.wait()
        return Turns(gaps_ms, lost, requests.count, len(requests.failures))


HOUSES: dict[str, Callable[[Network, Path], House]] = {
    "piagent fast": lambda network, folder: Piagents(network, folder, 'profile = "fast"'),
    "piagent normal": lambda network, folder: Piagents(network, folder, 'profile = "normal"'),
    "piagent 300 ms": lambda network, folder: Piagents(network, folder, election(300)),
    "keepalived 1 s": lambda network, folder: Keepalived(network, folder, "1"),
    "keepalived 0.1 s": lambda network, folder: Keepalived(network, folder, "0.1"),
}


def run(times: int, faults: Sequence[str]) -> str:
    """Every fault in every house, one after the other; a table for people."""
    rows = []
    for fault in faults:
        for name, make in HOUSES.items():
            if fault == "move" and name.startswith("keepalived"):
                continue
            seen = measure(make, fault, times)
            gaps = [pick(seen.gaps_ms) for pick in (statistics.median, min, max)]
            failed = f"{seen.requests_failed} of {seen.requests}" if seen.requests else "-"
            told = [*(f"{gap:.0f}" for gap in gaps), str(seen.pings_lost), failed]
            rows.append([fault.replace("_", " "), name, *told])
            print("  ", *rows[-1], file=sys.stderr, flush=True)
    head = ["owner's", "program", "median ms", "least", "most", "pings lost", "requests failed"]
    return table(head, rows)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="make bench-failover", description=__doc__)
    parser.add_argument("times", type=int, nargs="?", default=5, help="turns of each fault; 5")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="default: every one")
    args = parser.parse_args()
    print(run(args.times, args.fault or FAULTS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
