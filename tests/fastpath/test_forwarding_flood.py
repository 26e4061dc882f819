"""Established streams live through a flood of new flows; for longer: PIAGENT_FLOOD_SECONDS=10."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath.packet.flow_cache import FlowCache, Unavailable
from piagent.adapters import netns
from tests.adapters.asker import mac_of
from tests.adapters.two_hosts import run
from tests.fastpath.flooding import SOURCES
from tests.fastpath.forwarding_lab import CLIENT, PORT, VIPS, Lab, backend_address, serving
from tests.fastpath.hand_over_lab import Talk

REASON = netns.why_not()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.timeout(300),
]
ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("PIAGENT_FLOOD_SECONDS", "2"))
PER_SECOND = int(os.environ.get("PIAGENT_FLOOD_RATE", "20000"))
STREAMS = 100
NEW_FLOWS = 1024
ROUNDS = 3
"""So often each stream gets on while the flood lasts, however long that takes."""


@contextlib.contextmanager
def backends(lab: Lab, how: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number, host in enumerate(lab.backends, 1):
            # What a forged source is answered has a way to go, and ends there.
            run(host, "ip", "route", "add", SOURCES, "via", CLIENT[4])
            if how == "dsr":
                lab.accept_vip(number)
            address = VIPS[4] if how == "dsr" else backend_address(number)
            stack.enter_context(serving(host, address, says=lambda data: data))
        yield


@contextlib.contextmanager
def flood(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    words = [mac_of(lab.node).hex(), VIPS[4], str(PORT), str(PER_SECOND)]
    argv = lab.client.command([sys.executable, "-m", "tests.fastpath.flooding", *words])
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as flooding:
        try:
            yield flooding
        finally:
            flooding.kill()


def of_services(lab: Lab, what: str) -> int:
    return sum(one[what] for one in lab.forwarder.stats()["services"].values())


@pytest.mark.parametrize("how", ["nat", "dsr"])
@pytest.mark.parametrize("cached", [False, True], ids=["forwarder", "cache"])
def test_100_established_streams_go_on_through_a_flood_of_new_flows(how: str, cached: bool) -> None:
    try:
        cache = FlowCache(1 << 10, 1 << 18) if cached else None
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))
    with (
        netns.Network("pa-flood") as network,
        Lab(network, cache=cache, new_flows=NEW_FLOWS) as lab,
    ):
        lab.publish(lab.forward(how), lab.forward(how, udp=True))
        with backends(lab, how), Talk(lab, STREAMS) as talk:
            talk.goes_on("before the flood")
            assert lab.forwarder.stats()["flows"]["confirmed"] == STREAMS
            if cache is not None:
                assert cache.stats().flows == STREAMS * (2 if how == "nat" else 1)
            with flood(lab) as flooding:
                rounds, ends = 0, time.monotonic() + SECONDS
                while rounds < ROUNDS or time.monotonic() < ends or not is_real(lab, how):
                    talk.goes_on(f"in the flood, round {rounds}", 60)
                    rounds += 1
                assert flooding.poll() is None
                sent = int(flooding.communicate()[0])
            talk.goes_on("after the flood")
            assert talk.broken() == {}
            flows = lab.forwarder.stats()["flows"]
            assert sent > 4 * NEW_FLOWS
            assert flows["confirmed"] >= STREAMS
            assert {why for why, n in flows["ended"].items() if n} <= {"evicted-new", "expired"}


def is_real(lab: Lab, how: str) -> bool:
    """Whether the table of new flows has been filled more than once, and for dsr the rate, too."""
    evicted = lab.forwarder.stats()["flows"]["ended"]["evicted-new"]
    return evicted > NEW_FLOWS and (how == "nat" or of_services(lab, "stateless") > NEW_FLOWS)
