"""Play many histories: `python -m tests.sim --seeds 2000`, in every house or in those named.

With PIAGENT_SEED=n in the environment and one --house that history is played, its trace printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from typing import NamedTuple

import msgspec

from tests.sim.history import Result, play
from tests.sim.houses import HOUSES
from tests.sim.mutants import MUTANTS, applied
from tests.sim.world import Options

_PROGRESS_S = 10.0
_CHUNK = 20
"""Histories that a process plays before it reports."""


class Chunk(NamedTuple):
    """Some histories of one house."""

    house: str
    seeds: range
    changes: dict[str, int]


class Report(NamedTuple):
    """How they went."""

    house: str
    histories: int
    counts: Counter[str]
    cpu_s: float
    broken: Result | None


def main() -> int:
    """Exit 0 when no history broke the protocol, 1 when one did."""
    args = _arguments()
    changes = {name: value for name in ("brokers", "nodes") if (value := getattr(args, name))}
    seed = os.environ.get("PIAGENT_SEED")
    if args.mutant or seed is not None:
        return _show(args, changes, None if seed is None else int(seed))
    houses = args.house or list(HOUSES)
    chunks = list(_chunks(houses, range(args.first, args.first + args.seeds), changes))
    return _play_all(chunks, args.jobs, keep_going=args.keep_going)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many histories of each house")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--house", choices=HOUSES, action="append", help="default: every house")
    parser.add_argument("--brokers", type=int, help="instead of the house's")
    parser.add_argument("--nodes", type=int, help="instead of the house's")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--keep-going", action="store_true", help="also after a violation")
    parser.add_argument("--mutant", choices=MUTANTS, help="remove a rule; brings its own house")
    return parser.parse_args()


def _chunks(houses: Sequence[str], seeds: range, changes: dict[str, int]) -> Iterator[Chunk]:
    """All houses by turns, so that each has been played soon."""
    for at in range(0, len(seeds), _CHUNK):
        for house in houses:
            yield Chunk(house, seeds[at : at + _CHUNK], changes)


def _play_chunk(chunk: Chunk) -> Report:
    options = msgspec.structs.replace(HOUSES[chunk.house], **chunk.changes)
    began, counts = time.process_time(), Counter[str]()
    for played, seed in enumerate(chunk.seeds, start=1):
        result = play(seed, options)
        counts += result.counts
        if result.violation is not None:
            return Report(chunk.house, played, counts, time.process_time() - began, result)
    return Report(chunk.house, len(chunk.seeds), counts, time.process_time() - began, None)


def _play_all(chunks: list[Chunk], jobs: int, *, keep_going: bool) -> int:
    began = told = time.monotonic()
    total = sum(len(chunk.seeds) for chunk in chunks)
    reports: list[Report] = []
    with get_context("fork").Pool(jobs) as pool:
        for report in pool.imap_unordered(_play_chunk, chunks):
            reports.append(report)
            if report.broken is not None:
                _tell(report.house, report.broken)
                if not keep_going:
                    return 1
            now = time.monotonic()
            if now - told > _PROGRESS_S:
                told, done = now, sum(each.histories for each in reports)
                print(f"{done}/{total} histories, {now - began:.0f} s", flush=True)
    _summary(reports, time.monotonic() - began)
    return int(any(report.broken is not None for report in reports))


def _tell(house: str, result: Result) -> None:
    print(result.trace)
    print(f"\nhouse {house}: {result.violation}")
    print(f"see it again: PIAGENT_SEED={result.seed} python -m tests.sim --house {house}")


def _summary(reports: list[Report], wall_s: float) -> None:
    print(f"\n{'house':28} histories  faults  owners   steps  us/step")
    total = Counter[str]()
    for house in dict.fromkeys(report.house for report in reports):
        mine = [report for report in reports if report.house == house]
        counts = sum((report.counts for report in mine), Counter[str]())
        total += counts
        histories, cpu_s = sum(r.histories for r in mine), sum(r.cpu_s for r in mine)
        print(
            f"{house:28} {histories:9} {counts['faults']:7} {counts['acquired']:7} "
            f"{counts['steps']:7} {cpu_s / max(1, counts['steps']) * 1e6:8.0f}"
        )
    why = [f"{what} {count}" for what, count in sorted(total.items()) if ": " in what]
    print("\n" + "; ".join(why))
    histories, cpu_s = sum(r.histories for r in reports), sum(r.cpu_s for r in reports)
    broken = sum(report.broken is not None for report in reports) or "no"
    print(f"\n{histories} histories, {cpu_s:.0f} s of CPU in {wall_s:.0f} s: {broken} violation(s)")


def _show(args: argparse.Namespace, changes: dict[str, int], seed: int | None) -> int:
    """One history with its trace, or a mutant's search."""
    with ExitStack() as stack:
        name = (args.house or ["plain"])[0]
        options = HOUSES[name]
        if args.mutant:
            options = stack.enter_context(applied(args.mutant)).options
        options = msgspec.structs.replace(options, **changes)
        seeds = range(args.first, args.first + args.seeds) if seed is None else (seed,)
        return _search(args.mutant or name, options, seeds, trace=seed is not None)


def _search(name: str, options: Options, seeds: Sequence[int], *, trace: bool) -> int:
    for seed in seeds:
        result = play(seed, options, trace=trace)
        if result.violation is not None:
            _tell(name, result)
            return 1
        if trace:
            print(result.trace)
    print(f"{len(seeds)} histories: no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
