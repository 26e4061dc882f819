"""Whole agents with the real lease core; broker, LAN, engine and backends are in memory."""

from __future__ import annotations

import asyncio
import logging
import time
from os.path import exists
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from piagent.admin.answer import Refused
from piagent.admin.server import AdminError
from piagent.core.eligibility import Standing, refusals
from piagent.core.flow import FlowQuestion, flow_of
from piagent.core.lease_types import Reason
from piagent.core.model import Backend, Election, Node
from piagent.core.proxying import Proxying
from piagent.ports import AddressError
from tests.agent.nodes import OTHER_VIP, TIMING, VIP, Bench, config, service
from tests.fakes import FakeBroker
from tests.waiting import until


class Cluster:
    """Agents on one broker."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.broker = FakeBroker()

    def add(self, name: str, **changes: object) -> Bench:
        return Bench(config(self.tmp_path, name, **changes), self.broker)


async def test_lone_agent_takes_its_vip_and_tells_everybody(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    assert one.on_lan == {VIP}
    assert one.announced == {VIP}
    assert b'"owner":"n1"' in cluster.broker.retained[f"piagent/home/v/{VIP}"]
    assert one.notifier.said == ["ready"]
    assert await one.stop()
    assert one.on_lan == set()
    assert one.announced == set()
    assert b'"owner":null' in cluster.broker.retained[f"piagent/home/v/{VIP}"]
    assert one.plane.stopped


async def test_absence_is_told_before_the_vip_is_given_up(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    assert await one.stop()
    said = [payload for _, payload in cluster.broker.log]
    absent = next(i for i, payload in enumerate(said) if b'"on":0' in payload)
    yielded = next(i for i, payload in enumerate(said) if b'"y":{"10.0.0.9"' in payload)
    assert absent < yielded


def place_of(bench: Bench) -> int:
    """Its node's place among those who may claim the VIP."""
    return bench.agent._election._group._leases[VIP].rank


