"""Runs Python with an engine that a sanitizer of GCC watches (`PIAGENT_SANITIZE`, setup.py).

CPython itself is not built with it, so the sanitizer's library has to be loaded before anything
else; only Python gets it, no other program that a test starts. What it finds goes to files, one a
process: a test may swallow the output of the process that it came from.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


class Sanitizer(NamedTuple):
    """One that the engine can be built with."""

    name: str
    """The value of PIAGENT_SANITIZE."""
    libraries: tuple[str, ...]
    """GCC's, to be loaded first."""
    options: dict[str, str]
    """Environment variables; `{log}` stands for where findings go."""
    through: str = ""
    """A command that starts Python for it."""


SANITIZERS = {
    "address": Sanitizer(
        "address",
        ("libasan.so", "libubsan.so"),
        {
            # CPython leaves much behind when it ends, so leaks are not looked for.
            "ASAN_OPTIONS": "detect_leaks=0:handle_abort=1:log_path={log}",
            # Its words go to standard error all the same; AddressSanitizer reports the abort.
            "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1:log_path={log}",
            # Its own allocator hides from the sanitizer what it gives out.
            "PYTHONMALLOC": "malloc",
        },
    ),
    "thread": Sanitizer(
        "thread",
        ("libtsan.so",),
        {"TSAN_OPTIONS": "log_path={log}"},
        # It knows where memory is mapped, which a kernel with vm.mmap_rnd_bits > 28 randomises.
        "setarch -R ",
    ),
}


def library(name: str) -> Path | None:
    """Where GCC keeps a library of its own; None when it has none of that name."""
    try:
        found = subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
    except OSError:
        return None
    path = Path(found.stdout.strip())
    return path.resolve() if path.is_absolute() else None


def why_not(sanitizer: Sanitizer) -> str:
    """Why it cannot be used here; empty when it can."""
    missing = [name for name in sanitizer.libraries if library(name) is None]
    if missing:
        return f"gcc has no {missing[0]} here: apt install gcc"
    folder(sanitizer).mkdir(parents=True, exist_ok=True)
    command = [str(interpreter(sanitizer)), "-c", ""]
    done = subprocess.run(
        command, env=environment(sanitizer), capture_output=True, text=True, check=False
    )
    said = (done.stdout + done.stderr + findings(sanitizer)).strip()
    return f"python does not start with it: {said}" if done.returncode else ""


def folder(sanitizer: Sanitizer) -> Path:
    """Where its engine is built, apart from the one that is used."""
    return ROOT / "build" / sanitizer.name


def build(sanitizer: Sanitizer, output: int | None = subprocess.DEVNULL) -> None:
    """Build its engine, or what changed of it."""
    subprocess.run(
        [sys.executable, "setup.py", "build"],
        cwd=ROOT,
        env=os.environ | {"PIAGENT_SANITIZE": sanitizer.name, "PIAGENT_PROBE": "1"},
        stdout=output,
        check=True,
    )


def interpreter(sanitizer: Sanitizer) -> Path:
    """A program that is this Python with the sanitizer loaded."""
    path = folder(sanitizer) / "python"
    preload = ":".join([str(library(name)) for name in sanitizer.libraries])
    command = f"{sanitizer.through}env LD_PRELOAD={preload} {sys.executable}"
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path


def environment(sanitizer: Sanitizer) -> dict[str, str]:
    """What its processes are to find: its engine before ours, and where findings go."""
    log = folder(sanitizer) / "log" / "found"
    log.parent.mkdir(parents=True, exist_ok=True)
    return (
        os.environ
        | {name: value.format(log=log) for name, value in sanitizer.options.items()}
        | {
            "PIAGENT_SANITIZE": sanitizer.name,
            "PYTHONPATH": f"{folder(sanitizer) / 'lib'}:{ROOT}",
            # The folder of now has a `fastpath` as well.
            "PYTHONSAFEPATH": "1",
        }
    )


def findings(sanitizer: Sanitizer) -> str:
    """What it has found since `forget`."""
    files = sorted((folder(sanitizer) / "log").glob("found*"))
    return "\n".join([file.read_text(errors="replace") for file in files])


def forget(sanitizer: Sanitizer) -> None:
    """Take away the findings of before."""
    for file in (folder(sanitizer) / "log").glob("found*"):
        file.unlink()


def run_pytest(sanitizer: Sanitizer, arguments: Sequence[str]) -> int:
    """Run tests with its engine; pytest's exit code."""
    options = ["-p", "tests.sanitizers.plugin", "-p", "no:cacheprovider", "--capture=sys"]
    command = [str(interpreter(sanitizer)), "-m", "pytest", *options, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(sanitizer), check=False).returncode
