"""What is served: ports that cannot be had, VIPs whose pool is announced otherwise from now on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.agent.serving import Place, Serving
from piagent.core.model import Announce, Config, ServicePort
from piagent.core.plan import Plan, PlannedListener
from piagent.ports import ListenError
from tests.agent.nodes import OTHER_VIP, VIP, Bench, config, service
from tests.fakes import FakeBroker, FakeDataPlane
from tests.waiting import until

NODE_PORT = 30080


def place(listener: PlannedListener) -> Place:
    return listener.address, listener.port, listener.udp


class Crowded(FakeDataPlane):
    """A host where another program has some of the ports."""

    def __init__(self, *taken: Place) -> None:
        super().__init__()
        self.taken = set(taken)

    def apply(self, plan: Plan) -> None:
        for one in plan.listeners:
            if place(one) in self.taken:
                raise ListenError(
                    errno.EADDRINUSE, f"{place(one)} is taken", address=one.address, port=one.port,
                    udp=one.udp,
                )  # fmt: skip
        super().apply(plan)

    @property
    def served(self) -> set[Place]:
        return set(map(place, self.plans[-1].listeners))


def two(tmp_path: Path) -> Config:
    ports = (ServicePort(name="", port=80, target_port=8080, node_port=NODE_PORT),)
    open_too = replace(service("open", OTHER_VIP, "10.0.0.3"), ports=ports)
    return config(tmp_path, services=(service("web", VIP, "10.0.0.1"), open_too))


WEB: Place = (VIP, 80, False)
OPEN: Place = (OTHER_VIP, 80, False)
EVERYWHERE: tuple[Place, ...] = (("0.0.0.0", NODE_PORT, False), ("::", NODE_PORT, False))


def test_several_ports_that_are_taken_are_left_out_and_come_back_one_by_one(
    tmp_path: Path,
) -> None:
    plane = Crowded(*EVERYWHERE)
    serving = Serving(plane, two(tmp_path))
    serving.start()
    assert plane.served == {WEB, OPEN}
    assert set(serving.left_out) == {*EVERYWHERE}
    plane.taken = {EVERYWHERE[0]}
    serving.try_again()
    assert plane.served == {WEB, OPEN, EVERYWHERE[1]}
    assert set(serving.left_out) == {EVERYWHERE[0]}
    plane.taken = set()
    serving.try_again()
    assert plane.served == {WEB, OPEN, *EVERYWHERE}
    assert not serving.left_out
    count = len(plane.plans)
    serving.try_again()
    assert len(plane.plans) == count, "nothing is left to try"


def test_a_vip_of_the_file_has_its_ports_or_nothing_changes(tmp_path: Path) -> None:
    plane = Crowded()
    serving = Serving(plane, config(tmp_path))
    serving.start()
    plane.taken = {OPEN}
    with pytest.raises(ListenError, match=OTHER_VIP):
        serving.reconfigure(two(tmp_path))
    assert plane.served == {WEB}
    assert serving.config == config(tmp_path)
    assert not serving.left_out
    serving.reconfigure(two(tmp_path), strict=False)
    assert plane.served == {WEB, *EVERYWHERE}
    assert set(serving.left_out) == {OPEN}


def test_who_lacks_a_port_of_a_vip_may_not_own_it(tmp_path: Path) -> None:
    plane = Crowded(OPEN, *EVERYWHERE)
    serving = Serving(plane, config(tmp_path))
    serving.start()
    serving.reconfigure(two(tmp_path), strict=False)
    serving.require(VIP)
    with pytest.raises(ListenError, match=OTHER_VIP):
        serving.require(OTHER_VIP)
    plane.taken = {*EVERYWHERE}
    serving.require(OTHER_VIP)
    assert plane.served == {WEB, OPEN}
    assert set(serving.left_out) == {*EVERYWHERE}


async def test_a_vip_whose_port_is_taken_here_is_left_to_others(tmp_path: Path) -> None:
    one = Bench(config(tmp_path), FakeBroker())
    plane = Crowded()
    one.agent._serving._plane = plane
    one.start()
    await until(one.owns, "it owns the one that it has")
    plane.taken = {OPEN}
    one.agent._serve(replace(one.agent.merged, config=two(tmp_path)), strict=False)
    await until(lambda: OTHER_VIP in one.agent._watch.refusals(), "left to others for a while")
    assert one.on_lan == {VIP}
    assert one.owns()
    await one.stop()


async def test_a_vip_that_bgp_leads_to_from_now_on_is_behind_the_fence_no_more(
    tmp_path: Path,
) -> None:
    one = Bench(config(tmp_path), FakeBroker()).start()
    await until(one.owns, "it owns the VIP")
    file = one.agent.services.file
    by_bgp = tuple(replace(pool, announce=Announce.BGP) for pool in file.pools)
    assert one.agent.reload(lambda: replace(file, pools=by_bgp))
    assert VIP in one.fence.guarded, "as long as it is on the interface"
    await until(lambda: VIP not in one.addresses.present, "it left the interface")
    await until(lambda: VIP not in one.fence.guarded, "what routers send may come in")
    assert one.local.routed == {VIP}
    assert one.agent.reload(lambda: file)
    assert VIP in one.fence.guarded
    assert one.local.routed == set()
    await until(one.owns, "it owns the VIP again")
    assert VIP in one.fence.guarded
    await one.stop()
