"""The protocol with one rule removed at a time: the simulation has to notice each.

A mutant replaces one method or two while it is applied. Nothing in the production code knows of
mutants. `python -m tests.sim.mutants` prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context

import pytest

from tests.sim.agent_mutants import AGENT_MUTANTS
from tests.sim.history import play
from tests.sim.lease_mutants import LEASE_MUTANTS
from tests.sim.mutant import Mutant

MUTANTS: dict[str, Mutant] = LEASE_MUTANTS | AGENT_MUTANTS

SEARCHED = 400
"""Seeds tried after the kept one, should that not find it any more."""


@contextmanager
def applied(name: str) -> Iterator[Mutant]:
    """The rule is removed inside, and back afterwards."""
    mutant = MUTANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        if mutant.patch is not None:
            mutant.patch(patch)
        yield mutant


def search(name: str, *, kept: bool = True) -> tuple[int, str] | None:
    """A seed whose history goes wrong without the rule, and how; None when there is none."""
    with applied(name) as mutant:
        for seed in (*((mutant.kept_seed,) if kept else ()), *range(SEARCHED)):
            violation = play(seed, mutant.options).violation
            if violation is not None and mutant.caught_by(violation):
                return seed, violation
    return None


def main() -> int:
    """Print rule, what was removed, the seed, and what happened; 1 if one is not noticed."""
    missed = 0
    print(f"{'rule':12}{'removed':44}{'house':16}{'seed':>5}  what happened")
    with get_context("fork").Pool(2) as pool:
        for name, found in pool.imap(_search, MUTANTS):
            mutant = MUTANTS[name]
            house = mutant.house if isinstance(mutant.house, str) else "(its own)"
            seed, what = ("-", "NOTHING") if found is None else (found[0], _short(found[1]))
            missed += found is None
            print(f"{mutant.rule:12}{mutant.removed:44}{house:16}{seed:>5}  {what}", flush=True)
    print(f"\n{len(MUTANTS)} mutants, {missed} of them not noticed")
    return 1 if missed else 0


def _search(name: str) -> tuple[str, tuple[int, str] | None]:
    return name, search(name)


def _short(violation: str) -> str:
    return violation.partition(" at ")[2]


if __name__ == "__main__":
    sys.exit(main())
