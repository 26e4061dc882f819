"""The command line of a comparison: runs what was asked for, prints, and writes every sample."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine
from benchmarks.compared import runs
from benchmarks.compared.report import Samples, judge, medians, report


def say(text: str) -> None:
    """Print at once: a run takes long."""
    print(text, flush=True)


def arguments(
    name: str, description: str | None, field: runs.Field, given: list[str] | None
) -> argparse.Namespace:
    """Of `make NAME`."""

    def names(given: str) -> list[str]:
        found = given.split(",")
        if unknown := [one for one in found if one not in field.comparisons]:
            raise argparse.ArgumentTypeError(
                f"no such comparison: {', '.join(unknown)}; there are {', '.join(every)}"
            )
        return found

    every, out = list(field.comparisons), Path(f"build/{name}.json")
    parser = argparse.ArgumentParser(
        prog=f"make {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one short run: shows that it works")
    parser.add_argument("--runs", type=int, help="of each proxy and workload; 11")
    parser.add_argument("--seconds", type=float, help="length of one; 1")
    parser.add_argument(
        "--only", type=names, default=every,
        help=f"some of these, with commas between: {','.join(every)}",
    )  # fmt: skip
    parser.add_argument(
        "--first", action="store_true",
        help="before all that the machine does otherwise, and to its harm; only as root",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=out, help=f"for every sample; {out}")
    args = parser.parse_args(given)
    for key, value in zip(("runs", "seconds"), (1, 0.1) if args.quick else (11, 1.0), strict=True):
        if getattr(args, key) is None:
            setattr(args, key, value)
    return args


def _written(field: runs.Field, results: dict[str, Samples]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "bars": [judgement._asdict() for judgement in judge(field.comparisons, results)],
        "results": {
            name: {
                "samples": {peer: [s._asdict() for s in found] for peer, found in samples.items()},
                "medians": {peer: s._asdict() for peer, s in medians(samples).items()},
            }
            for name, samples in results.items()
        },
    }


def add_servers_to_path() -> None:
    """Where servers are, which users who are not root often have not in theirs."""
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"


def run(name: str, field: runs.Field, args: argparse.Namespace) -> int:
    """What was asked for. 1: a proxy failed, or we may not do something."""
    say(", ".join(f"{key} {value}" for key, value in machine().items()))
    plan = runs.Plan(args.only, args.runs, args.seconds, args.first, args.quick)
    try:
        with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
            results = runs.compare(Path(folder), field, plan, say)
    except (RuntimeError, PermissionError) as error:
        say(f"{name}: {error}")
        return 1
    say(f"\n{report(field.comparisons, results)}")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(_written(field, results), indent=1))
    say(f"\nevery sample: {args.out}")
    return 0
