"""Planned moves between whole agents; broker, LAN, kernel and engine are in memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from msgspec.structs import replace

from piagent.core.lease_types import Reason
from piagent.core.model import Election, TrafficPolicy
from piagent.ports import AddressConflict, AddressGone, Egress, LinkState
from tests.agent.nodes import OTHER_VIP, TIMING, VIP, Bench, config, service
from tests.fakes import FakeBroker
from tests.waiting import until

RIVAL = "02:00:00:00:00:99"


class Cluster:
    """Agents on one broker; a drain ends at once when nobody is connected."""

    def __init__(self, tmp_path: Path, *names: str, **changes: object) -> None:
        self.broker = FakeBroker()
        self.benches = {
            name: Bench(config(tmp_path, name, **changes), self.broker).start() for name in names
        }

    async def owner(self, vip: str = VIP) -> str:
        """The one that has the VIP, which all others have heard of."""
        await until(lambda: self._agree(vip), f"one owner of {vip}, known to all")
        return self.owners(vip)[0]

    def _agree(self, vip: str) -> bool:
        why = [bench.agent.view.why(vip) for bench in self.benches.values()]
        return [*{each.vip.owner for each in why if each is not None}] == self.owners(vip)

    def owners(self, vip: str = VIP) -> list[str]:
        return [name for name, bench in self.benches.items() if bench.owns(vip)]

    def other(self, *names: str) -> str:
        return next(name for name in self.benches if name not in names)

    async def stop(self) -> None:
        for bench in self.benches.values():
            if bench.task is not None and not bench.task.done():
                await bench.stop()


def view(bench: Bench, vip: str = VIP) -> str:
    """Why this node stands with the VIP as it does."""
    return next(v.reason for v in bench.agent.view.status().vips if v.address == vip)


def named(bench: Bench) -> str | None:
    """Whom the node's guardian would name as the VIP's successor now."""
    word = bench.guardian.wills[-1].letters[0].payload.partition(b".")[2]
    yields: dict[str, str | None] = json.loads(word)["y"]
    return yields[VIP]


async def test_vip_moves_to_the_node_that_was_named(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2", "n3")
    owner = await cluster.owner()
    to = cluster.other(owner)
    bench = cluster.benches[owner]
    assert await bench.agent.view.move(VIP, to) is None
    assert cluster.owners() == [to]
    assert bench.fence.held == set(), "the former owner answers no ARP"
    assert bench.fence.served == {VIP}, "and serves what still comes"
    assert cluster.benches[to].fence.passed_on == {VIP: bench.addresses.mac()}
    assert view(cluster.benches[to]) == Reason.INVITED
    await cluster.stop()


async def test_any_node_can_be_asked_to_move_a_vip(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2", "n3")
    owner = await cluster.owner()
    to = cluster.other(owner)
    third = cluster.other(owner, to)
    assert await cluster.benches[third].agent.view.move(VIP, to) is None
    assert cluster.owners() == [to]
    await cluster.stop()


async def test_move_that_cannot_be_says_why_and_changes_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")
    owner = await cluster.owner()
    to = cluster.other(owner)
    ask = cluster.benches[owner].agent.view.move
    assert "there are: n" in str(await ask(VIP, "nobody"))
    assert "is on" in str(await ask(VIP, owner))
    assert "none of this node's VIPs" in str(await ask("10.0.0.77", to))
    cluster.benches[to].lan.deliver(LinkState(up=False, reason="no carrier"))
    await until(
        lambda: "carrier-lost" in str(cluster.broker.retained.get(f"piagent/home/s/{to}")), "told"
    )
    await asyncio.sleep(0.1)
    assert "carrier-lost" in str(await ask(VIP, to))
    assert cluster.owners() == [owner]
    await cluster.stop()


async def test_drained_node_gives_everything_and_takes_nothing(tmp_path: Path) -> None:
    services = (service("a", VIP, "10.0.0.1"), service("b", OTHER_VIP, "10.0.0.1"))
    cluster = Cluster(tmp_path, "n1", "n2", services=services)
    await until(lambda: all(map(cluster.owners, (VIP, OTHER_VIP))), "both VIPs are owned")
    one, two = cluster.benches["n1"], cluster.benches["n2"]
    assert one.agent.view.drain("", drain=True) is None
    await until(lambda: two.owns(VIP) and two.owns(OTHER_VIP), "n2 owns both")
    await until(lambda: view(one) == Reason.DRAINED, "n1 wants nothing")
    assert two.agent.view.drain("n1", drain=False) is None, "asked from another node"
    await until(lambda: view(one) != Reason.DRAINED, "n1 takes part again")
    await cluster.stop()


async def test_vips_spread_evenly_when_all_start_at_once(tmp_path: Path) -> None:
    vips = [f"10.0.1.{n}" for n in range(6)]
    services = tuple(service(vip, vip, "10.0.0.1") for vip in vips)
    cluster = Cluster(tmp_path, "n1", "n2", "n3", services=services)
    await until(lambda: all(len(cluster.owners(vip)) == 1 for vip in vips), "all are owned")
    counts = [sum(b.owns(vip) for vip in vips) for b in cluster.benches.values()]
    assert counts == [2, 2, 2]
    await cluster.stop()


async def test_owner_of_too_many_hands_the_rest_over_when_a_node_has_come(tmp_path: Path) -> None:
    election = Election(profile="fast", timing=TIMING, rebalance_ms=500, drain_ms=100)
    vips = [f"10.0.1.{n}" for n in range(4)]
    services = tuple(service(vip, vip, "10.0.0.1") for vip in vips)
    cluster = Cluster(tmp_path, "n1", services=services, election=election)
    await until(lambda: all(cluster.owners(vip) for vip in vips), "n1 owns all")
    made = config(tmp_path, "n2", services=services, election=election)
    cluster.benches["n2"] = Bench(made, cluster.broker).start()
    two = cluster.benches["n2"]
    await until(lambda: sum(two.owns(vip) for vip in vips) == 2, "n2 owns half of them")
    await cluster.stop()


async def test_link_that_goes_takes_the_vips_along_at_once(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")
    owner = await cluster.owner()
    bench = cluster.benches[owner]
    bench.lan.deliver(LinkState(up=False, reason="no carrier"))
    await until(lambda: not bench.owns(), "released")
    assert view(bench) == Reason.CARRIER_LOST
    assert await cluster.owner() != owner
    await cluster.stop()


async def test_owner_that_cannot_prove_its_egress_gives_up(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")
    owner = await cluster.owner()
    cluster.benches[owner].lan.deliver(Egress(proven=False, reason="nobody answers"))
    await until(lambda: cluster.owners() == [cluster.other(owner)], "the other owns it")
    assert view(cluster.benches[owner]) == Reason.EGRESS_LOST
    await cluster.stop()


async def test_stranger_with_the_address_is_left_alone(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    bench = cluster.benches["n1"]
    bench.lan.strangers[VIP] = RIVAL
    await until(lambda: view(bench) == Reason.ADDRESS_IN_USE, "the stranger was heard")
    await asyncio.sleep(2)
    assert bench.addresses.events == [], "it was never configured"
    bench.lan.strangers.clear()
    await until(bench.owns, "taken when the stranger has gone")
    await cluster.stop()


async def test_conflict_yields_and_names_the_rival(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    bench = cluster.benches["n1"]
    await cluster.owner()
    bench.lan.deliver(AddressConflict(VIP, RIVAL))
    await until(lambda: not bench.owns(), "given up")
    why = bench.agent.view.why(VIP)
    assert why is not None
    assert why.rival == RIVAL
    assert why.vip.reason == Reason.ADDRESS_IN_USE
    await cluster.stop()


async def test_address_that_somebody_removes_is_put_back_until_it_is_too_often(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path, "n1")
    bench = cluster.benches["n1"]
    await cluster.owner()
    for _ in range(3):
        await bench.addresses.remove(VIP)
        bench.lan.deliver(AddressGone(VIP))
        await until(lambda: VIP in bench.addresses.present, "put back")
    assert bench.owns()
    bench.lan.deliver(AddressGone(VIP))
    await until(lambda: view(bench) == Reason.ADDRESS_TAKEN_AWAY, "left to others")
    await cluster.stop()


async def test_policy_local_wants_a_backend_here_that_is_up(tmp_path: Path) -> None:
    local = service("web", VIP, "10.0.0.1")
    backend = replace(local.backends[0], node="n2")
    local = replace(local, backends=(backend,), traffic_policy=TrafficPolicy.LOCAL)
    cluster = Cluster(tmp_path, "n1", "n2", services=(local,))
    assert await cluster.owner() == "n2"
    assert view(cluster.benches["n1"]) == Reason.NO_LOCAL_BACKEND
    for bench in cluster.benches.values():
        bench.prober.bad["10.0.0.1"] = "refused"
    await until(lambda: cluster.owners() == [], "nobody has a backend now")
    await cluster.stop()


async def test_second_host_with_a_name_owns_nothing_and_says_whom_it_met(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    await cluster.owner()
    assert cluster.benches["n1"].agent._election.members._settled, "an owner draws no lots"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    second = Bench(config(folder, "n1"), cluster.broker).start()
    await until(lambda: view(second) == Reason.TWIN, "it refuses to own")
    assert cluster.benches["n1"].owns()
    await second.stop()
    assert cluster.benches["n1"].owns()
    await cluster.stop()


async def test_guardian_knows_what_to_do_before_the_address_is_there(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")
    owner = await cluster.owner()
    bench, other = cluster.benches[owner], cluster.other(owner)
    await until(lambda: named(bench) == other, "the other may claim")
    will = bench.guardian.wills[-1]
    assert will.vips == (VIP,)
    assert [letter.broker for letter in will.letters] == ["b1"]
    await cluster.benches[owner].stop()
    last = cluster.benches[owner].guardian.wills[-1]
    assert (last.vips, last.letters) == ((), ())
    await cluster.stop()


async def test_node_that_came_lately_is_no_successor(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    await cluster.owner()
    one = cluster.benches["n1"]
    made = config(tmp_path, "n2")
    cluster.benches["n2"] = Bench(made, cluster.broker).start()
    await until(lambda: len(one.agent.view.status().nodes) == 2, "n2 is there")
    assert named(one) is None
    await until(lambda: named(one) == "n2", "n2 may claim now")
    await cluster.stop()


async def test_move_to_a_node_that_came_lately_waits_until_it_may_claim(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    await cluster.owner()
    one = cluster.benches["n1"]
    two = Bench(config(tmp_path, "n2"), cluster.broker).start()
    cluster.benches["n2"] = two
    await until(lambda: len(one.agent.view.status().nodes) == 2, "n2 is there")
    move = asyncio.create_task(one.agent.view.move(VIP, "n2"))
    await asyncio.sleep(0.2)
    assert one.owns(), "it stays while n2 has to listen"
    assert await move is None
    assert two.owns()
    assert view(two) == Reason.INVITED
    await cluster.stop()


async def test_node_that_hears_its_own_absence_says_that_it_is_there(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")
    await cluster.owner()
    one, two = cluster.benches["n1"], cluster.benches["n2"]
    await until(lambda: len(two.agent.view.status().nodes) == 2, "n2 knows n1")
    letters = one.agent._letters
    will = letters.presence(False, "a former connection")
    cluster.broker.publish(letters.presence_topic, will, retain=True)
    topic = "piagent/home/s/n1"
    await until(lambda: b'"on":1' in cluster.broker.retained[topic], "said again")
    await until(lambda: len(two.agent.view.status().nodes) == 2, "n2 knows n1 again")
    await cluster.stop()


async def test_one_node_leads(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")

    def leaders() -> set[str | None]:
        return {bench.agent.view.status().leader for bench in cluster.benches.values()}

    await until(lambda: len(leaders()) == 1 and None not in leaders(), "all agree on a leader")
    (leader,) = leaders()
    assert leader is not None
    await cluster.benches.pop(leader).stop()
    await until(lambda: leaders() == set(cluster.benches), "the other leads")
    await cluster.stop()


async def test_vip_that_leaves_one_file_is_handed_to_those_that_have_it(tmp_path: Path) -> None:
    election = Election(profile="fast", timing=TIMING, drain_ms=200)
    cluster = Cluster(tmp_path, "n1", "n2", election=election)
    owner = await cluster.owner()
    bench, other = cluster.benches[owner], cluster.benches[cluster.other(owner)]
    await until(lambda: named(bench) == cluster.other(owner), "the other may claim")
    assert bench.agent.reload(lambda: replace(bench.config, services=()))
    await until(other.owns, "the other owns it")
    assert view(other) == Reason.INVITED
    await until(lambda: bench.agent.view.status().vips == (), "the file is in force")
    assert bench.notifier.said == ["ready", "reloading", "ready"]
    await cluster.stop()
