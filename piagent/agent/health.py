"""Checks every backend again and again, and says when one comes or goes.

Checks start on a common grid of a second, so that a node with many backends wakes up once a second
and not once a check; each backend has its own place in its interval, so that the checks of a
service do not come all at once. Where another node is on duty its word is taken instead.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import ip_interface
from time import monotonic

from piagent.adapters.clock import wall_ms
from piagent.agent.duty import Duty
from piagent.core.checking import Heard, Key, Question, Rank, Verdict, questions, rank
from piagent.core.health import BackendHealth, HealthReason, Status, step
from piagent.core.model import Config
from piagent.ports import Prober, ProbeResult

log = logging.getLogger(__name__)

SLOT_S = 1.0
"""The grid; a check with a short interval has a finer one that halves it."""
SLOTS_MIN = 2
"""In an interval, at least."""
JITTER = 0.05
"""Part of the interval by which a check may come early: nodes must not fall into step."""


class Target:
    """One backend to check, and what is believed of it."""

    def __init__(self, asks: Question) -> None:
        """Due at once: the first result decides."""
        self.asks = asks
        self.near = False
        """Whether the backend is on this node."""
        self.rank: Rank = (False, 0, "")
        """This node's."""
        self.digest = asks.digest()
        self.shares = asks.is_common()
        self.health = BackendHealth()
        self.since_ms = wall_ms()
        self.due = 0.0
        """When to check next, or when the chief has been silent for too long."""
        self.running = False
        self.placed = False
        """Whether it has a place of its own in its interval."""
        self.checked_by: str | None = None
        """Which node said last how it is; None: nobody yet."""
        self.checked_s = 0.0
        """When that was, by this host's monotonic clock."""
        self.chief: Heard | None = None
        """Whose word is taken; None: this node is on duty."""
        self.say_at = 0.0
        """When to say again what this node found."""
        self.said = False
        """Whether what is retained of the backend is this node's."""


