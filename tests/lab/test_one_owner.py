"""Never two owners, whatever breaks: faults at random, watched from the client's side."""

from __future__ import annotations

import os
import random
import sys

import pytest

from tests.lab.faults import Faults
from tests.lab.lab import VIP, Lab
from tests.lab.watch import Overlap, Watch, overlaps, owners
from tests.waiting import wait_until

SECONDS = float(os.environ.get("PIAGENT_FAULTS_SECONDS", "20"))
SEED = int(os.environ.get("PIAGENT_FAULTS_SEED", random.randrange(1 << 32)))


def watch(lab: Lab) -> Watch:
    return Watch(VIP, lab.client, {name: node.host for name, node in lab.nodes.items()})


@pytest.mark.parametrize("lab", ["normal"], indirect=True)
@pytest.mark.timeout(180 + 3 * SECONDS)
def test_no_two_nodes_have_the_vip_at_once_whatever_breaks(lab: Lab) -> None:
    print(f"seed {SEED}")
    lab.start()
    lab.wait_for_owner()
    faults = Faults(lab, SEED)
    with watch(lab) as seen:
        faults.run(SECONDS)
        lab.wait_for_owner(timeout_s=30)
    for fault in faults.done:
        print(fault)
    assert owners(seen.answers) <= set(lab.nodes)
    assert len(owners(seen.answers)) > 1, "it did move"
    assert overlaps(seen.answers) == []
    assert overlaps(seen.lists) == []


@pytest.mark.parametrize("lab", ["normal"], indirect=True)
def test_the_watch_sees_a_second_owner(lab: Lab) -> None:
    lab.start("node1")
    lab.wait_for_owner()
    with watch(lab) as seen:
        lab.nodes["node2"].host.add_address(f"{VIP}/32")
        wait_until(lambda: overlaps(seen.answers), "both answer")
    assert overlaps(seen.answers)[0].names == {"node1", "node2"}


def measure(profile: str, fault: str, times: int) -> list[Overlap]:
    """`python -m tests.lab.test_one_owner PROFILE`: the overlaps after the owner's end or pause."""
    found: list[Overlap] = []
    for _ in range(times):
        with Lab(profile=profile) as lab:
            lab.start()
            owner = lab.wait_for_owner()
            with watch(lab) as seen:
                getattr(lab.nodes[owner], fault)()
                lab.wait_for_owner(other_than=owner)
                if fault == "pause":
                    lab.nodes[owner].resume()
            found += overlaps(seen.answers) or [Overlap(0, 0, frozenset())]
    return found


if __name__ == "__main__":
    for kind in ("kill", "kill_agent", "pause"):
        lengths = sorted(o.length_s for o in measure(sys.argv[1], kind, 10))
        print(sys.argv[1], kind, " ".join(f"{length:.3f}" for length in lengths))
