"""Who gets what is forwarded, and who does not."""

from __future__ import annotations

import pytest

from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.packets import (
    Unreached,
    backends,
    cut,
    fitness,
    is_reached,
    still_drained,
    unreached,
)
from piagent.core.paths import Path, PathReason
from piagent.core.plan import Plan, PlannedBackend, PlannedForward, PlannedService

NAT, DSR = Forwarding(Mode.NAT), Forwarding(Mode.DSR)
IPIP = Forwarding(Mode.DSR, Encapsulation.IPIP)
WEB = "web:80@ipv4"


def forward(how: Forwarding) -> PlannedForward:
    return PlannedForward("10.0.0.9", 80, WEB, how, owned=True)


def path(reason: PathReason, gateway: str | None = None) -> Path:
    return Path(backend="10.0.0.1", reason=reason, gateway=gateway)


@pytest.mark.parametrize(
    ("how", "way", "reason", "reached"),
    [
        (NAT, None, PathReason.RESOLVING, False),
        (NAT, path(PathReason.RESOLVED), PathReason.RESOLVED, True),
        (NAT, path(PathReason.RESOLVED, "10.0.0.254"), PathReason.RESOLVED, True),
        (NAT, path(PathReason.HERE), PathReason.HERE, False),
        (NAT, path(PathReason.FAILED), PathReason.FAILED, False),
        (DSR, path(PathReason.RESOLVED), PathReason.RESOLVED, True),
        (DSR, path(PathReason.RESOLVED, "10.0.0.254"), PathReason.OFF_LINK, False),
        (DSR, path(PathReason.HERE), PathReason.HERE, True),
        (IPIP, path(PathReason.RESOLVED, "10.0.0.254"), PathReason.RESOLVED, True),
        (IPIP, path(PathReason.HERE), PathReason.HERE, True),
    ],
)
def test_packets_get_there_or_not_and_the_reason_says_why(
    how: Forwarding, way: Path | None, reason: PathReason, reached: bool
) -> None:
    assert fitness(forward(how), way) is reason
    assert is_reached(forward(how), reason) is reached


def plan(*weights: int) -> Plan:
    named = tuple(
        PlannedBackend(f"10.0.0.{i}:80", f"10.0.0.{i}", 80, weight, up=True)
        for i, weight in enumerate(weights, 1)
    )
    others = (PlannedBackend("10.0.0.7:80", "10.0.0.7", 80, 1, up=True),)
    services = (PlannedService(WEB, named), PlannedService("proxied:80", others))
    return Plan((), services, (), (forward(NAT),))


def test_backends_of_what_is_proxied_are_none_of_the_forwarders() -> None:
    assert backends(plan(1, 1)) == {"10.0.0.1", "10.0.0.2"}


def test_each_that_is_not_reached_is_named_once() -> None:
    made = plan(1, 1)
    twice = Plan((), made.services, (), (*made.forwards, *made.forwards))
    ways = {"10.0.0.1": path(PathReason.RESOLVED), "10.0.0.2": path(PathReason.FAILED)}
    assert unreached(twice, ways) == (Unreached(WEB, "10.0.0.2:80", PathReason.FAILED),)


def test_who_has_drained_counts_as_down_until_it_has_a_weight_again() -> None:
    drained = {(WEB, "10.0.0.1:80"), (WEB, "10.0.0.9:80")}
    assert still_drained(plan(0, 1), drained) == {(WEB, "10.0.0.1:80")}
    assert still_drained(plan(1, 1), drained) == set()
    ups = [one.up for one in cut(plan(0, 0), {(WEB, "10.0.0.1:80")}).services[0].backends]
    assert ups == [False, True]
    assert cut(plan(0, 0), ()) == plan(0, 0)
