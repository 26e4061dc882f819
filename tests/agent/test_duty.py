"""Whole agents that share their health checks; the broker and the backends are in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from piagent.core import checking, wire
from piagent.core.checking import Verdict
from piagent.core.health import HealthReason, Status
from piagent.core.model import Backend, HealthCheck
from tests.agent.duty import HEALTH, KEYS, SECRET, Cluster, Made, services
from tests.agent.nodes import VIP, Bench, service
from tests.waiting import until


@pytest.fixture
def three(tmp_path: Path) -> Made:
    """Return what makes three nodes at work."""

    def make(**changes: object) -> Cluster:
        cluster = Cluster(tmp_path)
        for name in ("n1", "n2", "n3"):
            cluster.start(name, **changes)
        return cluster

    return make


async def test_each_backend_is_checked_by_one_node_and_all_know_how_it_is(three: Made) -> None:
    cluster = three()
    cluster.fail("10.1.0.2")
    await cluster.settle()
    before = {name: bench.prober.count for name, bench in cluster.nodes.items()}
    for bench in cluster.nodes.values():
        bench.prober.asked.clear()
    await asyncio.sleep(0.5)
    asked = {
        name: {asks.key for asks in bench.prober.asked} for name, bench in cluster.nodes.items()
    }
    assert sorted(key for keys in asked.values() for key in keys) == KEYS
    for key in KEYS:
        (on_duty,) = cluster.on_duty(key)
        assert key in asked[on_duty]
        assert cluster.statuses(key) == {Status.DOWN if key[1] == "10.1.0.2" else Status.UP}
        for name in cluster.nodes:
            assert cluster.target(name, key).checked_by == on_duty
    assert before.keys() == asked.keys()
    await cluster.stop()


async def test_a_change_is_everywhere_as_soon_as_the_node_on_duty_has_found_it(
    three: Made,
) -> None:
    cluster = three()
    await cluster.settle()
    key = KEYS[0]
    (on_duty,) = cluster.on_duty(key)
    cluster.nodes[on_duty].prober.bad[key[1]] = "timeout"  # the others would say it is up
    await until(lambda: cluster.statuses(key) == {Status.DOWN}, "all know")
    for name in cluster.nodes.keys() - {on_duty}:
        target = cluster.target(name, key)
        assert target.health.reason is HealthReason.TOLD
        assert target.health.detail == "timeout"
        assert target.since_ms == cluster.target(on_duty, key).since_ms
        status = cluster.nodes[name].agent.view.status()
        backend = next(
            b
            for s in status.services
            if s.name == key[0]
            for b in s.backends
            if b.address == key[1]
        )
        assert not backend.up
        assert backend.checked_by == on_duty
        assert backend.checked is not None
    cluster.fail()
    await until(lambda: cluster.statuses(key) == {Status.UP}, "all know that it is back")
    await cluster.stop()


async def test_when_the_node_on_duty_dies_another_goes_on_from_what_is_known(three: Made) -> None:
    cluster = three()
    cluster.fail("10.1.0.1")
    await cluster.settle()
    key = KEYS[0]
    (on_duty,) = cluster.on_duty(key)
    seen = {id(cluster.target(n, key)): n for n in cluster.nodes if n != on_duty}
    await cluster.crash(on_duty)
    await cluster.settle()
    (now,) = cluster.on_duty(key)
    assert now in seen.values()
    assert cluster.statuses(key) == {Status.DOWN}
    cluster.fail()
    await until(lambda: cluster.statuses(key) == {Status.UP}, "the new one's word is taken")
    await cluster.stop()


async def test_a_node_that_comes_knows_at_once_and_takes_over_what_is_its_own(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    cluster.start("n1")
    cluster.start("n2")
    cluster.fail("10.1.0.1", "10.1.0.2")
    await cluster.settle()
    late = Bench(cluster.config("n3"), cluster.broker)
    late.prober.hold = asyncio.Event()  # so that it finds nothing out itself
    cluster.nodes["n3"] = late.start()
    await until(lambda: all(cluster.statuses(key) == {Status.DOWN} for key in KEYS), "n3 knows")
    cluster.fail("10.1.0.1", "10.1.0.2")
    late.prober.hold.set()
    await cluster.settle()
    assert {name for key in KEYS for name in cluster.on_duty(key)} == {"n1", "n2", "n3"}
    assert all(cluster.statuses(key) == {Status.DOWN} for key in KEYS)
    await cluster.stop()


async def test_without_the_broker_every_node_checks_everything_and_keeps_what_it_knew(
    three: Made,
) -> None:
    cluster = three()
    cluster.fail("10.1.0.1")
    await cluster.settle()
    cluster.broker.stop()
    for bench in cluster.nodes.values():
        bench.prober.asked.clear()
    await until(
        lambda: all(
            {asks.key for asks in bench.prober.asked} == set(KEYS)
            for bench in cluster.nodes.values()
        ),
        "every node checks everything",
    )
    for key in KEYS:
        assert cluster.on_duty(key) == list(cluster.nodes)
        assert cluster.statuses(key) == {Status.DOWN if key[1] == "10.1.0.1" else Status.UP}
    cluster.broker.start()
    await cluster.settle()
    await cluster.stop()


async def test_a_node_on_duty_that_falls_silent_is_replaced(
    three: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "REFRESH_S", 0.4)
    cluster = three()
    await cluster.settle()
    key = KEYS[0]
    (on_duty,) = cluster.on_duty(key)
    cluster.nodes[on_duty].prober.hold = asyncio.Event()  # its checks hang; it is there
    rest = cluster.nodes.keys() - {on_duty}
    await until(lambda: len(rest & set(cluster.on_duty(key))) == 1, "another one checks")
    for name in rest:
        cluster.nodes[name].prober.bad[key[1]] = "refused"
    await until(
        lambda: all(cluster.target(name, key).health.status is Status.DOWN for name in rest),
        "its word is taken",
    )
    cluster.nodes[on_duty].prober.hold.set()
    await cluster.settle()
    assert cluster.on_duty(key) == [on_duty]
    await cluster.stop()


async def test_nodes_that_ask_other_questions_check_for_themselves(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.start("n1")
    cluster.start("n2")
    cluster.start("n3", services=services(port=9090))
    odd = cluster.nodes["n3"]
    odd.prober.bad = {"10.1.0.1": "refused"}
    await until(
        lambda: all(
            max(cluster.on_duty(key)) == "n3" and len(cluster.on_duty(key)) == 2 for key in KEYS
        ),
        "n3 checks everything, one of the others each backend",
    )
    await until(
        lambda: all(cluster.target("n3", key).checked_by == "n3" for key in KEYS), "n3 has checked"
    )
    for key in KEYS:
        ill = key[1] == "10.1.0.1"
        assert cluster.target("n3", key).health.status is (Status.DOWN if ill else Status.UP)
        assert {cluster.target(n, key).health.status for n in ("n1", "n2")} == {Status.UP}
    await cluster.stop()


async def test_what_is_not_to_be_shared_is_checked_by_every_node_and_nothing_is_said(
    three: Made,
) -> None:
    cluster = three(services=services(shared=False))
    await until(
        lambda: all(
            cluster.target(name, key).checked_by == name for name in cluster.nodes for key in KEYS
        ),
        "every node has checked everything",
    )
    await asyncio.sleep(0.3)
    assert cluster.said() == []
    await cluster.stop()


async def test_a_node_that_shares_nothing_takes_nobodys_word(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.start("n1")
    cluster.start("n2")
    own = cluster.start("n3", services=services(shared=False))
    own.prober.bad = dict.fromkeys(("10.1.0.1", "10.1.0.2"), "no way from here")
    await until(
        lambda: all(cluster.target("n3", key).health.status is Status.DOWN for key in KEYS),
        "n3 has checked everything",
    )
    del cluster.nodes["n3"]
    await cluster.settle()
    await asyncio.sleep(0.3)
    cluster.nodes["n3"] = own
    for key in KEYS:
        assert cluster.target("n3", key).health.status is Status.DOWN
        assert {cluster.target(name, key).health.status for name in ("n1", "n2")} == {Status.UP}
    await cluster.stop()


async def test_what_is_retained_is_the_word_that_counts(
    three: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All start at once, and for a moment several speak."""
    monkeypatch.setattr(checking, "REFRESH_S", 3600.0)
    cluster = three()
    await cluster.settle()

    def retained() -> list[str]:
        found = [cluster.broker.retained[HEALTH + "/".join(key)] for key in KEYS]
        return [msgspec.json.decode(payload, type=Verdict).node for payload in found]

    on_duty = [cluster.on_duty(key)[0] for key in KEYS]
    await until(lambda: retained() == on_duty, "so it is")
    await cluster.stop()


