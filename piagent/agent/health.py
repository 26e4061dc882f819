"""Checks every backend again and again, and says when one comes or goes.

Checks start on a common grid of half a second, so that a node with many backends wakes up twice a
second and not once a check; each backend has its own place in its interval, so that the checks of a
service do not come all at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from functools import partial

from piagent.adapters.clock import wall_ms
from piagent.core.checking import Question, question
from piagent.core.health import BackendHealth, step
from piagent.core.model import Config
from piagent.ports import Prober, ProbeResult

log = logging.getLogger(__name__)

SLOT_S = 0.5
"""The grid; a check with a short interval has a finer one that halves it."""
SLOTS_MIN = 4
"""In an interval, at least."""
JITTER = 0.05
"""Part of the interval by which a check may come early: nodes must not fall into step."""

Key = tuple[str, str]
"""(service, backend id)."""


class Target:
    """One backend to check, and what is believed of it."""

    def __init__(self, asks: Question) -> None:
        """Due at once: the first result decides."""
        self.asks = asks
        self.health = BackendHealth()
        self.since_ms = wall_ms()
        self.due = 0.0
        self.running = False


class HealthLoop:
    """The checks of all services; a reload keeps what is known of unchanged ones."""

    def __init__(self, prober: Prober, changed: Callable[[frozenset[Key]], None]) -> None:
        """`changed` is called with all backends that are down, each time that set changes."""
        self._prober = prober
        self._changed = changed
        self._targets: dict[Key, Target] = {}
        self._answers: list[tuple[Target, ProbeResult]] = []
        self._wake = asyncio.Event()

    def configure(self, config: Config) -> None:
        """Check what this configuration names, and nothing else."""
        wanted = {}
        for asks in _questions(config):
            key = asks.service, asks.backend
            known = self._targets.get(key)
            wanted[key] = known if known is not None and known.asks == asks else Target(asks)
        self._targets = wanted
        self._wake.set()

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
                await self._sleep()
        finally:
            self._prober.close()

    def _begin_what_is_due(self) -> None:
        now = time.monotonic()
        for target in self._targets.values():
            if target.due <= now and not target.running:
                target.running = True
                self._prober.ask(target.asks, partial(self._answered, target))

    async def _sleep(self) -> None:
        """Until the next check is due, there are answers, or the checks are others."""
        waiting = [target.due for target in self._targets.values() if not target.running]
        loop = asyncio.get_running_loop()
        timer = loop.call_at(min(waiting), self._wake.set) if waiting else None
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
        first = target.due == 0.0
        target.running = False
        target.due = next_due(target.asks.check.interval_ms / 1000, first=first)
        key = target.asks.service, target.asks.backend
        if self._targets.get(key) is not target:
            return  # a reload has asked another question meanwhile
        before = target.health
        target.health = step(before, target.asks.check, good=result.good, detail=result.reason)
        if target.health.status is not before.status:
            self._tell(key, target)
        if target.health.usable is not before.usable:
            self._changed(self.down())

    def _tell(self, key: Key, target: Target) -> None:
        target.since_ms = wall_ms()
        health = target.health
        level = logging.INFO if health.usable else logging.WARNING
        log.log(
            level,
            "backend %s %s: %s, reason=%s: %s",
            *key,
            health.status,
            health.reason,
            health.detail,
        )


def next_due(interval_s: float, *, first: bool) -> float:
    """About one interval from now, on the grid; the first time anywhere in the interval.

    Rounded up or down by chance, so that on the average the jitter is what it is without a grid.
    """
    part = random.random() if first else 1 - JITTER * random.random()  # noqa: S311
    due = time.monotonic() + part * interval_s
    slot_s = SLOT_S
    while slot_s * SLOTS_MIN > interval_s:
        slot_s /= 2  # its points are those of the coarser grid, and some between
    return math.floor(due / slot_s + random.random()) * slot_s  # noqa: S311


def _questions(config: Config) -> list[Question]:
    return [
        question(service, service.health, backend)
        for service in config.services
        if service.health is not None
        for backend in service.backends
    ]
