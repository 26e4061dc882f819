"""Which packets are forwarded, to whom, and why not to others."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.forwarding import Mode
from piagent.core.paths import Path, PathReason
from piagent.core.plan import Plan, PlannedForward, PlannedService

NAT_PORTS = (49152, 57343)
"""What `nat` connects to backends from, at the VIP: nobody else uses a VIP's ports up there."""


class Unreached(Struct, frozen=True, order=True):
    """A backend that forwarded packets do not get to from this node."""

    target: str
    """`service:port`, the name of a PlannedService."""
    backend: str
    """`address:port`."""
    reason: PathReason


class ForwardingState(Struct, frozen=True, kw_only=True):
    """How this node forwards."""

    mode: str
    """What carries established flows: "xdp", "xdp-generic", "tc"; "forwarder": the agent itself;
    "none": nothing can, now."""
    reason: str
    """Why that."""
    unreached: tuple[Unreached, ...] = ()


def fitness(forward: PlannedForward, path: Path | None) -> PathReason:
    """Whether packets get from here to a backend; its path is not known yet: they will."""
    if path is None:
        return PathReason.RESOLVING
    return path.fitness(forward.how)


def is_reached(forward: PlannedForward, reason: PathReason) -> bool:
    """Tell whether that is good enough.

    `dsr` to this host itself is: its own IP stack gets the packets. `nat` is not: the answers would
    not leave the host, so that nobody could give them the VIP's address again.
    """
    if reason is PathReason.HERE:
        return forward.how.mode is Mode.DSR
    return reason is PathReason.RESOLVED


def unreached(plan: Plan, paths: Mapping[str, Path]) -> tuple[Unreached, ...]:
    """Say which backends packets do not get to."""
    services = {service.name: service for service in plan.services}
    found = set()
    for forward in plan.forwards:
        for backend in services[forward.target].backends:
            reason = fitness(forward, paths.get(backend.address))
            if not is_reached(forward, reason):
                found.add(Unreached(forward.target, backend.name, reason))
    return tuple(sorted(found))


def still_drained(plan: Plan, drained: Collection[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Return those of (service, backend) that have not got a weight again."""
    return frozenset(
        (service.name, one.name)
        for service in plan.services
        for one in service.backends
        if one.weight == 0 and (service.name, one.name) in drained
    )


def cut(plan: Plan, drained: Collection[tuple[str, str]]) -> Plan:
    """Have these backends, each (service, backend), keep nothing: flows to who is down end."""
    if not drained:
        return plan
    return replace(plan, services=tuple(_cut(service, drained) for service in plan.services))


def _cut(service: PlannedService, drained: Collection[tuple[str, str]]) -> PlannedService:
    backends = tuple(
        replace(one, up=one.up and (service.name, one.name) not in drained)
        for one in service.backends
    )
    return replace(service, backends=backends)


def backends(plan: Plan) -> frozenset[str]:
    """Return the addresses of all backends of what is forwarded."""
    services = {service.name: service for service in plan.services}
    return frozenset(
        backend.address
        for forward in plan.forwards
        for backend in services[forward.target].backends
    )
