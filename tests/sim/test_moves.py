"""How VIPs move in a house where nothing else happens: without a gap, as few as can be, in time."""

from __future__ import annotations

from statistics import median

import pytest

from piagent.core.lease_types import HandOver
from tests.sim.history import House
from tests.sim.world import FAST, MS, Options, S

QUIET = Options(faults_per_s=0, quick=True, serial=False, timing=FAST, probes=True, keys=1)
VIP = "10.0.0.1"
_SOON_NS = 5 * S


def _gap_ns(house: House, former: int) -> int:
    """How long until another host than the former owner answers for the VIP."""
    began = house.world.now
    while house.lan.hosts(VIP) in ([], [former]):
        assert house.world.now - began < _SOON_NS, "nobody takes over"
        house.run(MS)
    return house.world.now - began


@pytest.mark.parametrize("seed", range(10))
def test_a_planned_move_loses_no_packet(seed: int) -> None:
    house = House(seed, QUIET)
    house.run(_SOON_NS)
    owner = house.owners()[VIP]
    successor = house.hosts[(owner + 1) % len(house.hosts)]
    agent = house.hosts[owner].agent
    assert agent is not None
    agent.step(HandOver(VIP, successor.setup.name))
    answering = []
    for _ in range(2000):
        house.run(MS)
        place = house.lan.neighbour(VIP)
        assert place is not None
        assert house.hosts[place].kernel.serves(VIP), "what clients send now is lost"
        answering.append(house.lan.hosts(VIP))
    assert answering[-1] == [successor.setup.place]
    assert max(map(len, answering)) == 1
    assert sum(not hosts for hosts in answering) <= 30, "ARP is answered again soon"


def test_a_killed_agent_is_replaced_at_once_and_a_dead_host_within_its_lease() -> None:
    killed: list[int] = []
    dead: list[int] = []
    for seed in range(20):
        for gaps, power in ((killed, False), (dead, True)):
            house = House(seed, QUIET)
            house.run(_SOON_NS + seed * 17 * MS)
            owner = house.hosts[house.owners()[VIP]]
            (owner.lose_power if power else owner.crash)(60 * S)
            gaps.append(_gap_ns(house, owner.setup.place))
    assert median(killed) <= 100 * MS, "the guardian yields"
    assert median(dead) <= S
    assert max(dead) <= 1.1 * FAST.lease_ms * MS + 150 * MS


@pytest.mark.parametrize(("nodes", "vips"), [(3, 6), (5, 10), (8, 16)])
def test_vips_are_spread_and_only_those_of_a_dead_node_move(nodes: int, vips: int) -> None:
    house = House(nodes, Options(placed=True, faults_per_s=0, quick=True, nodes=nodes, keys=vips))
    house.run(15 * S)
    before = house.owners()
    house.check_shares(before)
    assert set(before.values()) == set(range(nodes))
    house.hosts[0].lose_power(3600 * S)
    house.run(15 * S)
    after = house.owners()
    assert {key for key in before if after[key] != before[key]} == {
        key for key, place in before.items() if place == 0
    }
    share = -(-vips // (nodes - 1))
    assert all(list(after.values()).count(place) <= share for place in range(1, nodes))
