"""Which ways to a backend do for which way of forwarding."""

from __future__ import annotations

import pytest

from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.paths import Path, PathReason

NEAR = Path(backend="192.0.2.1", reason=PathReason.RESOLVED, interface=2, mac=b"\2near1")
FAR = Path(backend="198.51.100.1", reason=PathReason.RESOLVED, gateway="192.0.2.254")
NAT, DSR = Forwarding(Mode.NAT), Forwarding(Mode.DSR)
IPIP = Forwarding(Mode.DSR, Encapsulation.IPIP)


@pytest.mark.parametrize("how", [NAT, DSR, IPIP])
def test_a_backend_on_the_link_is_reached_in_every_way(how: Forwarding) -> None:
    assert NEAR.fitness(how) is PathReason.RESOLVED


@pytest.mark.parametrize(
    ("how", "fitness"),
    [(NAT, PathReason.RESOLVED), (DSR, PathReason.OFF_LINK), (IPIP, PathReason.RESOLVED)],
)
def test_a_packet_that_stays_as_it_is_passes_no_router(
    how: Forwarding, fitness: PathReason
) -> None:
    assert FAR.fitness(how) is fitness
