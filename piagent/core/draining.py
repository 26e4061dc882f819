"""Backends that get no more connections, and when those that they have come to an end.

A backend whose weight became 0 keeps its connections until its service's `drain_ms` are over; then
they are cut. One that a service has no more, or whose service is gone, stays in the plan for so
long, with a weight of 0. A backend that is down is no such case: its connections end by themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.plan import LOCAL, Plan, PlannedBackend, PlannedService

Key = tuple[str, str]
"""Name of a PlannedService, name of its PlannedBackend."""


class Drain(Struct, frozen=True):
    """A backend on its way out."""

    since_ms: int
    due_ms: int
    """Its connections are cut then."""
    stays: bool
    """With a weight of 0; else it is only there to drain."""


class Drained(Struct, frozen=True):
    """A plan with what is on its way out."""

    plan: Plan
    drains: Mapping[Key, Drain]

    def due(self, now_ms: int) -> frozenset[Key]:
        """Whose connections are to be cut by now."""
        return frozenset(key for key, drain in self.drains.items() if drain.due_ms <= now_ms)

    def leaving(self) -> frozenset[Key]:
        """What is only there to drain."""
        return frozenset(key for key, drain in self.drains.items() if not drain.stays)

    def next_ms(self) -> int | None:
        """When the next one is due; None: there is none."""
        return min((drain.due_ms for drain in self.drains.values()), default=None)


def drained(
    wanted: Plan, before: Drained | None, now_ms: int, ended: Collection[Key] = frozenset()
) -> Drained:
    """Add to a plan what is on its way out of the one before.

    `ended`: those whose connections were cut; None before the first plan.
    """
    services = {service.name: service for service in wanted.services}
    drains: dict[Key, Drain] = {}
    gone: dict[str, list[PlannedBackend]] = {}
    for service in before.plan.services if before else ():
        drain_ms = services.get(service.name, service).proxying.drain_ms
        for backend, stays in _without_share(service, services):
            key = service.name, backend.name
            begun = before.drains.get(key) if before else None
            if key in ended or (begun is None and backend.weight == 0):
                continue  # it is over, or there was nothing to drain
            since_ms = begun.since_ms if begun else now_ms
            drains[key] = Drain(since_ms, since_ms + drain_ms, stays)
            if not stays:
                gone.setdefault(service.name, []).append(replace(backend, weight=0))
    return Drained(_with(wanted, before.plan if before else wanted, gone), drains)


def _without_share(
    service: PlannedService, services: Mapping[str, PlannedService]
) -> Iterator[tuple[PlannedBackend, bool]]:
    """Yield its backends that are to get no more connections, and whether they are still wanted."""
    wants = services.get(service.name)
    now = {backend.name: backend for backend in wants.backends} if wants else {}
    for backend in service.backends:
        if backend.name in now:
            if now[backend.name].weight == 0:
                yield backend, True
        elif not _serves(services.get(_counterpart(service.name)), backend.name):
            yield backend, False


def _counterpart(service: str) -> str:
    """With `traffic_policy = "local"`, the same port for who is inside, or outside."""
    both = service.removesuffix(LOCAL)
    return service + LOCAL if both == service else both


def _serves(service: PlannedService | None, backend: str) -> bool:
    """Whether it is still one of the backends, though not for those who were sent to it."""
    return service is not None and any(
        one.name == backend and one.weight > 0 for one in service.backends
    )


def _with(wanted: Plan, before: Plan, gone: Mapping[str, list[PlannedBackend]]) -> Plan:
    there = {service.name for service in wanted.services}
    services = [
        replace(one, backends=(*one.backends, *gone[one.name])) if one.name in gone else one
        for one in wanted.services
    ]
    services += [
        replace(one, backends=tuple(gone[one.name]))
        for one in before.services
        if one.name in gone and one.name not in there
    ]
    return replace(wanted, services=tuple(services))
