"""The simulated house: virtual time, brokers, nodes and the LAN, all from one seed.

Time is an integer number of nanoseconds. Everything that happens is an event in one heap, so a
seed gives the same history each time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct

from piagent.core.model import Timing
from tests.sim.checker import Checker

MS = 1_000_000
S = 1_000 * MS
WALL_MS = 1_790_000_000_000

TIMING = Timing(
    lease_ms=900, renew_ms=200, wait_ms=918, guard_ms=0, attempt_ms=250, stagger_ms=40, lag_ms=400
)
"""The fast profile without its margins: no guard, no slack, W = L * (1 + rho)."""
RATES_PPM = (-9852, 0, 9950)
"""Rates of lease clocks: the extremes differ by rho = 2 %."""


class Options(Struct, frozen=True, kw_only=True):
    """One kind of house."""

    brokers: int = 1
    nodes: int = 3
    keys: int = 2
    serial: bool = True
    """Serial fan-out (A1), the weakest broker allowed; otherwise a total order."""
    twins: bool = False
    """All nodes have the same name."""
    secrets: bool = False
    """One node has another secret."""
    mixed: bool = False
    """One node has another configuration: it neither takes the others' messages nor they its."""
    queue: int = 0
    """A broker drops what a subscriber leaves waiting above this number; 0: never."""
    noise_per_s: int = 0
    """Other messages to every subscriber."""
    faults_per_s: float = 1.0
    favourites: tuple[str, ...] = ()
    """Faults that are more frequent than usual."""
    slow_removal: bool = False
    """Addresses stay for most of a second after they were to be removed."""
    ranked: bool = True
    """The nodes claim one after the other; otherwise all at once."""
    storm_ns: int = 20 * S
    """Until then there are faults."""
    settle_ns: int = 6 * S
    """So long after the last fault every key must be owned, and stay with its owner."""


class World:
    """One history."""

    def __init__(self, seed: int, options: Options) -> None:
        self.seed = seed
        self.options = options
        self.random = Random(seed)
        self.now = 0
        self.calm = False
        """The storm is over: no more faults, and a quick network."""
        self.dropped = 0
        self.steps = 0
        self.checker = Checker(self)
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._trace: list[tuple[int, tuple[object, ...]]] = []

    def after(self, delay: int, call: Callable[..., Any], *args: object) -> None:
        """Call later; at once if the delay is not positive."""
        heapq.heappush(self._heap, (self.now + max(0, delay), next(self._count), call, args))

    def run(self, until: int) -> None:
        """Let time pass."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, args = heapq.heappop(heap)
            call(*args)
        self.now = until

    def log(self, *what: object) -> None:
        """Remember for the trace of a failure."""
        self._trace.append((self.now, what))
        if len(self._trace) > 600:
            del self._trace[:300]

    def trace(self) -> str:
        """The last things that happened."""
        return "\n".join(f"{at / S:11.6f} {' '.join(map(str, what))}" for at, what in self._trace)

    def latency(self) -> int:
        """One way through the network: mostly quick, sometimes a retransmission or a stall."""
        r = self.random
        x = r.random()
        if self.calm or x < 0.90:
            return r.randrange(MS // 2, 4 * MS)
        if x < 0.99:
            return r.randrange(4 * MS, 100 * MS)
        return r.randrange(100 * MS, 1200 * MS)
