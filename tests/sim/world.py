"""The simulated house: virtual time, chance and the wires, all from one seed.

Time is an integer number of nanoseconds. Everything that happens is an event in one heap, so a
seed gives the same history each time.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import Struct

from piagent.core.model import Timing

MS = 1_000_000
S = 1_000 * MS
WALL_MS = 1_790_000_000_000

TIGHT = Timing(
    lease_ms=900, renew_ms=200, wait_ms=918, guard_ms=0, attempt_ms=250, stagger_ms=40, lag_ms=400
)
"""The fast profile without its margins: no guard, no slack, W = L * (1 + rho)."""
FAST = Timing(
    lease_ms=900, renew_ms=200, wait_ms=938, guard_ms=80, attempt_ms=250, stagger_ms=40, lag_ms=400
)
"""The fast profile as it is: its margins are what an ARP probe fits into."""
RATES_PPM = (-9852, 0, 9950)
"""Rates of lease clocks: the extremes differ by rho = 2 %."""

_TRACE_KEPT = 600
_SLOW_NS = 100 * MS
"""A way through the network that takes longer is a disturbance."""


class Violation(AssertionError):
    """The protocol is broken."""


class Options(Struct, frozen=True, kw_only=True):
    """One kind of house."""

    brokers: int = 1
    nodes: int = 3
    keys: int = 2
    timing: Timing = TIGHT
    rates_ppm: tuple[int, ...] = RATES_PPM
    serial: bool = True
    """Serial fan-out (A1), the weakest broker allowed; otherwise a total order."""
    cluster: bool = False
    """Brokers that forward to each subscriber when they like: A1 does not hold."""
    lossy: float = 0.0
    """This part of what a subscriber should get is lost without a trace: A2 does not hold."""
    persistent: bool = False
    """Brokers keep messages over a restart, and bring old ones again."""
    same_ids: bool = False
    """Clients have equal ids now and then: the broker ends the elder connection."""
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
    leader: bool = False
    """The leadership is a key besides."""
    placed: bool = False
    """Ranks and hand-overs by core/placement; otherwise the order of the nodes."""
    ranked: bool = True
    """The nodes claim one after the other; otherwise all at once."""
    probes: bool = False
    """Claimers ask the LAN first. Not everywhere: it would hide what the lease does wrong."""
    hold: bool = False
    """An owner without a quorum keeps its keys."""
    splits: bool = False
    """The LAN itself may fall into two: what `hold` cannot be safe against."""
    fenced: bool = True
    """The kernel's fence stands; otherwise only the addresses' lifetimes end."""
    slow_removal: bool = False
    """Addresses stay for most of a second after they were to be removed."""
    faults_per_s: float = 1.0
    favourites: tuple[str, ...] = ()
    """Faults that are more frequent than usual."""
    only: tuple[str, ...] = ()
    """No faults but these."""
    quick: bool = False
    """The network is a good one all the time."""
    storm_ns: int = 20 * S
    """Until then there are faults."""
    settle_ns: int = 6 * S
    """So long after the last fault every key must be owned, and stay with its owner."""


class World:
    """One history's time, chance and trace."""

    def __init__(self, seed: int, options: Options) -> None:
        self.seed = seed
        self.options = options
        self.random = Random(seed)
        self.now = 0
        self.calm = options.quick
        """A quick network: always, or when the storm is over."""
        self.over = False
        """No more faults."""
        self.disturbed_at = 0
        """When the last fault or slow message had, at the latest, no more effect of its own."""
        self.counts: Counter[str] = Counter()
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._trace: deque[tuple[int, tuple[object, ...]]] = deque(maxlen=_TRACE_KEPT)

    def after(self, delay: int, call: Callable[..., Any], *args: object) -> None:
        """Call later; at once if the delay is not positive."""
        at = self.now + delay if delay > 0 else self.now
        heapq.heappush(self._heap, (at, next(self._count), call, args))

    def run(self, until: int) -> None:
        """Let time pass."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, call, args = pop(heap)
            call(*args)
        self.now = until

    def log(self, *what: object) -> None:
        """Remember for the trace of a failure."""
        self._trace.append((self.now, what))

    def trace(self) -> str:
        """The last things that happened."""
        return "\n".join(f"{at / S:11.6f} {' '.join(map(str, what))}" for at, what in self._trace)

    def fail(self, what: str) -> None:
        """Raise a Violation that says how to see it again."""
        raise Violation(f"PIAGENT_SEED={self.seed} at {self.now / S:.6f} s: {what}")

    def disturb(self, span: int) -> None:
        """For so long whatever goes wrong has a cause."""
        self.disturbed_at = max(self.disturbed_at, self.now + span)

    def latency(self) -> int:
        """One way through the network: mostly quick, sometimes a retransmission or a stall."""
        chance = self.random.random
        x = chance()
        if self.calm or x < 0.90:
            return MS // 2 + int(3.5 * MS * chance())
        if x < 0.99:
            return 4 * MS + int(96 * MS * chance())
        span = _SLOW_NS + int(1100 * MS * chance())
        self.disturb(span)
        return span
