"""Alternating runs: every way to forward in turn, again and again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.forward import frames
from benchmarks.forward.frames import Datagram, FlowError, Port
from benchmarks.forward.lab import (
    BACKEND_MAC,
    CLIENT_MAC,
    LOAD_CPU,
    PORT,
    Ends,
    backend,
)
from benchmarks.forward.nodes import Way, cpu_ns, ways
from benchmarks.forward.report import Sample
from benchmarks.forward.streams import streams
from benchmarks.forward.wire import Wire, wire
from benchmarks.forward.workloads import FLOWS, NEW_FLOWS, WORKLOADS
from benchmarks.processes import put_first
from piagent.adapters import netns

ASSURED_S = 2.1
"""After so long the forwarder takes a client's flow that it hears no answers of for a real one."""
WARM_S = 0.3
"""For TCP to find how fast it may be."""
PATIENCE_S = 10.0
"""For the first byte, on a machine with much else to do."""
LOCK = Path("/run/piagent-bench-forward.lock")
Samples = dict[str, list[Sample]]


class Plan(NamedTuple):
    """How much of what."""

    only: Sequence[str]
    runs: int
    seconds: float
    first: bool = False
    """Before everything else on the machine."""
    modest: bool = False
    """Others have something to do, too: nothing is first in line on the forwarding CPU."""


