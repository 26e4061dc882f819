"""Many VIPs on several nodes: shared out evenly, and a node's death moves its own and no other."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from tests.lab.lab import SUBNET, Lab
from tests.waiting import wait_until

SIZES = [(3, 6)] + ([(5, 10), (8, 16)] if "PIAGENT_LAB_TIMES" in os.environ else [])
"""Nodes and VIPs; `make lab` has the larger ones, too."""
EVENING_OUT = 'rebalance = "2s"'
QUIET_S = 3.0
"""So long after everything has an owner, whatever else would be moved has been moved."""


def vip(number: int) -> str:
    return f"{SUBNET}.{200 + number}"


def with_vips(config: str, count: int) -> str:
    """The lab's file with more VIPs than its one."""
    config = config.replace(f"{SUBNET}.209", vip(count - 1))
    config = config.replace("[election]", f"[election]\n{EVENING_OUT}")
    template = (
        '\n[[service]]\nname = "more-{n}"\ntype = "load-balancer"\naddress = "{vip}"\n'
        'ports = [{{ port = 9000 }}]\nbackends = ["{subnet}.21"]\n'
    )
    more = (template.format(n=n, vip=vip(n), subnet=SUBNET) for n in range(1, count))
    return config + "".join(more)


def owned(lab: Lab) -> dict[str, list[str]]:
    """VIP -> the nodes whose kernels answer for it."""
    found: dict[str, list[str]] = {}
    for node in lab.nodes.values():
        for address in node.speaks_for():
            found.setdefault(address, []).append(node.name)
    return found


def wait_until_even(lab: Lab, vips: int, nodes: int) -> dict[str, str]:
    """VIP -> its one owner, once all have one and nobody has more than its share."""
    share = -(-vips // nodes)
    found: dict[str, list[str]] = {}

    def even() -> bool:
        found.clear()
        found.update(owned(lab))
        load = Counter(name for names in found.values() for name in names)
        alone = all(len(names) == 1 for names in found.values())
        return len(found) == vips and alone and max(load.values()) <= share

    wait_until(even, f"{vips} VIPs on {nodes} nodes, at most {share} each: {found}", 60)
    return {address: names[0] for address, names in found.items()}


@pytest.mark.parametrize(("nodes", "vips"), SIZES)
@pytest.mark.timeout(180)
def test_vips_are_spread_evenly_and_a_death_moves_only_its_own(nodes: int, vips: int) -> None:
    with Lab(nodes=nodes, backends=1, profile="normal") as lab:
        for node in lab.nodes.values():
            node.config.write_text(with_vips(node.config.read_text(), vips))
        lab.start()
        wait_until_even(lab, vips, nodes)
        time.sleep(QUIET_S)
        before = wait_until_even(lab, vips, nodes)
        dead = before[vip(0)]
        lab.nodes[dead].kill()
        wait_until(lambda: not lab.nodes[dead].speaks_for(), "its kernel is silent")
        wait_until_even(lab, vips, nodes - 1)
        time.sleep(QUIET_S)
        after = wait_until_even(lab, vips, nodes - 1)
    moved = {address for address in before if after[address] != before[address]}
    assert moved == {address for address, name in before.items() if name == dead}
