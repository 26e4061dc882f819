"""How long giving out takes: python -m tests.core.allocation_bench.

What must not grow with a pool is counted in test_allocation_scale.py.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from piagent.core.allocation import allocate
from piagent.core.node_ports import PortRequest, allocate_node_ports
from tests.core.allocating import REQUIRE, ask, held_of, pool

COUNT = 10_000
MILLION, ENDLESS = "10.16.0.0/12", "fd00::/64"
RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("a million IPv4 addresses", MILLION, {}),
    ("an IPv6 /64", ENDLESS, {}),
    ("one address of each", f"{MILLION} {ENDLESS}", {"families": REQUIRE}),
    ("one sharing key, one port", MILLION, {"key": "k"}),
    ("all but 256 refused", "10.0.0.0/24", {}),
]


def main() -> None:
    """Print the seconds of one call each."""
    print(f"{COUNT} requests, seconds:")
    for what, addresses, more in RUNS:
        pools = [pool(addresses, avoid_buggy_ips=True)]
        requests = [ask(f"service/{number}", **more) for number in range(COUNT)]
        started = perf_counter()
        held = held_of(allocate(pools, requests, {}))
        fresh = perf_counter()
        allocate(pools, [*requests, ask("new", **more)], held)
        print(f"{what:26} all new {fresh - started:.2f}, one new {perf_counter() - fresh:.2f}")
    ports = [PortRequest(service=f"s{number}", name="http") for number in range(COUNT)]
    started = perf_counter()
    allocate_node_ports(ports, {}, range(1024, 65536))
    print(f"{'node ports':26} all new {perf_counter() - started:.2f}")


if __name__ == "__main__":
    main()
