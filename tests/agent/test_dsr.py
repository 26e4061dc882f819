"""An agent on the host of a `dsr` backend: VIPs that it accepts, whoever owns them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.agent import followers
from piagent.core.dsr import Accepted
from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.model import Config, ServicePort
from piagent.core.proxying import Proxying
from tests.agent.nodes import VIP, Bench, config, service
from tests.fakes import FakeBroker
from tests.waiting import until

HERE = "10.0.0.1"
DSR = Forwarding(Mode.DSR)
IPIP = Forwarding(Mode.DSR, Encapsulation.IPIP)


def forwarded(tmp_path: Path, *backends: str, how: Forwarding = DSR) -> Config:
    web = replace(
        service("web", VIP, *backends, check=False),
        forwarding=how,
        ports=(ServicePort(name="", port=80, target_port=80),),
        proxying=Proxying(drain_ms=300),
    )
    return config(tmp_path, services=(web,))


def bench(made: Config) -> Bench:
    one = Bench(made, FakeBroker())
    one.local.addresses = frozenset({HERE})
    return one.start()


async def test_its_host_has_the_vip_and_the_fence_lets_it_serve(tmp_path: Path) -> None:
    one = bench(forwarded(tmp_path, HERE, "10.0.0.2", how=IPIP))
    await until(lambda: one.local.accepted, "accepted")
    assert one.local.accepted == {Accepted(VIP, 4)}
    assert VIP in one.fence.guarded
    assert one.fence.accepted == {VIP}
    assert await one.stop()
    assert one.local.accepted == set()


async def test_a_host_without_such_a_backend_accepts_nothing(tmp_path: Path) -> None:
    one = bench(forwarded(tmp_path, "10.0.0.2"))
    await until(one.owns, "it runs")
    assert one.local.accepted == set()
    assert one.fence.accepted == set()
    await one.stop()


async def test_what_leaves_is_kept_for_its_connections_and_then_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "AGAIN_S", 0.05)
    one = bench(forwarded(tmp_path, HERE, "10.0.0.2"))
    await until(lambda: one.fence.accepted, "accepted")
    kept: list[bool] = []
    assert one.agent.reload(lambda: forwarded(tmp_path, "10.0.0.2"))
    kept.append(VIP in one.fence.accepted)
    await until(lambda: not one.local.accepted, "gone")
    assert kept == [True]
    assert one.fence.accepted == set()
    assert VIP in one.fence.guarded
    await one.stop()


async def test_a_vip_that_cannot_be_there_is_a_note(tmp_path: Path) -> None:
    made = Bench(forwarded(tmp_path, HERE), FakeBroker())
    made.local.addresses = frozenset({HERE})
    made.local.refused = {VIP: "no ipip tunnels"}
    one = made.start()
    await until(one.owns, "it runs")
    (note,) = one.agent.view.status().notes
    assert (note.about, note.reason) == (VIP, "address-unavailable")
    assert note.detail == "no ipip tunnels"
    await one.stop()


async def test_a_backend_that_nothing_gets_to_is_a_note(tmp_path: Path) -> None:
    one = bench(forwarded(tmp_path, HERE, "fd00::2"))
    await until(one.owns, "it runs")
    (note,) = one.agent.view.status().notes
    assert (note.about, note.reason) == ("service/web", "backend-unreached")
    assert note.detail.startswith("fd00::2 gets nothing")
    await one.stop()
