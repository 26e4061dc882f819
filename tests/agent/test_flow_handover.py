"""Connections that are forwarded go along with a VIP, between whole agents."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from piagent.agent.letters import Letters
from piagent.core.flow_parts import FLOWS_MAX, PART_FLOWS, Part, written
from piagent.core.wire import Command
from tests.agent.nodes import VIP, Bench
from tests.agent.test_handover import Cluster
from tests.waiting import until


def flows(n: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(n)]


async def pair(tmp_path: Path) -> tuple[Cluster, Bench, Bench]:
    """A cluster of two, the owner first."""
    cluster = Cluster(tmp_path, "n1", "n2")
    owner = await cluster.owner()
    return cluster, cluster.benches[owner], cluster.benches[cluster.other(owner)]


def name(bench: Bench) -> str:
    return bench.config.node.name


async def move(owner: Bench, taker: Bench) -> None:
    await until(lambda: len(owner.agent.view.status().nodes) == 2, "both are there")
    assert await owner.agent.view.move(VIP, name(taker)) is None


@pytest.mark.parametrize("n", [1, PART_FLOWS, 3 * PART_FLOWS + 1])
async def test_all_connections_of_the_vip_are_the_next_owners_alone(tmp_path: Path, n: int) -> None:
    cluster, owner, taker = await pair(tmp_path)
    owner.forwarding.flows = {VIP: flows(n), "10.0.0.77": flows(2)}
    await move(owner, taker)
    await until(
        lambda: VIP not in owner.forwarding.flows, "the former owner knows that they are gone"
    )
    assert taker.forwarding.flows == {VIP: flows(n)}
    assert owner.forwarding.flows == {"10.0.0.77": flows(2)}
    assert taker.agent._flows.counted == {"adopted": n}
    assert owner.agent._flows.counted == {"given": n}
    await cluster.stop()


async def test_so_many_and_no_more_go_along(tmp_path: Path) -> None:
    cluster, owner, taker = await pair(tmp_path)
    owner.forwarding.flows = {VIP: flows(FLOWS_MAX + 5)}
    await move(owner, taker)
    await until(lambda: VIP not in owner.forwarding.flows, "they are handed over")
    assert len(taker.forwarding.flows[VIP]) == FLOWS_MAX
    await cluster.stop()


async def test_a_successor_that_does_not_take_them_leaves_them_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("piagent.agent.flow_handover.GIVEN_S", 0.3)
    cluster, owner, taker = await pair(tmp_path)
    owner.forwarding.flows = {VIP: [b"odd"]}
    await move(owner, taker)
    assert cluster.owners() == [name(taker)], "the VIP moves all the same"
    await until(lambda: "has not taken its nat connections" in caplog.text, "said")
    assert "are not taken over: flows: 3 bytes" in caplog.text
    assert owner.forwarding.flows == {VIP: [b"odd"]}
    await cluster.stop()


async def test_an_engine_that_does_not_answer_holds_up_no_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, owner, taker = await pair(tmp_path)

    def silent(*_: object) -> list[bytes]:
        raise TimeoutError("the forwarder does not answer")

    monkeypatch.setattr(owner.forwarding, "export_flows", silent)
    await move(owner, taker)
    assert cluster.owners() == [name(taker)]
    await until(lambda: "the forwarder does not answer" in caplog.text, "said")
    await cluster.stop()


async def test_connections_that_nobody_waits_for_are_refused_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cluster, owner, taker = await pair(tmp_path)
    await until(lambda: len(owner.agent.view.status().nodes) == 2, "both are there")
    stranger = Letters(
        cluster="home", node="n9", incarnation="9" * 16, secrets=owner.config.secrets, started=0
    )
    body = written(Part(1, 1, b"four"))
    for bench in (owner, taker):
        life = bench.agent._letters.incarnation
        said = stranger.command(name(bench), life, Command.FLOWS, vip=VIP, epoch=1, body=body)
        cluster.broker.publish(*said, retain=False)
        await until(lambda b=bench: b.agent._flows.refused == {"unexpected": 1}, "refused")  # type: ignore[misc]
        assert bench.forwarding.flows == {}
    assert "flows from n9 do not count: unexpected" in caplog.text
    page = "\n".join(str(family) for family in owner.agent.view.metrics())
    assert "piagent_handover_parts_refused_total" in page
    await cluster.stop()


async def test_connections_come_back_with_the_vip(tmp_path: Path) -> None:
    cluster, owner, taker = await pair(tmp_path)
    owner.forwarding.flows = {VIP: flows(5)}
    await move(owner, taker)
    await until(lambda: VIP not in owner.forwarding.flows, "there")
    await move(taker, owner)
    await until(lambda: VIP not in taker.forwarding.flows, "and back")
    assert owner.forwarding.flows == {VIP: flows(5)}
    await cluster.stop()
