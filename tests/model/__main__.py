"""Search the models: `make model`, or `python -m tests.model --short`.

Exit 0 when every search came to its end without an error and every mutant was found.
"""

from __future__ import annotations

import argparse
import sys

from tests.model.searches import LONG, MUTANTS, PARTIAL, SHORT
from tests.model.spin import WHY_NOT, Outcome, Search, run


def main() -> int:
    """Print a line for each search."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--short", action="store_true", help="what `make test` searches")
    parser.add_argument("--partial", action="store_true", help="also what is too large to finish")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one search")
    args = parser.parse_args()
    if WHY_NOT:
        print(f"skipped: {WHY_NOT}")
        return 0
    print(f"{'search':52} {'states':>12} {'depth':>8} {'errors':>6} {'s':>7} {'MiB':>6}  result")
    searches = SHORT if args.short else SHORT + LONG
    good = [_clean(search, run(search, limit_s=args.limit)) for search in searches]
    for search in PARTIAL if args.partial else ():
        outcome = run(search, limit_s=args.limit)
        _line(search.title, outcome, "ERROR" if outcome.errors else "no error so far")
        good.append(outcome.errors == 0)
    for title, search in MUTANTS.items():
        outcome = run(search, limit_s=args.limit)
        _line(f"without {title}", outcome, "found" if outcome.errors else "NOT FOUND")
        good.append(outcome.errors > 0)
    return 0 if all(good) else 1


def _clean(search: Search, outcome: Outcome) -> bool:
    if outcome.errors:
        _line(search.title, outcome, "ERROR")
        print(outcome.trail)
    else:
        how = f"complete ({search.storage})" if outcome.complete else "NOT FINISHED"
        _line(search.title, outcome, how)
    return outcome.complete and not outcome.errors


def _line(title: str, outcome: Outcome, result: str) -> None:
    numbers = f"{outcome.states:12,} {outcome.depth:8} {outcome.errors:6}"
    cost = f"{outcome.seconds:7.1f} {outcome.memory_mib:6.0f}"
    print(f"{title:52} {numbers} {cost}  {result}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
