"""`python -m benchmarks.http`: the gateway beside nginx, HAProxy, Traefik, Caddy and a relay.

One worker each on CPU 0, clients and backends on CPU 1, alternating runs; prints medians and
ratios, and writes every sample as JSON. Traefik and Caddy are left out where they are not, and by
--quick, which also has fewer routes.
"""

from __future__ import annotations

import functools
import os
import sys

from benchmarks import peers
from benchmarks.compared import command, runs
from benchmarks.http.comparisons import C_PEERS, COMPARISONS
from benchmarks.http.proxies import GO_CURE, absent, add_scripts_to_path, proxies

NEEDED = ("nginx", "haproxy", "mosquitto", "cc")
QUICK_ROUTES = 1000
CURE = "apt install nginx haproxy mosquitto gcc"


def missing() -> list[str]:
    """What the comparison needs and this machine has not."""
    few = ["a second CPU"] if (os.cpu_count() or 1) < 2 else []
    return [name for name in peers.missing() if name in NEEDED] + few


def main(given: list[str] | None = None) -> int:
    """Run what was asked for. 1: something that it needs is absent, or a proxy failed."""
    field = runs.Field(COMPARISONS, proxies, C_PEERS)
    args = command.arguments("bench-http", __doc__, field, given)
    command.add_servers_to_path()
    add_scripts_to_path()
    if lacking := missing():
        command.say(f"not compared, this machine has not: {', '.join(lacking)} ({CURE})")
        return 1
    if args.quick:
        start = functools.partial(proxies, n_routes=QUICK_ROUTES, go=())
        return command.run("bench-http", field._replace(start=start), args)
    if without := absent():
        command.say(f"without {' and '.join(without)}: {GO_CURE}")
    return command.run("bench-http", field, args)


if __name__ == "__main__":
    sys.exit(main())
