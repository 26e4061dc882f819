"""What is served: ports that cannot be had, VIPs whose pool is announced otherwise from now on."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.agent.serving import Place, Serving
from piagent.core.forwarding import Forwarding, Mode
from piagent.core.model import Announce, Config, ServicePort
from piagent.core.plan import Plan, PlannedForward, PlannedListener
from piagent.core.proxying import Proxying
from piagent.ports import ListenError
from tests.agent.nodes import OTHER_VIP, VIP, Bench, config, service
from tests.fakes import FakeBroker, FakeClock, FakeDataPlane, FakeForwarding
from tests.waiting import until

NODE_PORT = 30080


def place(listener: PlannedListener | PlannedForward) -> Place:
    return listener.address, listener.port, listener.udp


class Crowded(FakeDataPlane):
    """A host where another program has some of the ports."""

    def __init__(self, *taken: Place) -> None:
        super().__init__()
        self.taken = set(taken)

    def apply(self, plan: Plan) -> None:
        for one in (*plan.listeners, *plan.forwards):
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
    serving = Serving(plane, two(tmp_path), FakeClock().now_ns, FakeForwarding())
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


async def test_a_vip_of_the_file_has_its_ports_or_nothing_changes(tmp_path: Path) -> None:
    plane = Crowded()
    serving = Serving(plane, config(tmp_path), FakeClock().now_ns, FakeForwarding())
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


async def test_what_cannot_be_forwarded_is_as_a_port_that_cannot_be_had(tmp_path: Path) -> None:
    plane = Crowded(OPEN)
    serving = Serving(plane, config(tmp_path), FakeClock().now_ns, FakeForwarding())
    serving.start()
    both = two(tmp_path)
    forwarded = replace(both.services[1], forwarding=Forwarding(Mode.NAT))
    wanted = replace(both, services=(both.services[0], forwarded))
    with pytest.raises(ListenError, match=OTHER_VIP):
        serving.reconfigure(wanted)
    serving.reconfigure(wanted, strict=False)
    assert set(serving.left_out) == {OPEN}
    assert plane.plans[-1].forwards == ()
    with pytest.raises(ListenError, match=OTHER_VIP):
        serving.require(OTHER_VIP)
    plane.taken = set()
    serving.try_again()
    assert [place(one) for one in plane.plans[-1].forwards] == [OPEN]
    assert OPEN not in plane.served


async def test_who_lacks_a_port_of_a_vip_may_not_own_it(tmp_path: Path) -> None:
    plane = Crowded(OPEN, *EVERYWHERE)
    serving = Serving(plane, config(tmp_path), FakeClock().now_ns, FakeForwarding())
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
    more = two(tmp_path)
    one.agent.services.reloaded(more)  # or what is served would be the file's again at once
    one.agent._serve(replace(one.agent.merged, config=more), strict=False)
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


# ---- backends on their way out ------------------------------------------------------------------


class Draining:
    """A node whose service has the backends that a test says, and drains for a time."""

    def __init__(self, tmp_path: Path, *backends: str, drain_ms: int = 1000) -> None:
        self._tmp_path = tmp_path
        self._proxying = Proxying(drain_ms=drain_ms)
        self.clock = FakeClock()
        self.plane = FakeDataPlane()
        self.serving = Serving(
            self.plane, self._config(*backends), self.clock.now_ns, FakeForwarding()
        )
        self.serving.start()

    def _config(self, *backends: str) -> Config:
        web = replace(service("web", VIP, *backends), proxying=self._proxying)
        return config(self._tmp_path, services=(web,))

    def have(self, *backends: str) -> None:
        self.serving.reconfigure(self._config(*backends))

    @property
    def served(self) -> dict[str, int]:
        (web,) = self.plane.plans[-1].services
        return {one.address: one.weight for one in web.backends}

    def stop(self) -> None:
        self.serving.stop()


async def test_the_connections_of_a_backend_that_is_gone_are_cut_when_its_time_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    node = Draining(tmp_path, "10.0.0.1", "10.0.0.2", drain_ms=20)
    node.have("10.0.0.1")
    assert node.served == {"10.0.0.1": 1, "10.0.0.2": 0}
    await asyncio.sleep(0.1)
    assert node.plane.cut_off == [], "the clock has not moved, though the timer has fired"
    node.clock.advance_ms(20)
    await until(lambda: node.plane.cut_off, "it is cut")
    assert node.plane.cut_off == [("web:80", "10.0.0.2:8080")]
    assert node.served == {"10.0.0.1": 1}
    assert node.serving.drains == {}
    assert "backend 10.0.0.2:8080 of web:80: drained" in caplog.text


async def test_a_backend_that_comes_back_in_time_is_not_cut(tmp_path: Path) -> None:
    node = Draining(tmp_path, "10.0.0.1", "10.0.0.2")
    node.have("10.0.0.1")
    node.have("10.0.0.1", "10.0.0.2")
    node.clock.advance_ms(5000)
    node.serving.mark_down(frozenset())
    assert node.plane.cut_off == []
    assert node.served == {"10.0.0.1": 1, "10.0.0.2": 1}


async def test_what_other_changes_bring_does_not_put_the_deadline_off(tmp_path: Path) -> None:
    node = Draining(tmp_path, "10.0.0.1", "10.0.0.2")
    node.have("10.0.0.1")
    for _ in range(3):
        node.clock.advance_ms(400)
        node.serving.mark_down(frozenset())
    assert node.plane.cut_off == [("web:80", "10.0.0.2:8080")]
    node.stop()


async def test_without_time_to_drain_connections_are_cut_at_once(tmp_path: Path) -> None:
    node = Draining(tmp_path, "10.0.0.1", "10.0.0.2", drain_ms=0)
    node.have("10.0.0.1")
    assert node.plane.cut_off == [("web:80", "10.0.0.2:8080")]
    assert node.served == {"10.0.0.1": 1}


async def test_what_a_refused_change_would_have_drained_does_not_drain(tmp_path: Path) -> None:
    node = Draining(tmp_path, "10.0.0.1", "10.0.0.2")
    node.plane.failure = OSError("no")
    with pytest.raises(OSError, match="no"):
        node.have("10.0.0.1")
    assert node.serving.drains == {}
    assert node.served == {"10.0.0.1": 1, "10.0.0.2": 1}


async def test_a_vip_that_leaves_keeps_its_backends_and_what_had_drained_stays_away(
    tmp_path: Path,
) -> None:
    node = Draining(tmp_path, "10.0.0.1", "10.0.0.2")
    node.have("10.0.0.1")
    node.serving.reconfigure(config(tmp_path, services=()), frozenset({VIP}))
    assert node.served == {"10.0.0.1": 1, "10.0.0.2": 0}
    node.clock.advance_ms(1000)
    node.serving.mark_down(frozenset({("x", "y")}))
    assert node.plane.cut_off == [("web:80", "10.0.0.2:8080")]
    assert node.served == {"10.0.0.1": 1}
    node.serving.left(VIP)
    assert node.served == {"10.0.0.1": 0}
    node.stop()


async def test_what_has_no_room_to_drain_is_cut_and_the_change_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Small(FakeDataPlane):
        def apply(self, plan: Plan) -> None:
            if sum(len(one.backends) for one in plan.services) > 2:
                raise ValueError("3 backends, more than 2")
            super().apply(plan)

    node = Draining(tmp_path, "10.0.0.1", "10.0.0.2")
    node.serving._plane = node.plane = Small()
    node.plane.plans = [node.serving.plan] if node.serving.plan else []
    node.have("10.0.0.1", "10.0.0.3")
    assert node.plane.cut_off == [("web:80", "10.0.0.2:8080")]
    assert node.served == {"10.0.0.1": 1, "10.0.0.3": 1}
    assert "1 backends that are gone have no time to drain: 3 backends" in caplog.text
    with pytest.raises(ValueError, match="4 backends|3 backends"):
        node.have("10.0.0.1", "10.0.0.3", "10.0.0.4")
    assert node.served == {"10.0.0.1": 1, "10.0.0.3": 1}