async def test_nodes_that_come_take_their_places_in_the_order_of_claims(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    benches = [cluster.add(name) for name in ("n1", "n2", "n3")]
    for bench in benches:
        bench.start()
    places = [0, 1, 2]
    await until(lambda: sorted(place_of(b) for b in benches) == places, "each has its own place")
    for bench in benches:
        await bench.stop()


async def test_stopped_owner_hands_over_at_once_and_is_never_on_the_lan_with_another(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    benches = [cluster.add(name).start() for name in ("n1", "n2", "n3")]
    await until(lambda: any(b.owns() for b in benches), "somebody owns the VIP")
    owner = next(b for b in benches if b.owns())
    others = [b for b in benches if b is not owner]

    def someone_is_next() -> bool:
        why = owner.agent.view.why(VIP)
        return why is not None and why.next is not None

    await until(someone_is_next, "another may claim at once")
    assert await owner.stop()
    await until(lambda: any(b.owns() for b in others), "another owns the VIP")
    assert [b for b in benches if b.on_lan] == [b for b in others if b.owns()]
    successor = next(b for b in others if b.owns())
    (vip,) = successor.agent.view.status().vips
    assert vip.reason == Reason.INVITED
    for bench in others:
        await bench.stop()


async def test_owner_that_vanishes_is_followed_by_another_after_silence(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one, two = cluster.add("n1").start(), cluster.add("n2").start()
    await until(lambda: one.owns() or two.owns(), "somebody owns the VIP")
    owner, other = (one, two) if one.owns() else (two, one)
    owner.bus.vanish()
    await until(other.owns, "the other owns the VIP")
    assert (owner.on_lan, other.on_lan) == (set(), {VIP})
    assert not owner.owns()
    await owner.stop()
    await other.stop()


async def test_returning_node_does_not_take_the_vip_back(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    two = cluster.add("n2").start()
    await until(two.owns, "n2 owns the VIP")
    one = cluster.add("n1").start()
    await asyncio.sleep(1.5)
    assert two.owns()
    assert not one.owns()
    (seen,) = one.agent.view.status().vips
    assert seen.owner == "n2"
    await one.stop()
    await two.stop()


async def test_vip_that_cannot_be_configured_is_left_to_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    broken = cluster.add("n1")
    broken.addresses.failure = AddressError("interface eth9 does not exist")
    broken.start()
    await until(lambda: "eth9" in caplog.text, "the failure is in the log")
    sound = cluster.add("n2").start()
    await until(sound.owns, "the other owns the VIP")
    (vip,) = broken.agent.view.status().vips
    assert vip.state == "follower"
    await broken.stop()
    await sound.stop()


async def test_owner_whose_interface_fails_leaves_one_vip_and_keeps_the_other(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    services = (service("web", VIP, "10.0.0.1"), service("lo", "127.0.0.9", "10.0.0.1"))
    one = cluster.add("n1", services=services).start()
    await until(lambda: one.owns() and one.owns("127.0.0.9"), "n1 owns both")
    one.addresses.failure = AddressError("interface eth9 is down")
    await until(lambda: not one.owns(), "n1 lets go")
    await asyncio.sleep(0.5)
    assert one.owns("127.0.0.9")
    assert one.on_lan == set()
    one.addresses.failure = None
    await until(one.owns, "n1 takes it again")
    await one.stop()


async def test_vip_whose_removal_is_not_confirmed_is_not_yielded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    one.addresses.removable = False
    before = len(cluster.broker.log)
    assert await one.stop()
    assert "could not be removed" in caplog.text
    said = cluster.broker.log[before:]
    assert not any(b'"y":{"10.0.0.9"' in payload for _, payload in said)


async def test_removal_is_tried_until_it_is_confirmed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    one.addresses.removable = False
    one.agent.stop()
    await asyncio.sleep(0.2)
    one.addresses.removable = True
    assert await asyncio.wait_for(one.task or asyncio.sleep(0), 10)
    assert any(b'"y":{"10.0.0.9"' in payload for _, payload in cluster.broker.log)


async def test_wrong_secret_blocks_claims_and_names_the_sender_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    stranger = Bench(config(tmp_path, "stranger"), cluster.broker, key=b"another secret 16")
    stranger.start()
    await until(stranger.owns, "the stranger owns the VIP")
    one = cluster.add("n1").start()
    await asyncio.sleep(2)
    assert not one.owns()
    alarms = [
        r for r in caplog.records if "stranger" in r.getMessage() and "alarm" in r.getMessage()
    ]
    assert len([r for r in alarms if "bad-signature" in r.getMessage()]) == 1
    await one.stop()
    await stranger.stop()


@pytest.mark.parametrize(
    ("candidates", "wanted"), [((), True), (("n2", "n1"), True), (("n2",), False)]
)
def test_only_candidates_want_vips(
    candidates: tuple[str, ...], wanted: bool, tmp_path: Path
) -> None:
    election = Election(profile="fast", timing=TIMING, candidates=candidates)
    refused = refusals(config(tmp_path, election=election), Standing())
    assert refused == ({} if wanted else {VIP: Reason.NOT_WANTED})


async def test_node_of_weight_zero_never_owns(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    idle = Node(name="n1", interface="eth0", vip_weight=0)
    one = cluster.add("n1", node=idle).start()
    await asyncio.sleep(1.5)
    assert not one.owns()
    assert await one.stop()


async def test_loopback_vip_is_listened_on_only_while_it_is_owned(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1", services=(service("web", "127.0.0.9", "10.0.0.1"),)).start()
    await until(lambda: bool(one.plane.plans), "the first plan")
    assert one.plane.plans[0].listeners == ()
    await until(lambda: one.owns("127.0.0.9"), "n1 owns the VIP")
    assert [item.address for item in one.plane.plans[-1].listeners] == ["127.0.0.9"]
    assert await one.stop()
    assert one.plane.plans[-1].listeners == ()
    assert one.plane.draining
    assert one.addresses.events == []


async def test_reload_adds_and_removes_vips_and_backends(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    changed = replace(one.config, services=(service("web", OTHER_VIP, "10.0.0.3"),))
    assert one.agent.reload(lambda: changed)
    await until(lambda: one.owns(OTHER_VIP), "n1 owns the new VIP")
    assert one.on_lan == {OTHER_VIP}
    (planned,) = one.plane.plans[-1].services
    assert {one.address: one.weight for one in planned.backends} == {
        "10.0.0.3": 1, "10.0.0.1": 0, "10.0.0.2": 0,
    }  # fmt: skip
    assert [v.address for v in one.agent.view.status().vips] == [OTHER_VIP]
    await one.stop()


async def test_a_backend_that_is_ejected_is_shown_to_be_so(tmp_path: Path) -> None:
    one = Cluster(tmp_path).add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    one.plane.counted = {
        "web:80": {"10.0.0.1:8080": {"ejected": False}, "10.0.0.2:8080": {"ejected": True}}
    }
    (web,) = one.agent.view.status().services
    why = one.agent.view.services.why("web")
    assert why is not None
    for shown in (web, why):
        assert [(each.address, each.ejected) for each in shown.backends] == [
            ("10.0.0.1", False), ("10.0.0.2", True),
        ]  # fmt: skip
    await one.stop()


def question(dst: str, **more: Any) -> FlowQuestion:
    return FlowQuestion(flow=flow_of("10.0.0.77:1", dst, "tcp"), **more)


async def test_a_flow_is_explained_with_the_owner_of_its_vip(tmp_path: Path) -> None:
    one = Cluster(tmp_path).add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    told = one.agent.view.explain(question(f"{VIP}:80"))
    assert (told.node, told.vip, told.owner, told.service) == ("n1", True, "n1", "web:80")
    told = one.agent.view.explain(question("10.0.0.1:80"))
    assert (told.vip, told.owner, told.listener) == (False, None, None)
    await one.stop()


TOLD = {
    "service": "web:80@ipv4", "how": "nat", "verdict": "sent", "kind": "flow", "allowed": True,
    "remembers_ms": 0,
    "affinity": False, "hash": "00ff", "entry": 255, "table": "b", "chosen": "b",
    "interface": "eth0", "mac": bytes(6), "mtu": 1500, "changes": [("ttl", "64", "63")],
    "frame_in": b"\1", "frame_out": b"\2", "answer": b"", "answer_mtu": None,
    "backends": [
        {"name": "b", "weight": 1, "up": True, "passed_over": "", "reason": "resolved"},
    ],
    "flow_cache": "tc", "cache_reason": "why", "carried": None,
    "bpf": [{"program": "xdp", "way": "request", "verdict": "carried", "same": True}],
}  # fmt: skip
"""What a forwarder says of a flow."""


async def test_a_flow_that_is_forwarded_is_explained_with_its_packets(tmp_path: Path) -> None:
    one = Cluster(tmp_path).add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    one.forwarding.explanation = TOLD
    told = one.agent.view.explain(question(f"{VIP}:80", bpf=True))
    assert (told.owner, told.service, told.listener, told.chosen) == (
        "n1", "web:80@ipv4", f"{VIP}:80", "b",
    )  # fmt: skip
    assert told.forward is not None
    assert (told.forward.frame_in, told.forward.frame_out) == ("01", "02")
    assert told.forward.changes[0].after == "63"
    assert told.forward.bpf is not None
    assert told.forward.bpf[0].same
    await one.stop()


async def test_what_cannot_be_tried_of_a_flow_is_refused_with_its_cure(tmp_path: Path) -> None:
    one = Cluster(tmp_path).add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    for asked, trouble, status, word in (
        (question(f"{VIP}:80", bpf=True), None, 409, "is not forwarded"),
        (question(f"{VIP}:80", size=100), None, 409, "is not forwarded"),
        (question(f"{VIP}:80", bpf=True), PermissionError(1, "run with CAP_BPF"), 409, "CAP_BPF"),
        (question(f"{VIP}:80", size=1), ValueError("40 to 65535"), 400, "40 to 65535"),
    ):
        one.forwarding.explanation = trouble
        with pytest.raises(Refused, match=word) as caught:
            one.agent.view.explain(asked)
        assert caught.value.answer.status == status
    await one.stop()


async def test_backend_that_a_reload_brings_is_checked(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    one.prober.bad["10.0.0.3"] = "refused"
    changed = replace(one.config, services=(service("web", VIP, "10.0.0.3"),))
    assert one.agent.reload(lambda: changed)
    await until(lambda: not one.plane.plans[-1].services[0].backends[0].up, "it is down")
    await one.stop()


async def test_reload_that_takes_a_backend_away_lets_its_connections_live_on_for_a_while(
    tmp_path: Path,
) -> None:
    web = replace(service("web", VIP, "10.0.0.1", check=False), proxying=Proxying(drain_ms=60_000))
    one = Cluster(tmp_path).add("n1", services=(web,)).start()
    await until(one.owns, "n1 owns the VIP")
    changed = replace(web, backends=(Backend(address="10.0.0.2"),))
    assert one.agent.reload(lambda: replace(one.config, services=(changed,)))
    (drain,) = one.agent.view.status().drains
    assert (drain.service, drain.backend) == ("web:80", "10.0.0.1:8080")
    assert 30_000 < drain.until - time.time() * 1000 < 90_000
    assert one.plane.cut_off == []
    at_once = replace(changed, proxying=Proxying(drain_ms=0))
    assert one.agent.reload(lambda: replace(one.config, services=(at_once,)))
    assert one.plane.cut_off == [("web:80", "10.0.0.1:8080")]
    assert one.agent.view.status().drains == ()
    await one.stop()


async def test_reload_that_needs_a_restart_changes_nothing_and_says_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    plans = len(one.plane.plans)
    changed = replace(one.config, secrets=(b"another secret 16",), services=())
    assert not one.agent.reload(lambda: changed)
    assert "restart needed to change cluster.secret_file" in caplog.text
    assert "another secret" not in caplog.text
    assert len(one.plane.plans) == plans
    assert one.owns()
    await one.stop()


async def test_reload_with_a_port_in_use_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    one.plane.failure = OSError(98, "cannot listen on 10.0.0.10:80: address in use")
    changed = replace(one.config, services=(service("web", OTHER_VIP, "10.0.0.3"),))
    assert not one.agent.reload(lambda: changed)
    assert "cannot listen on 10.0.0.10:80" in caplog.text
    status = one.agent.view.status()
    assert [v.address for v in status.vips] == [VIP]
    assert [s.vips for s in status.services] == [(VIP,)]
    assert one.owns()
    await one.stop()


async def test_reload_with_more_vips_than_fit_into_a_message_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    many = tuple(service(f"s{n}", f"10.0.1.{n}", "10.0.0.1") for n in range(101))
    assert not one.agent.reload(lambda: replace(one.config, services=many))
    assert "at most 100 VIPs, not 101" in caplog.text
    assert one.owns()
    await one.stop()


async def test_reload_of_a_bad_file_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    assert not one.agent.reload(lambda: None)
    assert one.owns()
    families = {family.name: family for family in one.agent.view.metrics()}
    (sample,) = families["piagent_config_reloads_total"].samples
    assert (sample.labels, sample.value) == ({"result": "bad-file"}, 1)
    assert one.notifier.said == ["ready", "reloading", "ready"]
    await one.stop()


async def test_port_in_use_at_the_start_is_an_error_and_takes_no_vip(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1")
    one.plane.failure = OSError(98, "cannot listen")
    with pytest.raises(OSError, match="cannot listen"):
        await one.agent.run()
    assert one.addresses.events == []
    assert not exists(one.config.admin_socket)


async def test_second_agent_on_the_same_socket_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(lambda: exists(one.config.admin_socket), "the socket")
    with pytest.raises(AdminError, match="another agent"):
        await cluster.add("n1").agent.run()
    await one.stop()


async def test_crash_of_a_part_takes_the_vips_down_and_ends_the_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")

    def explode(*_args: object) -> None:
        raise RuntimeError("boom")

    one.prober.ask = explode  # type: ignore[method-assign]
    assert one.task is not None
    assert await asyncio.wait_for(one.task, 10) is False
    assert one.on_lan == set()
    assert "crashed" in caplog.text


async def test_flood_closes_the_connection_and_the_agent_recovers(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    for _ in range(20_000):
        cluster.broker.publish("piagent/home/s/n7", b"{}", retain=False)
    await until(lambda: one.bus.closed != [], "the connection is closed")
    await until(one.owns, "n1 owns the VIP again")
    await one.stop()


async def test_vip_survives_a_broker_that_restarts_empty(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one = cluster.add("n1").start()
    await until(one.owns, "n1 owns the VIP")
    cluster.broker.retained.clear()
    one.bus.close("b1", "broker restarted")
    await asyncio.sleep(1.5)
    assert one.owns()
    (vip,) = one.agent.view.status().vips
    assert one.agent.view.status().brokers[0].up
    assert one.on_lan == {VIP}
    assert f"piagent/home/v/{VIP}" in cluster.broker.retained, "told anew"
    assert vip.reason == Reason.SILENCE
    await one.stop()


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_success_ends_the_count_of_failures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = Cluster(tmp_path).add("n1").start()
    await until(lambda: one.on_lan, "n1 has the VIP")
    for times in (1, 2):
        one.addresses.failure = AddressError("interface down")
        await until(lambda: not one.on_lan, "given up")
        one.addresses.failure = None
        await until(lambda: one.on_lan, "n1 has the VIP again")
        assert caplog.text.count("left to others for 2 s") == times
    await one.stop()
