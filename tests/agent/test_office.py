"""Leaders that change, brokers that forget, words that come late: nothing is lost or moved."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from piagent.agent import office as office_module
from piagent.agent.bulletins import Bulletins
from piagent.agent.letters import Letters
from piagent.agent.registry import Saved
from piagent.core import wire
from piagent.core.applying import Order, Result
from piagent.core.assignments import Applied, Assignment, Assignments
from piagent.core.bulletin import Endpoint, Wants
from piagent.core.lease_types import LEADER
from piagent.core.records import Kind, Record, digest
from piagent.core.wants import wants_of
from tests.agent.nodes import Bench, config, service
from tests.agent.test_services import INSIDE, POOL, apply, everywhere, stop, vips, web
from tests.fakes import FakeBroker
from tests.waiting import until

SECRET = b"0123456789abcdef"
ASSIGNED = "piagent/home/assigned/services"


def bench(
    tmp_path: Path, broker: FakeBroker, name: str, saved: Saved | None = None, **file: Any
) -> Bench:
    made = config(tmp_path, name, **{"pools": (POOL, INSIDE), "services": (), **file})
    return Bench(made, broker, saved=saved).start()


def leads(one: Bench) -> bool:
    return one.agent.services.office.leads()


def assigned(one: Bench) -> dict[str, Assignment]:
    said = one.agent.services.registry.assignments()
    return {} if said is None else said.given


def retained(broker: FakeBroker) -> Assignments | None:
    payload = broker.retained.get(ASSIGNED)
    if payload is None:
        return None
    read = wire.decode_signed([SECRET], ASSIGNED, payload, msgspec.json.Decoder(Assignments).decode)
    assert isinstance(read, Assignments)
    return read


async def until_settled(*benches: Bench) -> Bench:
    """A leader is there and has heard everybody; which one it is."""
    await until(lambda: any(one.agent.services.office.composed for one in benches), "a leader")
    return next(one for one in benches if leads(one))


async def test_the_next_leader_changes_nothing(tmp_path: Path) -> None:
    broker = FakeBroker()
    benches = [bench(tmp_path, broker, f"n{i}") for i in range(3)]
    first = await until_settled(*benches)
    for i in range(3):
        assert (await apply(first, web(f"web-{i}"))).done
    before = {key: (one.vips, one.node_ports) for key, one in assigned(first).items()}
    rest = [one for one in benches if one is not first]
    await first.stop()
    await until(lambda: any(leads(one) for one in rest), "another leader")
    second = next(one for one in rest if leads(one))
    assert (await apply(second, web("web-3"))).done
    after = {key: (one.vips, one.node_ports) for key, one in assigned(second).items()}
    assert before.items() <= after.items()
    assert after["service/web-3"] == (("10.0.0.12",), {"80": 30003})
    await stop(rest)


async def test_brokers_that_forget_everything_are_told_again(tmp_path: Path) -> None:
    broker = FakeBroker()
    benches = [bench(tmp_path, broker, f"n{i}") for i in range(2)]
    await until_settled(*benches)
    assert (await apply(benches[0], web())).done
    broker.stop()
    await until(lambda: everywhere(benches, lambda one: not leads(one)), "the leases run out")
    assert everywhere(benches, lambda one: vips(one, "web") == ("10.0.0.9",)), "untouched"
    broker.start()
    await until(lambda: "piagent/home/desired/service/web" in broker.retained, "the record is back")
    await until(lambda: retained(broker) is not None, "the assignments are back")
    late = bench(tmp_path, broker, "n9")
    await until(lambda: vips(late, "web") == ("10.0.0.9",), "a new node learns of it")
    await stop([*benches, late])


async def test_a_power_cut_takes_nothing_from_who_kept_a_state_file(tmp_path: Path) -> None:
    broker = FakeBroker()
    one = bench(tmp_path, broker, "n1")
    await until_settled(one)
    assert (await apply(one, web("other"), web())).done
    assert (await apply(one, replace(web("other"), table=None))).done
    saved = one.store.saved
    await one.stop()
    again = bench(tmp_path, FakeBroker(), "n1", saved)
    await until(lambda: vips(again, "web") == ("10.0.0.10",), "served before any leader is there")
    await until_settled(again)
    assert assigned(again)["service/web"].vips == ("10.0.0.10",)
    assert "service/other" not in assigned(again)
    await again.stop()


async def test_a_leader_without_memory_learns_from_those_who_come_later(tmp_path: Path) -> None:
    before = FakeBroker()
    one = bench(tmp_path, before, "n1")
    await until_settled(one)
    assert (await apply(one, web())).done
    saved = one.store.saved
    await one.stop()
    broker = FakeBroker()
    newcomer = bench(tmp_path, broker, "n2")
    await until_settled(newcomer)
    assert (await apply(newcomer, web("new"))).done
    assert vips(newcomer, "new") == ("10.0.0.9",), "it could not know better"
    late = bench(tmp_path, broker, "n1", saved)
    await until(lambda: "service/web" in assigned(newcomer), "what was applied is not lost")
    await until(
        lambda: everywhere((newcomer, late), lambda b: vips(b, "web") and vips(b, "new")),
        "both are served",
    )
    assert vips(newcomer, "web") != vips(newcomer, "new"), "one address, one service"
    assert vips(late, "web") == vips(newcomer, "web")
    await stop([newcomer, late])


async def test_a_leader_that_died_while_taking_over_takes_nothing_along(tmp_path: Path) -> None:
    broker = FakeBroker()
    one = bench(tmp_path, broker, "n1")
    await until_settled(one)
    assert (await apply(one, web())).done
    said = retained(broker)
    await one.stop()
    assert said is not None
    prepared = replace(said, node="n1", epoch=said.epoch + 1, number=0, known=said.stamp)
    broker.publish(ASSIGNED, wire.encode_signed(SECRET, ASSIGNED, prepared), retain=True)
    newcomer = bench(tmp_path, broker, "n2")
    await until(lambda: vips(newcomer, "web") == ("10.0.0.9",), "what was known before is known")
    await newcomer.stop()


async def test_retained_garbage_does_nothing_and_is_put_right(tmp_path: Path) -> None:
    broker = FakeBroker()
    one = bench(tmp_path, broker, "n1")
    await until_settled(one)
    assert (await apply(one, web())).done
    record = broker.retained["piagent/home/desired/service/web"]
    stranger = Record(kind=Kind.SERVICE, name="mine", table={"name": "mine"})
    topic = "piagent/home/desired/service/mine"
    for where, payload in (
        (topic, wire.encode_signed(SECRET, topic, stranger)),  # authentic, never assigned
        ("piagent/home/desired/service/web", b"{}"),
        ("piagent/home/desired/service/web", b""),
        (ASSIGNED, b'{"version": 0}'),
        (ASSIGNED, b""),
        ("piagent/home/wants/n1", b"\xff"),
        ("piagent/home/endpoints/n7", b"[]"),
    ):
        broker.publish(where, payload, retain=True)
    await until(
        lambda: broker.retained.get("piagent/home/desired/service/web") == record,
        "the record is back",
    )
    assert [s.name for s in one.agent.merged.config.services] == ["web"]
    assert one.agent.merged.notes == ()
    assert (await apply(one, web("next"))).done
    await one.stop()


async def test_what_a_former_leader_said_is_no_use_to_who_recorded_it(tmp_path: Path) -> None:
    broker = FakeBroker()
    one = bench(tmp_path, broker, "n1")
    await until_settled(one)
    assert (await apply(one, web())).done
    old = broker.retained[ASSIGNED]
    assert (await apply(one, web("next"))).done
    now = retained(broker)
    broker.publish(ASSIGNED, old, retain=True)
    assert (await apply(one, web("third"))).done
    assert {*assigned(one)} == {"service/web", "service/next", "service/third"}
    assert now is not None
    late = bench(tmp_path, broker, "n2")
    await until(lambda: vips(late, "third"), "a new node hears what is in force")
    await stop([one, late])


async def test_a_leader_that_cannot_read_what_is_applied_decides_nothing(tmp_path: Path) -> None:
    newer = Record(kind=Kind.SERVICE, name="web", table={"name": "web", "from_the_future": 1})
    applied = Applied(1, digest(newer), (1, 2))
    given = {"service/web": Assignment(vips=("10.0.0.9",), applied=applied)}
    saved = Saved(
        assignments=Assignments(node="n9", epoch=1, number=2, given=given), records=(newer,)
    )
    one = bench(tmp_path, FakeBroker(), "n1", saved)
    await until(lambda: leads(one), "it leads")
    verdict = await apply(one, web("other"))
    assert not verdict.done
    assert "cannot read what was applied as service/web" in verdict.error
    assert assigned(one)["service/web"] == given["service/web"]
    (note,) = one.agent.merged.notes
    assert (note.key, note.reason) == ("service/web", "unreadable")
    await one.stop()


async def test_files_that_differ_are_merged_and_their_pools_too(tmp_path: Path) -> None:
    broker = FakeBroker()
    auto = replace(service("auto", "10.0.0.9"), vips=(), node_ports=True)
    with_pools = bench(tmp_path, broker, "n1", services=(service("fixed", "10.0.0.9"),))
    without = bench(tmp_path, broker, "n2", pools=(), services=(auto,))
    await until_settled(with_pools, without)
    await until(lambda: assigned(without).get("service/auto"), "given by the pool of the other")
    given = assigned(without)
    assert given["service/fixed"].vips == ("10.0.0.9",)
    assert given["service/auto"].vips == ("10.0.0.10",)
    assert without.agent.merged.config.vips() == (), "it never owns what its file has no pool for"
    await stop([with_pools, without])


async def test_what_left_a_file_keeps_its_address_for_a_while(tmp_path: Path) -> None:
    broker = FakeBroker()
    auto = replace(service("auto", "10.0.0.9"), vips=())
    one = bench(tmp_path, broker, "n1", services=(auto,))
    await until(lambda: vips(one, "auto"), "it has one")
    file = one.agent.services.file
    assert one.agent.reload(lambda: replace(file, services=()))
    assert (await apply(one, web("other"))).outcomes[0].vips == ("10.0.0.10",)
    assert one.agent.reload(lambda: file)
    await until(lambda: vips(one, "auto") == ("10.0.0.9",), "it has the same again")
    await one.stop()


async def test_what_is_in_the_file_of_a_node_that_is_away_is_kept_for_it(tmp_path: Path) -> None:
    given = {"service/away": Assignment(vips=("10.0.0.9",), node_ports={"http": 30000})}
    saved = Saved(assignments=Assignments(node="n9", epoch=1, number=2, given=given))
    broker = FakeBroker()  # that has forgotten what the node asked for
    one = bench(tmp_path, broker, "n1", saved)
    await until_settled(one)
    outcome = (await apply(one, web())).outcomes[0]
    assert (outcome.vips, outcome.node_ports) == (("10.0.0.10",), {"80": 30001})
    assert assigned(one)["service/away"].vips == ("10.0.0.9",)
    await one.stop()


async def test_a_rotated_secret_signs_everything_anew(tmp_path: Path) -> None:
    broker = FakeBroker()
    one = bench(tmp_path, broker, "n1")
    await until_settled(one)
    assert (await apply(one, web())).done
    new = b"another-secret-of-16"
    file = one.agent.services.file
    for secrets in ((SECRET, new), (new, SECRET)):
        assert one.agent.reload(lambda now=secrets: replace(file, secrets=now))
    for topic in (ASSIGNED, "piagent/home/desired/service/web", "piagent/home/wants/n1"):
        payload = broker.retained[topic]
        read = wire.decode_signed([new], topic, payload, msgspec.json.decode)
        assert not isinstance(read, wire.Refused), topic
    await one.stop()


async def test_who_leads_after_its_secret_was_rotated_signs_everything_anew(tmp_path: Path) -> None:
    broker = FakeBroker()
    benches = [bench(tmp_path, broker, f"n{i}") for i in range(2)]
    leader = await until_settled(*benches)
    assert (await apply(leader, web())).done
    new = b"another-secret-of-16"
    other = next(one for one in benches if one is not leader)
    await until(lambda: vips(other, "web"), "it is known")
    for one, secrets in (
        (leader, (SECRET, new)),
        (other, (SECRET, new)),
        (other, (new, SECRET)),
    ):
        assert one.agent.reload(lambda one=one, now=secrets: replace(one.config, secrets=now))
    await leader.stop()
    await until(lambda: leads(other), "another leader")

    def signed(topic: str) -> bool:
        read = wire.decode_signed([new], topic, broker.retained[topic], msgspec.json.decode)
        return not isinstance(read, wire.Refused)

    for topic in (ASSIGNED, "piagent/home/desired/service/web"):
        await until(lambda topic=topic: signed(topic), topic)
    await other.stop()


async def test_without_a_leader_an_order_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("piagent.agent.orders.TRY_S", 0.1)
    one = bench(tmp_path, FakeBroker(), "n1")
    verdict = await apply(one, web())
    assert verdict.error.startswith("no node leads the cluster now")
    await one.stop()


async def test_an_order_that_is_too_large_for_one_message_says_so(tmp_path: Path) -> None:
    broker = FakeBroker()
    benches = [bench(tmp_path, broker, f"n{i}") for i in range(2)]
    leader = await until_settled(*benches)
    other = next(one for one in benches if one is not leader)
    await until(lambda: LEADER in other.agent._election.placing.owners(), "it knows the leader")
    backends = [f"10.1.{i}.{j}" for i in range(10) for j in range(200)]
    verdict = await apply(other, web(backends=backends))
    assert "of one order" in verdict.error
    huge = await apply(leader, *(web(f"s{i}", backends=backends) for i in range(3)))
    assert huge.done, huge
    await stop(benches)


async def test_an_order_asked_for_again_is_done_once(tmp_path: Path) -> None:
    broker = FakeBroker()
    benches = [bench(tmp_path, broker, f"n{i}") for i in range(2)]
    leader = await until_settled(*benches)
    other = next(one for one in benches if one is not leader)
    await until(lambda: LEADER in other.agent._election.placing.owners(), "it knows the leader")
    order = Order(changes=(web(),))
    body = msgspec.json.encode(order).decode()
    letters = other.agent.services._letters
    for _ in range(3):
        there = other.agent._election.members.get(leader.config.node.name)
        assert there is not None
        asked = letters.command(
            leader.config.node.name, there.incarnation, wire.Command.APPLY, detail="x", body=body
        )
        other.agent._election.publish(*asked)
    await until(lambda: vips(other, "web"), "it is done")
    assert (await apply(other, web())).outcomes[0].version == 1
    await stop(benches)


async def test_endpoints_join_everywhere_and_leave_with_their_time(tmp_path: Path) -> None:
    broker = FakeBroker()
    benches = [bench(tmp_path, broker, f"n{i}") for i in range(2)]
    await until_settled(*benches)
    assert (await apply(benches[0], web(backends=[]))).done
    await until(lambda: everywhere(benches, lambda one: vips(one, "web")), "it is there")

    def backends(one: Bench) -> list[str]:
        (found,) = one.agent.merged.config.services
        return [backend.id for backend in found.backends]

    endpoint = Endpoint(service="web", address="10.0.0.77", port=8081, left_ms=700)
    for _ in range(4):
        benches[0].agent.services.endpoints.register(endpoint)
        await asyncio.sleep(0.3)
        assert everywhere(benches, lambda one: backends(one) == ["10.0.0.77:8081"])
    await until(lambda: everywhere(benches, lambda one: backends(one) == []), "its time is over")
    benches[1].agent.services.endpoints.register(endpoint)
    await until(lambda: backends(benches[0]), "there again")
    assert benches[1].agent.services.endpoints.remove("web", "10.0.0.77", 8081)
    await until(lambda: everywhere(benches, lambda one: backends(one) == []), "gone at once")
    await stop(benches)


async def test_conflicts_and_refusals_come_back_from_the_leader(tmp_path: Path) -> None:
    broker = FakeBroker()
    benches = [bench(tmp_path, broker, f"n{i}") for i in range(2)]
    leader = await until_settled(*benches)
    other = next(one for one in benches if one is not leader)
    assert (await apply(leader, web())).done
    changed = web(backends=["10.0.0.2"])
    verdict = await apply(other, replace(changed, version=7))
    assert verdict.outcomes[0].result is Result.CONFLICT
    assert verdict.outcomes[0].diff == ('-backends = ["10.0.0.1"]', '+backends = ["10.0.0.2"]')
    assert (await apply(other, replace(changed, version=1))).outcomes[0].version == 2
    await stop(benches)


class Deaf(FakeBroker):
    """A broker that can be made to lose what is said of assignments."""

    def __init__(self) -> None:
        super().__init__()
        self.loses = False

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if not (self.loses and topic == ASSIGNED):
            super().publish(topic, payload, retain=retain)


async def test_what_no_majority_confirmed_is_not_done_however_often_it_is_asked_for(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(office_module, "CONFIRM_S", 0.2)
    broker = Deaf()
    one = bench(tmp_path, broker, "n1")
    await until_settled(one)
    office = one.agent.services.office
    broker.loses = True
    for _ in range(2):
        verdict = await office.apply(Order(changes=(web(),)))
        assert not verdict.done
        assert verdict.error
        assert not verdict.final
        assert assigned(one) == {}
    broker.loses = False
    assert (await apply(one, web())).done
    assert "service/web" in assigned(one)
    await one.stop()


async def test_a_leader_goes_on_when_what_it_lacked_has_come(tmp_path: Path) -> None:
    broker = FakeBroker()
    record = Record(kind=Kind.SERVICE, name="web", table=web().table or {})
    given = {"service/web": Assignment(applied=Applied(1, digest(record), (1, 2)))}
    saved = Saved(assignments=Assignments(node="n9", epoch=1, number=2, given=given))
    one = bench(tmp_path, broker, "n1", saved, services=(service("mine", "10.0.0.9"),))
    await until(lambda: one.agent.services.office._looked, "it has looked, and lacks it")
    assert "service/mine" not in assigned(one)
    topic, payload = one.agent.services.registry._bulletins.record(record)
    broker.publish(topic, payload, retain=True)
    await until(lambda: "service/mine" in assigned(one), "it decides")
    assert assigned(one)["service/web"].vips == ("10.0.0.10",)
    await one.stop()


async def test_a_new_leader_gives_nothing_before_it_has_heard_who_is_there(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(office_module, "SETTLE_S", 3.0)
    broker = FakeBroker()
    letters = Letters(cluster="home", node="n2", incarnation="2" * 16, secrets=(SECRET,), started=1)
    broker.publish(letters.presence_topic, letters.presence(True, ""), retain=True)
    auto = replace(service("auto", "10.0.0.9"), vips=())
    saved = Saved(assignments=Assignments(node="n9", epoch=1, number=2))
    one = bench(tmp_path, broker, "n1", saved, services=(auto,))
    await until(
        lambda: (said := retained(broker)) and said.node == "n1" and said.number, "it leads"
    )
    await asyncio.sleep(0.3)
    assert assigned(one) == {}
    fixed = wants_of([service("fixed", "10.0.0.9")], [])
    said = Wants(incarnation="2" * 16, at=1, wants=fixed)
    broker.publish(*Bulletins("home", letters).wants(said), retain=True)
    await until(lambda: assigned(one), "it gives")
    assert assigned(one)["service/fixed"].vips == ("10.0.0.9",)
    assert assigned(one)["service/auto"].vips == ("10.0.0.10",)
    await one.stop()
