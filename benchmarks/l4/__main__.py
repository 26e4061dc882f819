"""`python -m benchmarks.l4`: the L4 proxy beside HAProxy, nginx stream and a minimal relay.

One worker each on CPU 0, clients and backends on CPU 1, alternating runs; prints medians and
ratios, and writes every sample as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.__main__ import machine
from benchmarks.l4 import runs
from benchmarks.l4.comparisons import COMPARISONS
from benchmarks.l4.report import Samples, judge, medians, report

OUT = Path("build/bench-l4.json")
STREAM_MODULE = "nginx's stream module"


def _say(text: str) -> None:
    print(text, flush=True)


def missing() -> list[str]:
    """What the comparison needs and this machine has not."""
    absent = peers.missing()
    if "nginx" not in absent and not peers.nginx_modules():
        absent.append(STREAM_MODULE)
    if (os.cpu_count() or 1) < 2:
        absent.append("a second CPU")
    return absent


def _names(given: str) -> list[str]:
    names = given.split(",")
    if unknown := [name for name in names if name not in COMPARISONS]:
        raise argparse.ArgumentTypeError(
            f"no such comparison: {', '.join(unknown)}; there are {', '.join(COMPARISONS)}"
        )
    return names


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-l4",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one short run: shows that it works")
    parser.add_argument("--runs", type=int, help="of each proxy and workload; 11")
    parser.add_argument("--seconds", type=float, help="length of one; 1")
    parser.add_argument(
        "--only", type=_names, default=list(COMPARISONS),
        help=f"some of these, with commas between: {','.join(COMPARISONS)}",
    )  # fmt: skip
    parser.add_argument(
        "--first", action="store_true",
        help="before all that the machine does otherwise, and to its harm; only as root",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT, help=f"for every sample; {OUT}")
    args = parser.parse_args(given)
    for name, value in zip(("runs", "seconds"), (1, 0.1) if args.quick else (11, 1.0), strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def _written(results: dict[str, Samples]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "bars": [judgement._asdict() for judgement in judge(results)],
        "results": {
            name: {
                "samples": {peer: [s._asdict() for s in found] for peer, found in samples.items()},
                "medians": {peer: s._asdict() for peer, s in medians(samples).items()},
            }
            for name, samples in results.items()
        },
    }


def main(given: list[str] | None = None) -> int:
    """Run what was asked for. 1: something that it needs is absent, or a proxy failed."""
    args = _arguments(given)
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # where servers are
    if absent := missing():
        _say(f"not compared, this machine has not: {', '.join(absent)} ({peers.CURE})")
        return 1
    _say(", ".join(f"{name} {value}" for name, value in machine().items()))
    plan = runs.Plan(args.only, args.runs, args.seconds, args.first)
    try:
        with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
            results = runs.compare(Path(folder), plan, _say)
    except (RuntimeError, PermissionError) as error:
        _say(f"bench-l4: {error}")
        return 1
    _say(f"\n{report(results)}")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(_written(results), indent=1))
    _say(f"\nevery sample: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
