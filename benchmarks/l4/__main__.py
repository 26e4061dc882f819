"""`python -m benchmarks.l4`: the L4 proxy beside HAProxy, nginx stream and a minimal relay.

One worker each on CPU 0, clients and backends on CPU 1, alternating runs; prints medians and
ratios, and writes every sample as JSON.
"""

from __future__ import annotations

import os
import sys

from benchmarks import peers
from benchmarks.compared import command, runs
from benchmarks.l4.comparisons import COMPARISONS
from benchmarks.l4.proxies import proxies

STREAM_MODULE = "nginx's stream module"
FIELD = runs.Field(COMPARISONS, proxies, ("haproxy",))


def missing() -> list[str]:
    """What the comparison needs and this machine has not."""
    absent = peers.missing()
    if "nginx" not in absent and not peers.nginx_modules():
        absent.append(STREAM_MODULE)
    if (os.cpu_count() or 1) < 2:
        absent.append("a second CPU")
    return absent


def main(given: list[str] | None = None) -> int:
    """Run what was asked for. 1: something that it needs is absent, or a proxy failed."""
    args = command.arguments("bench-l4", __doc__, FIELD, given)
    command.add_servers_to_path()
    if absent := missing():
        command.say(f"not compared, this machine has not: {', '.join(absent)} ({peers.CURE})")
        return 1
    return command.run("bench-l4", FIELD, args)


if __name__ == "__main__":
    sys.exit(main())
