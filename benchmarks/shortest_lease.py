"""The shortest lease that a loaded machine bears: which VIPs move though nothing happened to them?

Clusters with different leases run side by side, each three agents and a broker in a house of its
own, while every core of the machine computes and its disk is written to. Nobody touches them: each
acquisition after the first is a spurious move, each silence of the VIP one that clients notice.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.houses import DIE_WITH_US, VIP, Piagents, election, house
from benchmarks.pings import Pings
from benchmarks.tables import table
from piagent.adapters.netns import Network

LEASES_MS = (150, 200, 250, 300, 400)
PROGRESS_S = 60.0
PING_EVERY_S = 0.02
_MOVED = re.compile(rf"vip {re.escape(VIP)}: (acquired|released), epoch \d+, reason=(\S+)")
_COMPUTE = "while True: pass"
_WRITE = """
import os, sys
while True:
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(4 << 20))
        os.fsync(file.fileno())
"""


@contextmanager
def load(folder: Path, computing: int) -> Iterator[None]:
    """So many processes that compute, and one that writes to the disk."""
    programs = [[_COMPUTE]] * computing + [[_WRITE, str(folder / "written")]]
    running = [subprocess.Popen([*DIE_WITH_US, sys.executable, "-c", *p]) for p in programs]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def moves(built: Piagents) -> Counter[str]:
    """What the agents' log says of the VIP: "acquired silence" and so on, each with its count."""
    found = _MOVED.findall((built.folder / "log").read_text())
    return Counter(f"{what} {why}" for what, why in found)


def acquired(what: Counter[str]) -> int:
    """How often anybody took the VIP."""
    return sum(count for name, count in what.items() if name.startswith("acquired"))


def _cluster(lease_ms: int, network: Network, folder: Path) -> Piagents:
    return Piagents(network, folder, election(lease_ms))


def run(seconds: float, leases_ms: list[int], computing: int) -> str:
    """All leases at once for so long; a table."""
    with ExitStack() as stack:
        built: dict[int, Piagents] = {}
        pings: dict[int, Pings] = {}
        for lease_ms in leases_ms:
            one = stack.enter_context(house(partial(_cluster, lease_ms)))
            built[lease_ms] = one
            pings[lease_ms] = stack.enter_context(Pings(one.client, VIP, PING_EVERY_S))
            pings[lease_ms].wait()
        time.sleep(5)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="piagent-load-")))
        stack.enter_context(load(folder, computing))
        before = {ms: moves(one) for ms, one in built.items()}
        since_s = time.monotonic()
        while (left_s := since_s + seconds - time.monotonic()) > 0:
            time.sleep(min(PROGRESS_S, left_s))
            so_far = {ms: acquired(moves(one) - before[ms]) for ms, one in built.items()}
            passed_s = time.monotonic() - since_s
            print(f"{passed_s:6.0f} s, moves by lease in ms: {so_far}", file=sys.stderr, flush=True)
        rows = []
        for ms, one in built.items():
            since = moves(one) - before[ms]
            why = ", ".join(f"{name} {count}" for name, count in sorted(since.items())) or "-"
            gap_ms = pings[ms].gap_s(since_s) * 1000
            rows.append([f"{ms} ms", str(acquired(since)), f"{gap_ms:.0f} ms", why])
    load_now = os.getloadavg()[2]
    title = f"{seconds:.0f} s, load average {load_now:.1f} on {os.cpu_count()} cores\n\n"
    return title + table(["lease", "moves", "longest silence", "log"], rows)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="make bench-lease", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, help="how long; 3600")
    parser.add_argument("--lease", type=int, nargs="+", default=list(LEASES_MS), help="in ms")
    parser.add_argument(
        "--computing", type=int, default=os.cpu_count(), help="processes that compute; one a core"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the houses are torn down
    print(run(args.seconds, args.lease, args.computing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
