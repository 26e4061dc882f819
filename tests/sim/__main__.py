"""Play many histories: `python -m tests.sim --seeds 1000 --brokers 3`.

With PIAGENT_SEED=n in the environment that one history is played and its trace printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack

import msgspec

from tests.sim.history import play
from tests.sim.houses import HOUSES
from tests.sim.mutants import MUTANTS, applied
from tests.sim.world import Options

_PROGRESS_S = 5.0


def main() -> int:
    """Exit 0 when no history broke the protocol, 1 at the first that did."""
    args = _arguments()
    with ExitStack() as stack:
        options = HOUSES[args.house]
        if args.mutant:
            options = stack.enter_context(applied(args.mutant)).options
        changes = {"brokers": args.brokers, "nodes": args.nodes}
        options = msgspec.structs.replace(
            options, **{name: value for name, value in changes.items() if value}
        )
        only = os.environ.get("PIAGENT_SEED")
        seeds = range(args.first, args.first + args.seeds) if only is None else [int(only)]
        return _play_all(seeds, options, trace=only is not None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--house", choices=HOUSES, default="plain")
    parser.add_argument("--brokers", type=int, help="instead of the house's")
    parser.add_argument("--nodes", type=int, help="instead of the house's")
    parser.add_argument("--mutant", choices=MUTANTS, help="remove a rule; brings its own house")
    return parser.parse_args()


def _play_all(seeds: range | list[int], options: Options, *, trace: bool) -> int:
    began = told = time.monotonic()
    acquired = steps = 0
    for count, seed in enumerate(seeds, start=1):
        result = play(seed, options)
        acquired += result.acquired
        steps += result.steps
        if trace:
            print(result.trace)
        if result.violation is not None:
            print(result.violation)
            return 1
        now = time.monotonic()
        if now - told > _PROGRESS_S or count == len(seeds):
            told = now
            print(
                f"{count}/{len(seeds)} histories, {acquired} acquisitions, {steps} steps, "
                f"{now - began:.0f} s: no violation",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