class HealthLoop:
    """The checks of all services; a reload keeps what is known of unchanged ones."""

    def __init__(
        self,
        prober: Prober,
        duty: Duty,
        networks: Callable[[], tuple[str, ...]],
        changed: Callable[[frozenset[Key]], None],
    ) -> None:
        """`networks`: this host's own addresses, with their prefix.

        `changed` is called with all backends that are down, each time that set changes.
        """
        self._prober = prober
        self._duty = duty
        self._networks = networks
        self._changed = changed
        self._targets: dict[Key, Target] = {}
        self._agenda: list[tuple[float, int, Target]] = []
        """A heap of what is due when; an entry that is not as its target says is void."""
        self._count = 0
        self._answers: list[tuple[Target, ProbeResult]] = []
        self._news = False
        self._wake = asyncio.Event()
        self.results: Counter[str] = Counter()
        """Checks made by this node, by what came of them."""
        duty.checker = self

    def configure(self, config: Config) -> None:
        """Check what this configuration names, and nothing else."""
        before, self._targets = self._targets, {}
        own = {str(ip_interface(one).ip) for one in self._networks()}
        for asks, backend in questions(config.services):
            near = backend.node == self._duty.node or backend.address in own
            known = before.get(asks.key)
            target = known if known is not None and known.asks == asks else Target(asks)
            target.near, target.rank = near, rank(self._duty.node, asks.key, near=near)
            self._targets[asks.key] = target
            if target is not known:
                self._plan(target, target.due)
        for key, old in before.items():
            now = self._targets.get(key)
            if old.said and (now is None or not now.shares):
                self._duty.withdraw(key)
        self._duty.keep(set(self._targets))
        self.others_changed()

    def target(self, service: str, backend: str) -> Target | None:
        """What is known of a backend, by its id; None when its service has no check."""
        return self._targets.get((service, backend))

    def down(self) -> frozenset[Key]:
        """The backends that get no new connection."""
        return frozenset(k for k, target in self._targets.items() if not target.health.usable)

    async def run(self) -> None:
        """Check until cancelled."""
        try:
            while True:
                self._take_answers()
                self._begin_what_is_due()
                self._tell()
                await self._sleep()
        finally:
            self._prober.close()

    # ---- other nodes --------------------------------------------------------------------------

    def checks(self, key: Key) -> bool:
        """Whether the backend is one of ours."""
        return key in self._targets

    def heard(self, key: Key, said: Verdict) -> None:
        """Another node has said something about a backend."""
        target = self._targets.get(key)
        if target is not None:
            self._consider(target)
            in_vain = target.chief is None and said.question == target.digest
            if in_vain and self._duty.is_there(said):
                target.say_at = 0.0  # what is retained is to be the word that counts
            self._tell()
            self._wake.set()

    def others_changed(self) -> None:
        """Other nodes or brokers are there now."""
        for target in self._targets.values():
            self._consider(target)
        self._tell()
        self._wake.set()

    def say_again(self) -> None:
        """A broker may have forgotten what this node said."""
        for target in self._targets.values():
            target.say_at = 0.0

    def _consider(self, target: Target) -> None:
        """Find out who is on duty, and take its word."""
        if not target.shares:
            return
        now = monotonic()
        best = self._duty.best(target.asks, target.digest, now)
        chief = best if best is not None and best.rank > target.rank else None
        if chief is not None:
            self._plan(target, chief.at_s + target.asks.silence_s())
            target.said = False
        elif target.chief is not None:  # from now on it is this node
            self._plan(target, now)
            target.say_at = 0.0
        target.chief = chief
        if chief is not None:
            self._believe(target, chief)
        elif best is not None and target.health.status is Status.UNKNOWN:
            self._believe(target, best)  # until this node has checked for itself

    def _believe(self, target: Target, heard: Heard) -> None:
        before, said = target.health, heard.said
        status = Status.UP if said.up else Status.DOWN
        target.health = BackendHealth(status, HealthReason.TOLD, 0, said.detail)
        target.since_ms = said.since
        target.checked_by, target.checked_s = said.node, heard.at_s
        self._compare(target, before, by=said.node)

    # ---- checks -------------------------------------------------------------------------------

    def _plan(self, target: Target, due: float) -> None:
        target.due = due
        self._count += 1
        heapq.heappush(self._agenda, (due, self._count, target))

    def _next(self) -> tuple[float, Target] | None:
        """What is due first."""
        while self._agenda:
            due, _, target = self._agenda[0]
            if target.due == due and self._targets.get(target.asks.key) is target:
                return due, target
            heapq.heappop(self._agenda)
        return None

    def _begin_what_is_due(self) -> None:
        now = monotonic()
        while (first := self._next()) is not None and first[0] <= now:
            heapq.heappop(self._agenda)
            target = first[1]
            if target.chief is not None:  # nothing was heard of it for too long
                self._consider(target)
            if target.chief is None and not target.running:
                target.running = True
                self._prober.ask(target.asks, partial(self._answered, target))

    async def _sleep(self) -> None:
        """Until the next check is due, there are answers, or the checks are others."""
        first = self._next()
        loop = asyncio.get_running_loop()
        timer = None if first is None else loop.call_at(first[0], self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if timer is not None:
            timer.cancel()

    def _answered(self, target: Target, result: ProbeResult) -> None:
        self._answers.append((target, result))
        self._wake.set()

    def _take_answers(self) -> None:
        answers, self._answers = self._answers, []
        for target, result in answers:
            self._take(target, result)

    def _take(self, target: Target, result: ProbeResult) -> None:
        target.running = False
        self.results[_word(result)] += 1
        if self._targets.get(target.asks.key) is not target or target.chief is not None:
            return  # meanwhile a reload asks another question, or another node is on duty
        interval_s = target.asks.check.interval_ms / 1000
        self._plan(target, next_due(interval_s, first=not target.placed))
        target.placed = True
        target.checked_by, target.checked_s = self._duty.node, monotonic()
        before = target.health
        target.health = step(before, target.asks.check, good=result.good, detail=result.reason)
        if target.health.status is not before.status:
            target.since_ms = wall_ms()
            target.say_at = 0.0
        self._say(target)
        self._compare(target, before, by=self._duty.node)

    def _say(self, target: Target) -> None:
        """Tell the others what this node found, if it is time to."""
        now, health = monotonic(), target.health
        if not target.shares or health.status is Status.UNKNOWN or now < target.say_at:
            return
        target.said = self._duty.say(
            target.asks,
            target.digest,
            near=target.near,
            up=health.usable,
            since=target.since_ms,
            detail=health.detail,
        )
        if target.said:  # all that a node says again comes together: who hears it wakes up once
            refresh_s = target.asks.refresh_s()
            target.say_at = math.floor(now / refresh_s + 1) * refresh_s

    def _compare(self, target: Target, before: BackendHealth, by: str) -> None:
        health = target.health
        if health.status is not before.status:
            level = logging.INFO if health.usable else logging.WARNING
            words = "backend %s %s: %s, reason=%s: %s (checked by %s)"
            key, detail = target.asks.key, health.detail
            log.log(level, words, *key, health.status, health.reason, detail, by)
        self._news = self._news or health.usable is not before.usable

    def _tell(self) -> None:
        """Once for all that has changed."""
        if self._news:
            self._news = False
            self._changed(self.down())


def next_due(interval_s: float, *, first: bool) -> float:
    """About one interval from now, on the grid; the first time anywhere in the interval.

    Rounded up or down by chance, so that on the average the jitter is what it is without a grid.
    """
    part = random.random() if first else 1 - JITTER * random.random()  # noqa: S311
    due = monotonic() + part * interval_s
    slot_s = SLOT_S
    while slot_s * SLOTS_MIN > interval_s:
        slot_s /= 2  # its points are those of the coarser grid, and some between
    return math.floor(due / slot_s + random.random()) * slot_s  # noqa: S311


def _word(result: ProbeResult) -> str:
    if result.good is None:
        return "not-made"
    return "good" if result.good else "failed"
