"""Three real brokers on three hosts, three agents: a minority of brokers does not matter."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.capture import PROGRAM, Capture
from tests.lab.lab import ECHO_PORT, VIP, Lab
from tests.lab.traffic import Traffic, tcp_name
from tests.lab.watch import Watch, overlaps
from tests.waiting import wait_until

TIMES = int(os.environ.get("PIAGENT_LAB_TIMES", "2"))
"""How often each fault is repeated; brokers die twice as often. `make lab` has 10."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(brokers=3, profile="normal") as built:
        built.start()
        yield built


@contextmanager
def watched(lab: Lab) -> Iterator[tuple[Watch, Traffic]]:
    hosts = {name: node.host for name, node in lab.nodes.items()}
    with (
        Watch(VIP, lab.client, hosts) as seen,
        Traffic(lambda: tcp_name(lab.client, VIP, ECHO_PORT, 0.5)) as probes,
    ):
        probes.wait_for_good(20)
        yield seen, probes


def settled(lab: Lab) -> None:
    """The owner's lease rests on all brokers again: the next one may go."""

    def whole() -> bool:
        vips = [node.get("/api/v1/vips")[1][0] for node in lab.nodes.values()]
        return any(len(vip["brokers"]) == len(lab.brokers) for vip in vips)

    wait_until(whole, "the lease rests on every broker")


@pytest.mark.timeout(60 + 40 * TIMES)
def test_any_one_broker_may_die_again_and_again(lab: Lab) -> None:
    owner = lab.wait_for_owner()
    with watched(lab) as (seen, probes):
        for turn in range(2 * TIMES):
            broker = lab.brokers[turn % 3]
            broker.kill()
            time.sleep(2)
            broker.start()
            settled(lab)
    assert lab.owners() == [owner]
    assert [sample.error for sample in probes.failures] == []
    assert overlaps(seen.answers) == []


@pytest.mark.timeout(60 + 20 * TIMES)
def test_stalled_broker_does_not_matter(lab: Lab) -> None:
    owner = lab.wait_for_owner()
    with watched(lab) as (seen, probes):
        for turn in range(TIMES):
            broker = lab.brokers[turn % 3]
            broker.send_signal(signal.SIGSTOP)
            time.sleep(2)
            broker.send_signal(signal.SIGCONT)
            settled(lab)
    assert lab.owners() == [owner]
    assert [sample.error for sample in probes.failures] == []
    assert overlaps(seen.answers) == []


@pytest.mark.parametrize("fault", ["kill_agent", "kill", "cable", "pause"])
@pytest.mark.timeout(60 + 40 * TIMES)
def test_fault_of_the_owner_never_makes_two(lab: Lab, fault: str) -> None:
    owner = lab.wait_for_owner()
    owners = [owner]
    with Capture(lab) as capture, watched(lab) as (seen, probes):
        for turn in range(TIMES):
            node = lab.nodes[owner]
            if fault == "cable":
                node.host.pull_cable()
            else:
                getattr(node, fault)()
            if fault == "pause":
                time.sleep((0.2, 1.0, 2.0, 5.0)[turn % 4])
                node.resume()
            else:
                owner = lab.wait_for_owner(other_than=owner)
            if fault == "cable":
                node.host.plug_cable()
            elif fault != "pause":
                node.wait()
                node.start()
            wait_until(node.is_ready, f"{node.name} is back")
            owner = lab.wait_for_owner()
            owners.append(owner)
            probes.wait_for_good(20)
    assert overlaps(seen.answers) == []
    assert overlaps(seen.lists) == []
    if PROGRAM is not None:  # on the wire one came after the other, and nobody came back
        assert capture.owners() == [name for name, _ in itertools.groupby(owners)]
    print(f"longest gap, {fault}: {probes.longest_gap_s():.3f} s")