class Bench:
    """The lab with all in it."""

    def __init__(self, folder: Path, ends: Ends, found: dict[str, Way], line: Wire) -> None:
        self._folder = folder
        self._ends = ends
        self.ways = found
        self._wire = line
        self._files: dict[tuple[str, str], Path] = {}

    def establish(self) -> None:
        """Flows through every way, each seen to come out as it should; their frames in files."""
        for again in range(2):
            for name, way in self.ways.items():
                self._begin_flows(name, way)
            if not again:
                time.sleep(ASSURED_S)
        for name, way in self.ways.items():
            if way.cache is not None and way.cache.stats().flows < FLOWS:
                raise FlowError(f"{name}: the kernel carries {way.cache.stats().flows} flows only")

    def _begin_flows(self, name: str, way: Way) -> None:
        to = way.address if way.is_translated or way.is_dsr else backend(0)
        there = [frames.asked(i, to) for i in range(FLOWS)]
        made = [each.frame(way.node.mac, CLIENT_MAC) for each in there]
        with Port(way.node) as port:
            out = port.through(there, to_client=False)
            if way.is_translated:
                back = [Datagram(o.destination, o.source, o.number) for o in out]
                for each in port.through(back, to_client=True):
                    if (each.source, each.destination) != (
                        (to, PORT), frames.client_of(each.number),
                    ):  # fmt: skip
                        raise FlowError(f"{name}: an answer came out as {each}")
                port.through(there, to_client=False)
                answers = [each.frame(way.node.mac, BACKEND_MAC) for each in back]
                both = [frame for pair in zip(made, answers, strict=True) for frame in pair]
                self._write("both", name, both)
        self._write("packets", name, made)

    def _write(self, workload: str, name: str, made: Sequence[bytes]) -> None:
        file = self._folder / f"{workload}-{name}"
        frames.write(file, made)
        self._files[workload, name] = file

    def write_new_flows(self) -> None:
        """Of a run, a frame each."""
        for name in WORKLOADS["new"].ways:
            way = self.ways[name]
            made = [
                frames.asked(i, way.address).frame(way.node.mac, CLIENT_MAC)
                for i in range(NEW_FLOWS)
            ]
            self._write("new", name, made)

    @contextlib.contextmanager
    def ready_for(self, workload: str) -> Iterator[None]:
        """Frames end at the wire, and streams at the ends."""
        if WORKLOADS[workload].streams:
            yield
            return
        self._wire.sink(on=True)
        try:
            yield
        finally:
            self._wire.sink(on=False)

    def measure(self, workload: str, name: str, seconds: float) -> Sample:
        """One run of one way."""
        if WORKLOADS[workload].streams:
            return self._streams(workload, name, seconds)
        return self._datagrams(workload, name, seconds)

    def _datagrams(self, workload: str, name: str, seconds: float) -> Sample:
        way = self.ways[name]
        self._wire.frames(self._files[workload, name])
        new = workload == "new"
        if new:
            way.forget()
        before = cpu_ns(way)
        passed = self._wire.run(way.node.port_index, seconds, NEW_FLOWS if new else 0)
        spent = cpu_ns(way) - before
        if passed.forwarded == 0:
            raise FlowError(f"{name} forwards nothing of {passed.sent} frames")
        return Sample(
            passed.forwarded / passed.seconds,
            spent / passed.forwarded,
            spent / 1e9 / passed.seconds,
            (passed.sent - passed.forwarded) / passed.sent,
        )

    def _streams(self, workload: str, name: str, seconds: float) -> Sample:
        way = self.ways[name]
        with streams(self._ends, way.address, WORKLOADS[workload].streams) as running:
            time.sleep(min(WARM_S, seconds))
            bytes_before, before, began = running.received(), cpu_ns(way), time.monotonic()
            n = 0
            while n == 0 and time.monotonic() - began < PATIENCE_S:
                time.sleep(seconds)
                n = running.received() - bytes_before
            spent, passed_s = cpu_ns(way) - before, time.monotonic() - began
        if n == 0:
            raise FlowError(f"{name} forwards nothing of {WORKLOADS[workload].title}")
        return Sample(n / passed_s, spent / n, spent / 1e9 / passed_s, 0.0)

    def receive_at_once(self) -> None:
        """Have what receives go before all threads on its CPU, as interrupts do."""
        for way in self.ways.values():
            os.sched_setscheduler(way.node.receiver, os.SCHED_FIFO, os.sched_param(1))

    def put_first(self) -> None:
        """Have all that takes part go before everything else on the machine."""
        for pid in (os.getpid(), self._wire.pid):
            put_first(pid)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two on one machine would measure each other, and take each other's threads for their own."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """The lab, with flows established; waits until there is no other one."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CPU})
    try:
        with (
            _alone(),
            netns.Network("pa-bench-forward") as network,
            contextlib.ExitStack() as stack,
        ):
            ends = Ends(network)
            stack.callback(ends.close)
            found = stack.enter_context(ways(network, ends))
            ports = [way.node.host.port for way in found.values()]
            line = stack.enter_context(wire(folder, ends.client.bridge, ports, NEW_FLOWS, LOAD_CPU))
            built = Bench(folder, ends, found, line)
            built.establish()
            yield built
    finally:
        os.sched_setaffinity(0, own)


def _alternate(built: Bench, name: str, plan: Plan, say: Callable[[str], None]) -> Samples:
    """One workload. Who begins changes, so that no one always follows the same one."""
    workload = WORKLOADS[name]
    samples: Samples = {way: [] for way in workload.ways}
    for number in range(plan.runs):
        at = number % len(workload.ways)
        for way in (*workload.ways[at:], *workload.ways[:at]):
            samples[way].append(built.measure(name, way, plan.seconds))
        done = ", ".join(
            f"{way} {s[-1].rate / workload.scale:.{workload.digits}f}" for way, s in samples.items()
        )
        say(f"  {name} {number + 1}/{plan.runs}, {workload.unit}: {done}")
    return samples


def compare(folder: Path, plan: Plan, say: Callable[[str], None]) -> dict[str, Samples]:
    """Every workload that was asked for; new flows are last of the datagrams."""
    results = {}
    with bench(folder) as built:
        if not plan.modest:
            built.receive_at_once()
        if plan.first:
            built.put_first()
        if "new" in plan.only:
            built.write_new_flows()
        for name in (each for each in WORKLOADS if each in plan.only):
            with built.ready_for(name):
                results[name] = _alternate(built, name, plan, say)
    return results
