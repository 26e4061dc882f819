"""Checks every backend again and again, and says when one comes or goes.

Checks start on a common grid of half a second, so that a node with many backends wakes up twice a
second and not once a check; each backend has its own place in its interval, so that the checks of a
service do not come all at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from piagent.adapters.clock import wall_ms
from piagent.core.health import BackendHealth, step
from piagent.core.model import Backend, Config, HealthCheck, checked_port
from piagent.ports import Prober

log = logging.getLogger(__name__)

SLOT_S = 0.5
JITTER = 0.05
"""Part of the interval by which a check may come early: nodes must not fall into step."""
MAX_RUNNING = 64
"""Checks under way at a time."""

Key = tuple[str, str]
"""(service, backend id)."""


class Target:
    """One backend to check, and what is believed of it."""

    def __init__(self, backend: Backend, check: HealthCheck, port: int) -> None:
        """Due at once: the first result decides."""
        self.backend = backend
        self.check = check
        self.port = port
        self.health = BackendHealth()
        self.since_ms = wall_ms()
        self.due = 0.0
        self.running = False

    def same(self, other: Target) -> bool:
        """Whether both ask the same question."""
        return (self.backend.address, self.check, self.port) == (
            other.backend.address,
            other.check,
            other.port,
        )


class HealthLoop:
    """The checks of all services; a reload keeps what is known of unchanged ones."""

    def __init__(self, prober: Prober, changed: Callable[[frozenset[Key]], None]) -> None:
        """`changed` is called with all backends that are down, each time that set changes."""
        self._prober = prober
        self._changed = changed
        self._targets: dict[Key, Target] = {}
        self._wake = asyncio.Event()
        self._running = asyncio.Semaphore(MAX_RUNNING)

    def configure(self, config: Config) -> None:
        """Check what this configuration names, and nothing else."""
        wanted = _targets(config)
        for key, target in wanted.items():
            known = self._targets.get(key)
            if known is not None and known.same(target):
                known.backend = target.backend
                wanted[key] = known
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
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = time.monotonic()
                for key, target in self._targets.items():
                    if target.due <= now and not target.running:
                        target.running = True
                        tasks.create_task(self._check(key, target))
                await self._sleep(now)

    async def _sleep(self, now: float) -> None:
        """Until the next check is due, or the checks are others."""
        waiting = [target.due for target in self._targets.values() if not target.running]
        timeout = max(min(waiting) - now, 0) if waiting else None
        self._wake.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _check(self, key: Key, target: Target) -> None:
        async with self._running:
            result = await self._prober.probe(target.backend, target.port, target.check)
        first = target.due == 0.0
        target.running = False
        target.due = _next_due(target.check, first=first)
        self._wake.set()
        if self._targets.get(key) is not target:
            return  # a reload has asked another question meanwhile
        before = target.health
        target.health = step(before, target.check, good=result.good, detail=result.reason)
        if target.health.status is not before.status:
            self._tell(key, target, first=first)

    def _tell(self, key: Key, target: Target, *, first: bool) -> None:
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
        if not (first and health.usable):  # unknown counted as up
            self._changed(self.down())


def _next_due(check: HealthCheck, *, first: bool) -> float:
    """About one interval from now, on the grid; the first time anywhere in the interval."""
    part = random.random() if first else 1 - JITTER * random.random()  # noqa: S311
    due = time.monotonic() + part * check.interval_ms / 1000
    if check.interval_ms < 4000 * SLOT_S:
        return due  # too short an interval for so coarse a grid
    return round(due / SLOT_S) * SLOT_S


def _targets(config: Config) -> dict[Key, Target]:
    return {
        (service.name, backend.id): Target(
            backend, service.health, checked_port(service, service.health, backend)
        )
        for service in config.services
        if service.health is not None
        for backend in service.backends
    }
