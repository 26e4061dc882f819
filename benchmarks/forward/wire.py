"""The wire at the far end of the nodes' interfaces (wire.c), under command."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.commanded import Commanded
from benchmarks.processes import pinned
from piagent.adapters import netns

SLOT = 64
"""Bytes of a file of frames for one of them."""
MAC_PREFIX = bytes.fromhex("02be6e00")
"""Of those that frames are forwarded to."""
HERE = Path(__file__).parent


class Passed(NamedTuple):
    """What a run did."""

    forwarded: int
    others: int
    """Came out of the interface, but not forwarded."""
    sent: int
    lost: int
    """Neither came out in a time in which it should have."""
    seconds: float


class WireError(RuntimeError):
    """It ended, and said why on standard error."""


class Wire(Commanded):
    """The process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(process, "the wire", WireError)
        self.hear("ready", "the start")

    def frames(self, file: Path) -> int:
        """Send these from now on, one after the other, again and again; how many they are."""
        return int(self.say(f"frames {file}", "frames")[0])

    def sink(self, *, on: bool) -> None:
        """End what comes out of the interfaces, or let it pass."""
        self.say(f"sink {'on' if on else 'off'}", "sink")

    def run(self, index: int, seconds: float, limit: int = 0) -> Passed:
        """Send into an interface; no more than `limit` frames, if not 0."""
        found = self.say(f"run {index} {seconds} {limit}", "done")
        forwarded, others, sent, lost = map(int, found[:4])
        return Passed(forwarded, others, sent, lost, float(found[4]))


@contextlib.contextmanager
def wire(
    folder: Path, where: netns.Namespace, interfaces: Sequence[str], frames_max: int, cpu: int
) -> Iterator[Wire]:
    """Between interfaces of a namespace, on a CPU of its own."""
    program = folder / "wire"
    subprocess.run(["cc", "-O2", "-pthread", "-o", str(program), str(HERE / "wire.c")], check=True)
    argv = where.command([str(program), MAC_PREFIX.hex(), str(frames_max), *interfaces])
    with subprocess.Popen(
        pinned(cpu, *argv),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield Wire(process)
        finally:
            process.terminate()
