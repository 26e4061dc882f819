"""The composition root: what a new life begins with, and what its log lines look like."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.adapters import netns
from piagent.adapters.netlink import KernelAddresses
from piagent.agent.main import _build, _OneLine
from piagent.core.model import Node
from tests.agent.nodes import VIP, config

REASON = netns.why_not()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_addresses_that_a_killed_life_left_are_gone_before_the_next_one_runs(
    tmp_path: Path,
) -> None:
    made = replace(config(tmp_path), node=Node(name="n1", interface="eth0"))

    async def work() -> None:
        former = KernelAddresses("eth0")
        await former.add(VIP, 60_000)
        assert await former.leftovers() == (VIP,)
        agent = await _build(made)
        assert await former.leftovers() == ()
        agent._edge.plane.stop()
        former.close()

    with netns.Network("pa-main") as network:
        host = network.add_host("a", "10.0.0.200/24")
        with host.entered():
            asyncio.run(work())


def test_names_from_the_network_stay_inside_their_line() -> None:
    record = logging.makeLogRecord({"msg": "node %s", "args": ("a\nERROR forged \x1b[2J",)})
    assert _OneLine("%(message)s").format(record) == r"node a\nERROR forged \x1b[2J"
