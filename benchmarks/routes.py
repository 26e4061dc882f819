"""What finding a request's route takes, without I/O: `make bench-routes`.

Nanoseconds a look-up among 1, 100 and 10,000 routes, medians of several runs. Each request asks for
another route, all in turn, so the more there are, the fewer of them does the CPU's cache have.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from fastpath.http import _probe as probe
from fastpath.tables import Gateway, Route

SIZES = (1, 100, 10_000)
REQUESTS_MAX = 1000
"""Different ones in a run: their heads take room in the cache, too."""


def route(name: str, host: str, path: str, **more: Any) -> Route:
    """A route that leads nowhere."""
    return Route(name, host, path, False, (), 0, 0, **more)


def by_host(n: int) -> tuple[Route, ...]:
    """Each route has a host of its own."""
    return tuple(route(f"r{i}", f"h{i}.example.com", "/") for i in range(n))


def by_wildcard(n: int) -> tuple[Route, ...]:
    """Each has a wildcard of its own."""
    return tuple(route(f"r{i}", f"*.h{i}.example.com", "/") for i in range(n))


def by_path(n: int) -> tuple[Route, ...]:
    """All are of one host; each has a prefix of its own."""
    return tuple(route(f"r{i}", "h.example.com", f"/api/v{i % 10}/p{i}") for i in range(n))


CASES = {"by host": by_host, "by wildcard": by_wildcard, "by path": by_path}


def request_for(one: Route) -> bytes:
    """A request that takes the route."""
    path = one.path.rstrip("/") + "/items/42"
    return f"GET {path}?q=1 HTTP/1.1\r\nHost: {one.host.replace('*', 'www')}\r\n\r\n".encode()


def measure(runs: int, rounds: int) -> dict[str, dict[int, float]]:
    """Nanoseconds by case and number of routes."""
    found: dict[str, dict[int, float]] = {}
    for case, make in CASES.items():
        for n in SIZES:
            routes = make(n)
            table = probe.Table(Gateway("g", False, routes))
            texts = [request_for(one) for one in routes[:: max(1, n // REQUESTS_MAX)]]
            if any(table.find(text) is None for text in texts):
                raise RuntimeError(f"{case}: a request found no route")
            times = rounds * REQUESTS_MAX // len(texts)
            taken = [table.nanoseconds(texts, times)[0] for _ in range(runs)]
            found.setdefault(case, {})[n] = round(statistics.median(taken), 1)
    return found


def main(words: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="make bench-routes", description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=200, help="look-ups of a run, in thousands")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(words)
    found = measure(args.runs, args.rounds)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print("ns a look-up" + "".join(f"{n:>10,}" for n in SIZES) + "  routes")
    for case, taken in found.items():
        print(f"{case:<12}" + "".join(f"{taken[n]:>10.1f}" for n in SIZES))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
