"""Structures of the engine at random beside their models: `make fuzz-structures`; HTTP messages and
whole exchanges: `make fuzz-http`.

Ten million steps of each, if not told otherwise, under AddressSanitizer and UBSan where they work;
a tenth of that of `exchanges`. Exit 0 when nothing ever differed from its model.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time

from tests.fuzz.exchanges import exchange
from tests.fuzz.structures import STRUCTURES, fuzz
from tests.sanitizers.watched import (
    ROOT,
    SANITIZERS,
    build,
    environment,
    findings,
    forget,
    interpreter,
    why_not,
)

REPORT_S = 5.0
ADDRESS = SANITIZERS["address"]
EXCHANGES = "exchanges"
STEPS_OF_AN_EXCHANGE = 10


def rate(steps: int, since: float) -> str:
    """Steps in all and in a second."""
    return f"{steps:>12,} steps {steps / (time.monotonic() - since):>12,.0f}/s"


def watch(name: str, n_steps: int, choice: int) -> bool:
    """Drive one structure and say how it goes; whether all was well."""
    started = last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_S:
            last = time.monotonic()
            print(f"{name:10}{rate(done, started)}", flush=True)

    try:
        if name == EXCHANGES:
            n_steps //= STEPS_OF_AN_EXCHANGE
            exchange(n_steps, choice=choice, progress=progress)
        else:
            fuzz(name, n_steps, choice=choice, progress=progress)
    except AssertionError as error:
        print(f"{name:10}FAILED: {error}", flush=True)
        return False
    print(f"{name:10}{rate(n_steps, started)}  good", flush=True)
    return True


def under_sanitizers(arguments: list[str]) -> int:
    """The same once more, by the Python that has them."""
    build(ADDRESS)
    forget(ADDRESS)
    command = [str(interpreter(ADDRESS)), "-m", "tests.fuzz", "--here", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(ADDRESS), check=False)
    print(findings(ADDRESS) or "address: nothing found")
    return 1 if findings(ADDRESS) or done.returncode else 0


def main() -> int:
    """Drive those asked for."""
    names = [*STRUCTURES, EXCHANGES]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000_000, help="of each structure")
    parser.add_argument("--here", action="store_true", help="with the engine as it is built here")
    parser.add_argument(
        "--choice", type=int, default=random.getrandbits(32), help="what an earlier run printed"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(names)}")
    if not arguments.here:
        if not (reason := why_not(ADDRESS)):
            return under_sanitizers(sys.argv[1:])
        print(f"without sanitizers: {reason}")
    print(f"--choice {arguments.choice}", flush=True)
    chosen = arguments.names or list(STRUCTURES)
    good = [watch(name, arguments.steps, arguments.choice) for name in chosen]
    return os.EX_OK if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