async def test_the_result_of_a_check_that_another_node_took_over_meanwhile_counts_for_nothing(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    hasty = services(rise=1, fall=1)
    slow = cluster.start("n1", services=hasty)
    slow.prober.hold = asyncio.Event()
    slow.prober.bad = dict.fromkeys(("10.1.0.1", "10.1.0.2"), "late")
    await until(lambda: slow.prober.count >= len(KEYS), "n1's first checks are under way")
    cluster.start("n2", services=hasty)
    theirs = [key for key in KEYS if ranks_first("n2", key)]
    assert theirs
    await until(
        lambda: all(cluster.target("n1", key).checked_by == "n2" for key in theirs), "n2 was heard"
    )
    slow.prober.hold.set()
    await until(
        lambda: all(not cluster.target("n1", key).running for key in theirs), "n1's checks end"
    )
    for key in theirs:
        assert cluster.target("n1", key).health.status is Status.UP
    await cluster.stop()


async def test_a_node_never_has_two_checks_of_a_backend_under_way(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    slow = cluster.start("n1")
    slow.prober.hold = asyncio.Event()
    await until(lambda: slow.prober.count >= len(KEYS), "n1's first checks are under way")
    for _ in range(2):
        cluster.start("n2")
        await until(lambda: any(cluster.target("n1", key).chief for key in KEYS), "n2 was heard")
        await cluster.crash("n2")
        await until(lambda: all(len(cluster.on_duty(key)) == 1 for key in KEYS), "n2 is gone")
        await asyncio.sleep(0.1)
    assert slow.prober.count == len(KEYS)
    slow.prober.hold.set()
    await cluster.stop()


async def test_a_broker_that_lost_its_memory_is_told_again(
    three: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "REFRESH_S", 3600.0)
    cluster = three()
    await cluster.settle()
    for name in ("n2", "n3"):
        cluster.nodes[name].prober.hold = asyncio.Event()  # they have nothing to say
    await asyncio.sleep(0.1)
    cluster.broker.stop()
    cluster.broker.start()
    topics = {HEALTH + "/".join(key) for key in KEYS if cluster.on_duty(key) == ["n1"]}
    assert topics
    await until(lambda: topics <= cluster.broker.retained.keys(), "all that n1 found")
    for name in ("n2", "n3"):
        hold = cluster.nodes[name].prober.hold
        assert hold is not None
        hold.set()
    await cluster.stop()


def ranks_first(name: str, key: tuple[str, str]) -> bool:
    rank = checking.rank(name, key, near=False)
    return all(rank >= checking.rank(other, key, near=False) for other in ("n1", "n2"))


async def test_a_node_that_is_alone_says_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.start("n1")
    await until(
        lambda: all(cluster.target("n1", key).checked_by == "n1" for key in KEYS), "n1 has checked"
    )
    await asyncio.sleep(0.3)
    assert cluster.said() == []
    cluster.start("n2")
    await cluster.settle()
    await cluster.stop()


async def test_in_a_settled_cluster_a_verdict_is_said_again_only_now_and_then(
    three: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "REFRESH_S", 2.0)
    cluster = three()
    await cluster.settle()
    await asyncio.sleep(0.2)
    before = len(cluster.said())
    await asyncio.sleep(2.0)
    # Each node checks 40 times in these 2 s, and says each of 8 verdicts once, or twice.
    assert 0 < len(cluster.said()) - before <= 2 * len(KEYS)
    await cluster.stop()


async def test_a_service_that_a_reload_removes_is_withdrawn_and_others_check_it_at_once(
    three: Made,
) -> None:
    cluster = three()
    await cluster.settle()
    key = KEYS[0]
    (on_duty,) = cluster.on_duty(key)
    without = tuple(one for one in services() if one.name != key[0])
    assert cluster.nodes[on_duty].agent.reload(lambda: cluster.config(on_duty, services=without))
    gone = cluster.nodes.pop(on_duty)

    def speakers() -> list[str]:
        return [one.node for topic, one in cluster.said() if topic == HEALTH + "/".join(key)]

    await until(lambda: speakers()[-1] != on_duty, "another one says how it is")
    await until(lambda: cluster.on_duty(key) == speakers()[-1:], "one checks it")
    await gone.stop()
    await cluster.stop()


async def test_when_nobody_has_a_service_any_more_nothing_of_it_is_retained(
    three: Made,
) -> None:
    cluster = three()
    await cluster.settle()
    assert sum(topic.startswith(HEALTH) for topic in cluster.broker.retained) == len(KEYS)
    for name, bench in cluster.nodes.items():
        without = tuple(one for one in services() if one.name != "s1")
        assert bench.agent.reload(lambda: cluster.config(name, services=without))  # noqa: B023
    await until(
        lambda: not any(topic.startswith(HEALTH + "s1/") for topic in cluster.broker.retained),
        "the verdicts of s1 are gone",
    )
    assert sum(topic.startswith(HEALTH) for topic in cluster.broker.retained) == len(KEYS) - 2
    await cluster.stop()


async def test_what_a_former_life_left_behind_of_what_is_gone_is_cleared(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.broker.retained |= forged("n1", incarnation="0" * 16, key=("gone", "10.9.9.9"))
    cluster.broker.retained |= forged("n2", incarnation="1" * 16, key=("other", "10.9.9.9"))
    cluster.start("n1")
    await until(lambda: HEALTH + "gone/10.9.9.9" not in cluster.broker.retained, "it is cleared")
    assert HEALTH + "other/10.9.9.9" in cluster.broker.retained  # of another node
    await cluster.stop()


async def test_an_owner_of_a_moved_vip_knows_already_which_backends_are_down(
    three: Made,
) -> None:
    served = replace(
        service("web", VIP, "10.0.0.1", "10.0.0.2"), health=HealthCheck(interval_ms=50)
    )
    cluster = three(services=(served,))
    cluster.fail("10.0.0.2")
    benches = cluster.nodes
    key = ("web", "10.0.0.2")
    await until(lambda: any(bench.owns() for bench in benches.values()), "somebody owns it")
    await until(
        lambda: cluster.statuses(key) == {Status.DOWN} and len(cluster.on_duty(key)) == 1,
        "all know",
    )
    owner = next(name for name, bench in benches.items() if bench.owns())
    for bench in benches.values():
        bench.prober.bad = {}
        bench.prober.hold = asyncio.Event()  # nobody finds out anything from now on
    assert await benches[owner].stop()
    del benches[owner]
    await until(lambda: any(bench.owns() for bench in benches.values()), "another owns it")
    new = next(bench for bench in benches.values() if bench.owns())
    assert new.agent._health.down() == {key}
    for bench in benches.values():
        bench.prober.hold.set()
    await cluster.stop()


async def test_a_node_does_not_judge_the_backends_on_itself_where_another_can(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    backends = tuple(Backend(address=f"10.2.0.{n}", node=f"n{1 + n % 3}") for n in range(1, 13))
    served = replace(service("near", None), backends=backends, health=HealthCheck(interval_ms=50))
    for name in ("n1", "n2", "n3"):
        cluster.start(name, services=(served,))
    for backend in backends:
        key = ("near", backend.address)
        await until(lambda: len(cluster.on_duty(key)) == 1, "one node checks it")  # noqa: B023
        assert cluster.on_duty(key) != [backend.node]
    await cluster.stop()


async def test_a_backend_with_one_of_the_nodes_own_addresses_is_on_it(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    bench = cluster.start("n1")
    bench.addresses.own = ("10.1.0.1/24", "fd00::1/64")
    bench.agent._health.configure(bench.config)
    assert cluster.target("n1", ("s0", "10.1.0.1")).near
    assert not cluster.target("n1", ("s0", "10.1.0.2")).near
    await cluster.stop()


# ---- somebody on the broker ---------------------------------------------------------------------


def forged(
    node: str, key: tuple[str, str] = KEYS[0], secret: bytes = SECRET, **changes: object
) -> dict[str, bytes]:
    """A verdict that says, in the name of a node, that a backend is down."""
    port = services()[1].ports[0].target_port
    check = services()[1].health
    assert check is not None
    digest = checking.Question(*key, key[1], port, check).digest()
    said = Verdict(
        node=node,
        incarnation="0" * 16,
        at=2**50,
        question=digest,
        near=False,
        up=False,
        since=0,
        detail="forged",
    )
    topic = HEALTH + "/".join(key)
    return {topic: wire.encode_signed(secret, topic, replace(said, **changes))}


async def test_who_has_no_secret_is_not_believed(three: Made) -> None:
    cluster = three()
    await cluster.settle()
    key = KEYS[0]
    (on_duty,) = cluster.on_duty(key)
    life = cluster.nodes[on_duty].agent._letters.incarnation
    other = KEYS[2]
    (moved,) = forged(on_duty, other, incarnation=life).values()
    (good,) = forged(on_duty, key, incarnation=life).values()
    attacks = [
        forged(on_duty, key, b"another secret 16", incarnation=life),
        {HEALTH + "/".join(key): moved},  # said of another backend
        {HEALTH + "/".join(key): good[:-2] + b'x"}'},
        {HEALTH + "/".join(key): good.replace(b'"up":false', b'"up":null')},
        {HEALTH + "/".join(key): b""},
        {HEALTH + "/".join(key): b"{}"},
        {HEALTH + "/".join(key): b"\xff" * 1000},
        {HEALTH + "/".join(key): b"x" * 70_000},
        {HEALTH + "s0": good, HEALTH + "s0/": good, HEALTH: good},
    ]
    for attack in attacks:
        for topic, payload in attack.items():
            cluster.broker.publish(topic, payload, retain=True)
    await asyncio.sleep(0.3)
    assert cluster.statuses(key) == cluster.statuses(other) == {Status.UP}
    assert cluster.on_duty(key) == [on_duty]
    await cluster.stop()


async def test_what_somebody_recorded_counts_no_more(three: Made) -> None:
    cluster = three()
    cluster.fail("10.1.0.1")
    await cluster.settle()
    key = KEYS[0]
    cluster.fail()
    await until(lambda: cluster.statuses(key) == {Status.UP}, "it is back")
    recorded = [
        (t, p) for t, p in cluster.broker.log if t.startswith(HEALTH) and b'"up":false' in p
    ]
    assert recorded
    for topic, payload in recorded * 3:
        cluster.broker.publish(topic, payload, retain=True)
    await asyncio.sleep(0.3)
    assert cluster.statuses(key) == {Status.UP}
    await cluster.stop()


async def test_the_last_words_of_a_dead_life_do_not_count(three: Made) -> None:
    cluster = three()
    cluster.fail("10.1.0.1")
    await cluster.settle()
    key = KEYS[0]
    (on_duty,) = cluster.on_duty(key)
    topic = HEALTH + "/".join(key)
    recorded = cluster.broker.retained[topic]
    await cluster.crash(on_duty)
    cluster.fail()
    await until(lambda: cluster.statuses(key) == {Status.UP}, "the next one found it up")
    cluster.broker.publish(topic, recorded, retain=True)
    cluster.start(on_duty)  # its next life finds that retained
    await cluster.settle()
    assert cluster.statuses(key) == {Status.UP}
    await cluster.stop()


@pytest.mark.parametrize(
    "backend",
    [
        Backend(address="10.0.0.1"),
        Backend(address="fd00::1"),
        Backend(address="10.0.0.1", port=81),
        Backend(address="fd00::1", port=81),
        Backend(address="fe80::1%eth0"),
    ],
)
def test_the_name_of_any_backend_is_one_level_of_a_topic(backend: Backend) -> None:
    """MQTT 3.1.1 section 4.7."""
    topic = wire.Topics("home").health("web", backend.id)
    assert topic.split("/") == ["piagent", "home", "health", "web", backend.id]
    assert not set(topic) & set("+#\0")
