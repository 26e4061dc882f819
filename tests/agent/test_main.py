"""The composition root: what a new life begins with, and what its log lines look like."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.adapters import netns
from piagent.adapters.netlink import KernelAddresses
from piagent.agent.main import _build, _OneLine, _start_embedded_broker
from piagent.core.model import Broker, Listen, Mqtt, Node
from tests import mosquitto
from tests.agent.nodes import VIP, config
from tests.net import free_port

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
        agent = await _build(made, None)
        assert await former.leftovers() == ()
        agent._edge.plane.stop()
        former.close()

    with netns.Network("pa-main") as network:
        host = network.add_host("a", "10.0.0.200/24")
        with host.entered():
            asyncio.run(work())


@pytest.mark.skipif(mosquitto.WHY_NOT is not None, reason=str(mosquitto.WHY_NOT))
def test_the_embedded_broker_knows_the_user_of_the_brokers_url(tmp_path: Path) -> None:
    port = free_port()
    listen = Listen(address="127.0.0.1", port=port)
    url = Broker(label="b1", host="127.0.0.1", port=port, username="agent")
    made = config(tmp_path, mqtt=Mqtt(brokers=(url,), password="pw", embedded=listen))

    async def answer(connect: bytes) -> int:
        """The return code of CONNACK (MQTT 3.1.1, 3.2.2.3)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x10" + bytes([len(connect)]) + connect)
        code = (await reader.readexactly(4))[3]
        writer.close()
        return code

    async def work() -> None:
        async with AsyncExitStack() as stack:
            await _start_embedded_broker(made, stack)
            head, client = b"\0\4MQTT\4", b"\0\x3c\0\1c"
            assert await answer(head + b"\x02" + client) == 5  # not authorised
            assert await answer(head + b"\xc2" + client + b"\0\5agent\0\2pw") == 0

    asyncio.run(work())


def test_names_from_the_network_stay_inside_their_line() -> None:
    record = logging.makeLogRecord({"msg": "node %s", "args": ("a\nERROR forged \x1b[2J",)})
    assert _OneLine("%(message)s").format(record) == r"node a\nERROR forged \x1b[2J"
