"""Runs Spin: one search of one model with its options, and what came of it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

HERE = Path(__file__).parent
WHY_NOT = (
    None
    if shutil.which("spin") and shutil.which("cc")
    else "spin or a C compiler is not installed (apt install spin build-essential)"
)

_STORED = {
    "exact": "-DCOLLAPSE",  # every state, compressed
    "hashed": "-DHC4",  # 64 bits of each state: may overlook one in 2**64 for every pair
    "bits": "-DBITSTATE",  # a few bits of each state: overlooks some
}
_TRAIL_LINES = 100
_MEMORY_MIB = 4000
_BIT_TABLE = 34
"""2**34 bits, 2 GiB."""
_FIELDS = {
    "states": r"^\s*([0-9.e+]+) states, stored",
    "depth": r"depth reached ([0-9]+)",
    "errors": r"errors: ([0-9]+)",
    "memory_mib": r"^\s*([0-9.]+)\s+total actual memory usage",
}


class Search(msgspec.Struct, frozen=True):
    """What is searched."""

    title: str
    options: str
    """Names of the model's macros, with values: `RENEWALS GIVE_UPS=1`."""
    model: str = "lease"
    storage: str = "exact"
    depth: int = 3_000_000
    """Steps of the longest run; the stack for it is part of the memory."""


class Outcome(msgspec.Struct, frozen=True):
    """What the search found."""

    complete: bool
    """Every state that can be reached was visited; or an error ended the search."""
    states: int
    depth: int
    errors: int
    seconds: float
    memory_mib: float
    violated: str = ""
    """The assertion that did not hold."""
    trail: str = ""
    """The last steps to the error."""


class SpinError(Exception):
    """The model does not compile, or the search said nothing that is understood."""


def run(search: Search, *, limit_s: float, optimise: str = "-O2") -> Outcome:
    """Search until done, an error is found, or the time or memory is used up."""
    with tempfile.TemporaryDirectory(prefix="piagent-model-") as name:
        folder = Path(name)
        model = folder / f"{search.model}.pml"
        shutil.copy(HERE / model.name, model)
        macros = [f"-D{option}" for option in search.options.split()]
        _must(["spin", "-a", *macros, model.name], folder)
        storage = _STORED[search.storage]
        flags = [optimise, "-w", "-DSAFETY", "-DNOCLAIM", storage, f"-DMEMLIM={_MEMORY_MIB}"]
        _must(["cc", *flags, "-o", "pan", "pan.c"], folder)
        began = time.monotonic()
        text, timely = _search(folder, search, limit_s)
        seconds = time.monotonic() - began
        found = {name: re.search(regex, text, re.MULTILINE) for name, regex in _FIELDS.items()}
        if None in found.values():
            raise SpinError(text)
        values = {name: float(match[1]) for name, match in found.items() if match}
        cut_short = "too small" in text or "MEMLIM" in text or not timely
        errors = int(values["errors"])
        violated = re.search(r"assertion violated (.*) \(at depth", text)
        return Outcome(
            complete=errors > 0 or (not cut_short and search.storage != "bits"),
            states=int(values["states"]),
            depth=int(values["depth"]),
            errors=errors,
            seconds=seconds,
            memory_mib=values["memory_mib"],
            violated=violated[1] if violated else "",
            trail=_trail(folder, macros, model.name) if errors else "",
        )


def _search(folder: Path, search: Search, limit_s: float) -> tuple[str, bool]:
    """(what pan says, whether it came to its end in time)."""
    size = [f"-w{_BIT_TABLE}"] if search.storage == "bits" else []
    command = ["./pan", "-E", f"-m{search.depth}", *size]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as pan:
        try:
            return pan.communicate(timeout=limit_s)[0], True
        except subprocess.TimeoutExpired:
            pan.send_signal(signal.SIGINT)  # it then says how far it came
            return pan.communicate()[0], False
        finally:
            pan.kill()


def _trail(folder: Path, macros: list[str], model: str) -> str:
    lines = _must(["spin", "-t", "-p", *macros, model], folder).splitlines()
    return "\n".join(lines[-_TRAIL_LINES:])


def _must(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SpinError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout
