"""`python -m benchmarks.forward`: the packet forwarder beside nftables and plain routing.

A lab of network namespaces. What nodes receive is worked off on CPU 0, each by one thread of the
kernel; frames are made, and end, on CPU 1. Alternating runs; prints medians and ratios, and writes
every sample as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine
from benchmarks.forward import runs
from benchmarks.forward.frames import FlowError
from benchmarks.forward.report import Results, judge, median, report
from benchmarks.forward.wire import WireError
from benchmarks.forward.workloads import WORKLOADS
from fastpath.packet.flow_cache import Unavailable
from piagent.adapters import netns

OUT = Path("build/bench-forward.json")
CURE = "run as root; apt install nftables iproute2 gcc"


def _say(text: str) -> None:
    print(text, flush=True)


def missing() -> list[str]:
    """What it needs and this machine has not."""
    absent = [program for program in ("nft", "ip", "cc") if shutil.which(program) is None]
    if (os.cpu_count() or 1) < 2:
        absent.append("a second CPU")
    if reason := netns.why_not():
        absent.append(f"namespaces ({reason})")
    return absent


def _names(given: str) -> list[str]:
    names = given.split(",")
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise argparse.ArgumentTypeError(
            f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}"
        )
    return names


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-forward",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one short run: shows that it works")
    parser.add_argument("--runs", type=int, help="of each way to forward and workload; 11")
    parser.add_argument("--seconds", type=float, help="length of one; 0.5")
    parser.add_argument(
        "--only", type=_names, default=list(WORKLOADS),
        help=f"some of these, with commas between: {','.join(WORKLOADS)}",
    )  # fmt: skip
    parser.add_argument(
        "--first", action="store_true",
        help="before all that the machine does otherwise, and to its harm",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT, help=f"for every sample; {OUT}")
    args = parser.parse_args(given)
    for name, value in zip(("runs", "seconds"), (1, 0.1) if args.quick else (11, 0.5), strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def _written(results: Results) -> Mapping[str, Any]:
    return {
        "machine": machine(),
        "bars": [
            {**each.bar._asdict(), **each.ratio._asdict(), "holds": each.holds}
            for each in judge(results)
        ],
        "results": {
            name: {
                way: {"median": median(found)._asdict(), "samples": [s._asdict() for s in found]}
                for way, found in samples.items()
            }
            for name, samples in results.items()
        },
    }


def main(given: list[str] | None = None) -> int:
    """Run what was asked for. 1: something that it needs is absent, or a way does not forward."""
    args = _arguments(given)
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    if absent := missing():
        _say(f"not compared, this machine has not: {', '.join(absent)} ({CURE})")
        return 1
    _say(", ".join(f"{name} {value}" for name, value in machine().items()))
    plan = runs.Plan(args.only, args.runs, args.seconds, args.first, args.quick)
    try:
        with tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder:
            results = runs.compare(Path(folder), plan, _say)
    except (FlowError, WireError, Unavailable) as error:
        _say(f"bench-forward: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        _say(f"bench-forward: {' '.join(map(str, error.cmd))}: {error.stderr or error}")
        return 1
    _say(f"\n{report(results)}")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(_written(results), indent=1))
    _say(f"\nevery sample: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
