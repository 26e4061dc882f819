"""The engine's tests under a sanitizer: `make asan`, `make tsan`.

Further arguments are pytest's. Exit 0 when every test passed and the sanitizer found nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.sanitizers.watched import SANITIZERS, build, findings, forget, run_pytest, why_not

ALL = ["-q", "--numprocesses=2", "--dist=loadfile", "tests/fastpath"]


def main() -> int:
    """Build, test, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitizers", description=__doc__)
    parser.add_argument("sanitizer", choices=SANITIZERS)
    parser.add_argument("--build", action="store_true", help="only build, and show how it goes")
    arguments, rest = parser.parse_known_args()
    sanitizer = SANITIZERS[arguments.sanitizer]
    if reason := why_not(sanitizer):
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    build(sanitizer, None if arguments.build else subprocess.DEVNULL)
    if arguments.build:
        return 0
    forget(sanitizer)
    code = run_pytest(sanitizer, rest or ALL)
    found = findings(sanitizer)
    print(found or f"{sanitizer.name}: nothing found")
    return 1 if found or code else 0


if __name__ == "__main__":
    raise SystemExit(main())
