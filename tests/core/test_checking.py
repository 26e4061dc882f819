"""Who checks a backend, and whose word counts: alone, in a whole cluster, under attack."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import fields, replace

from piagent.core.checking import (
    MAX_BACKENDS,
    REFRESH_S,
    SILENCE,
    Key,
    Question,
    Verdict,
    Verdicts,
    question,
    questions,
    rank,
)
from piagent.core.lease_types import MAX_COUNT
from piagent.core.model import (
    Backend,
    HealthCheck,
    HealthKind,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
)
from piagent.core.proxying import NOBODYS_HEADER, ProxyHeader, Proxying
from tests.core.things import service

WEB = Question("web", "10.0.0.1", "10.0.0.1", 80, HealthCheck())
LIFE = "0123456789abcdef"
FORMER = "fedcba9876543210"


def verdict(node: str = "pi-2", at: int = 1000, **changes: object) -> Verdict:
    said = Verdict(
        node=node,
        incarnation=LIFE,
        at=at,
        question=WEB.digest(),
        near=False,
        up=False,
        since=1,
        detail="refused",
    )
    return replace(said, **changes)


def book(**lives: str) -> Verdicts:
    known = {node.replace("_", "-"): life for node, life in (lives or {"pi_2": LIFE}).items()}
    return Verdicts(known.get)


def best(verdicts: Verdicts, now_s: float = 0.0) -> Verdict | None:
    found = verdicts.best(WEB, WEB.digest(), now_s)
    return None if found is None else found.said


# ---- questions ----------------------------------------------------------------------------------


def test_each_backend_of_a_checked_service_is_a_question() -> None:
    web = Service(
        name="web",
        type=ServiceType.CLUSTER,
        ports=(
            ServicePort(name="d", port=53, target_port=5353, protocol=Protocol.UDP),
            ServicePort(name="w", port=80, target_port=8080),
        ),
        backends=(Backend(address="10.0.0.1"), Backend(address="fd00::1", port=81)),
        health=HealthCheck(),
    )
    asked = [asks for asks, _ in questions((web, replace(web, name="x", health=None)))]
    assert asked == [
        Question("web", "10.0.0.1", "10.0.0.1", 8080, HealthCheck()),
        Question("web", "[fd00::1]:81", "fd00::1", 81, HealthCheck()),
    ]


@pytest.mark.parametrize("header", list(ProxyHeader))
def test_who_expects_a_proxy_header_gets_one_that_names_nobody(header: ProxyHeader) -> None:
    web = service("web", proxying=Proxying(header=header))
    backend = Backend(address="192.0.2.1")
    assert question(web, HealthCheck(), backend).preface == NOBODYS_HEADER[header] != b""
    assert question(web, HealthCheck(port=9), backend).preface == b"", "another port"


def test_the_headers_are_as_the_protocol_has_them() -> None:
    assert NOBODYS_HEADER[ProxyHeader.V1] == b"PROXY UNKNOWN\r\n"
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    local, unspecified, nothing_follows = b"\x20", b"\x00", b"\x00\x00"
    assert NOBODYS_HEADER[ProxyHeader.V2] == signature + local + unspecified + nothing_follows


@pytest.mark.parametrize("field", [field.name for field in fields(HealthCheck)])
def test_the_digest_tells_every_difference_of_a_check_that_matters(field: str) -> None:
    """`port` is in the question itself; whether it is shared, and programs, are a node's own."""
    other = {
        "kind": HealthKind.HTTP,
        "path": "/x",
        "expect": (204,),
        "port": 81,
        "command": ("/bin/true",),
        "shared": False,
    }.get(field, 7)
    check = replace(HealthCheck(), **{field: other})
    same = replace(WEB, check=check).digest() == WEB.digest()
    assert same is (field in {"port", "command", "shared"})


def test_the_digest_tells_addresses_and_ports_apart_but_not_services() -> None:
    assert replace(WEB, address="10.0.0.2").digest() != WEB.digest()
    assert replace(WEB, port=81).digest() != WEB.digest()
    assert replace(WEB, preface=b"PROXY UNKNOWN\r\n").digest() != WEB.digest()
    assert replace(WEB, service="other").digest() == WEB.digest()


@pytest.mark.parametrize(
    ("address", "common"),
    [
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("::1", False),
        ("fe80::1", False),
        ("169.254.1.1", False),
    ],
)
def test_an_address_that_is_another_host_on_each_node_is_nobody_elses_business(
    address: str, common: bool
) -> None:
    assert replace(WEB, address=address).is_common() is common


def test_programs_and_what_is_not_to_be_shared_are_each_nodes_own() -> None:
    assert not replace(WEB, check=HealthCheck(shared=False)).is_common()
    program = HealthCheck(kind=HealthKind.EXEC, command=("/bin/true",))
    assert not replace(WEB, check=program).is_common()


def test_what_is_checked_seldom_is_trusted_longer() -> None:
    assert WEB.silence_s() == SILENCE * REFRESH_S
    hourly = replace(WEB, check=HealthCheck(interval_ms=3_600_000, timeout_ms=60_000))
    assert hourly.silence_s() == SILENCE * 3660


# ---- ranks --------------------------------------------------------------------------------------


def test_ranks_share_the_backends_out_evenly() -> None:
    nodes = ["pi-1", "pi-2", "pi-3"]
    keys = [(f"s{i}", f"10.0.0.{j}") for i in range(100) for j in range(3)]
    first = [max(nodes, key=lambda node: rank(node, key, near=False)) for key in keys]
    for node in nodes:
        assert 70 <= first.count(node) <= 130  # 100, with a standard deviation of 8


@given(st.sets(st.text(min_size=1), min_size=2), st.tuples(st.text(), st.text()))
def test_when_one_leaves_only_what_it_checked_changes_hands(nodes: set[str], key: Key) -> None:
    ordered = sorted(nodes, key=lambda node: rank(node, key, near=False))
    assert len({rank(node, key, near=False) for node in nodes}) == len(nodes)
    rest = nodes - {ordered[0]}
    assert max(rest, key=lambda node: rank(node, key, near=False)) == ordered[-1]


def test_who_has_the_backend_on_itself_comes_last() -> None:
    for n in range(50):
        assert rank("pi-1", ("s", str(n)), near=True) < rank("pi-2", ("s", str(n)), near=False)


# ---- what counts --------------------------------------------------------------------------------


def test_a_verdict_counts_for_a_while() -> None:
    verdicts = book()
    assert best(verdicts) is None
    assert verdicts.hear(WEB.key, verdict(), 5.0)
    assert best(verdicts, 5.0) == verdict()
    assert best(verdicts, 4.9 + WEB.silence_s()) == verdict()
    assert best(verdicts, 5.0 + WEB.silence_s()) is None


def test_a_word_said_again_counts_from_then() -> None:
    verdicts = book()
    verdicts.hear(WEB.key, verdict(at=1), 0.0)
    assert verdicts.hear(WEB.key, verdict(at=2), 60.0)
    assert best(verdicts, WEB.silence_s() + 59.0) == verdict(at=2)


def test_the_answer_to_another_question_does_not_count() -> None:
    verdicts = book()
    other = replace(WEB, port=81)
    verdicts.hear(WEB.key, verdict(question=other.digest()), 0.0)
    assert best(verdicts) is None
    assert verdicts.best(other, other.digest(), 0.0) is not None


def test_who_checks_a_backend_no_more_has_no_verdict_any_more() -> None:
    verdicts = book()
    verdicts.hear(WEB.key, verdict(at=1), 0.0)
    assert verdicts.hear(WEB.key, verdict(at=2, question=""), 1.0)
    assert best(verdicts, 1.0) is None


def test_a_verdict_of_a_node_that_is_gone_does_not_count_and_does_again_when_it_is_back() -> None:
    lives = {"pi-2": LIFE}
    verdicts = Verdicts(lives.get)
    verdicts.hear(WEB.key, verdict(), 0.0)
    del lives["pi-2"]
    assert best(verdicts) is None
    lives["pi-2"] = LIFE
    assert best(verdicts) == verdict()
    lives["pi-2"] = FORMER  # another life of it
    assert best(verdicts) is None


def test_of_several_the_one_that_ranks_highest_counts() -> None:
    nodes = [f"pi-{n}" for n in range(9)]
    verdicts = Verdicts(dict.fromkeys(nodes, LIFE).get)
    for node in nodes:
        verdicts.hear(WEB.key, verdict(node, near=node == "pi-3"), 0.0)
    first = max(nodes, key=lambda node: rank(node, WEB.key, near=node == "pi-3"))
    found = best(verdicts)
    assert found is not None
    assert found.node == first != "pi-3"


def test_only_so_many_backends_are_kept_and_room_is_made_for_those_that_are_checked() -> None:
    verdicts = book()
    for n in range(MAX_BACKENDS + 3):
        assert verdicts.hear(("x", str(n)), verdict(at=n + 1), 0.0) is (n < MAX_BACKENDS)
    assert not verdicts.hear(WEB.key, verdict(at=MAX_BACKENDS + 9), 0.0)
    verdicts.keep({("x", "0")})
    assert verdicts.hear(WEB.key, verdict(at=MAX_BACKENDS + 9), 0.0)


# ---- attacks ------------------------------------------------------------------------------------


def test_a_recorded_verdict_of_this_life_is_nothing_new() -> None:
    verdicts = book()
    old, new = verdict(at=1, up=True), verdict(at=2)
    assert verdicts.hear(WEB.key, new, 0.0)
    for _ in range(3):
        assert not verdicts.hear(WEB.key, old, 1.0)
        assert not verdicts.hear(WEB.key, new, 1.0)
    assert best(verdicts, 1.0) == new
    assert best(verdicts, WEB.silence_s()) is None  # and replays do not keep it alive


def test_a_recorded_verdict_of_a_former_life_is_void_even_where_its_presence_is_replayed() -> None:
    lives = {"pi-2": LIFE}
    verdicts = Verdicts(lives.get)
    former = verdict(at=5, up=True, incarnation=FORMER)
    for at in (4, 9):  # of any backend
        verdicts.hear(("other", "backend"), verdict(at=at), 0.0)
    assert not verdicts.hear(WEB.key, former, 1.0)
    lives["pi-2"] = FORMER
    assert not verdicts.hear(WEB.key, former, 1.0)
    assert best(verdicts, 1.0) is None


def test_a_former_life_that_was_heard_first_gives_way_to_the_present_one() -> None:
    verdicts = book()
    assert verdicts.hear(WEB.key, verdict(at=5, up=True, incarnation=FORMER), 0.0)
    assert best(verdicts) is None
    assert verdicts.hear(WEB.key, verdict(at=6), 0.0)
    assert best(verdicts) == verdict(at=6)


def test_a_node_whose_clock_went_back_is_heard_again_when_its_time_has_come() -> None:
    verdicts = book()
    verdicts.hear(WEB.key, verdict(at=1000, incarnation=FORMER), 0.0)
    assert not verdicts.hear(WEB.key, verdict(at=900), 1.0)
    assert best(verdicts, 1.0) is None  # so this node checks for itself
    assert verdicts.hear(WEB.key, verdict(at=1001), 2.0)
    assert best(verdicts, 2.0) == verdict(at=1001)


@pytest.mark.parametrize(
    "change",
    [
        {"node": ""},
        {"node": "x" * 65},
        {"incarnation": "0" * 15},
        {"incarnation": "../../etc/passwd"},
        {"at": -1},
        {"at": MAX_COUNT + 1},
        {"question": "0" * 15},
        {"question": "0" * 16 + "\n"},
        {"since": -1},
        {"detail": "x" * 201},
        {"up": 1},
    ],
)
def test_a_verdict_that_is_out_of_bounds_cannot_be_read(change: dict[str, object]) -> None:
    good = msgspec.to_builtins(verdict())
    assert msgspec.convert(good, Verdict) == verdict()
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(good | change), type=Verdict)


# ---- a whole cluster ----------------------------------------------------------------------------


class Node:
    """A node as far as verdicts are concerned; `agent.health` does the same with real checks."""

    def __init__(self, name: str, number: int, asks: dict[Key, Question], near: set[Key]) -> None:
        self.name = name
        self.life = f"{number:016x}"
        self.asks = asks
        self.near = near
        self.there: dict[str, str] = {}
        """Node -> life, by this node's knowledge."""
        self.verdicts = Verdicts(self.there.get)
        self.up = dict.fromkeys(asks, True)
        self.at = 0

    def rank(self, key: Key) -> tuple[bool, int, str]:
        return rank(self.name, key, near=key in self.near)

    def chief(self, key: Key, now_s: float) -> Verdict | None:
        found = self.verdicts.best(self.asks[key], self.asks[key].digest(), now_s)
        return found.said if found is not None and found.rank > self.rank(key) else None

    def verdict(self, key: Key, now_ms: int) -> Verdict:
        self.at = max(self.at + 1, now_ms)
        return verdict(
            self.name,
            self.at,
            incarnation=self.life,
            question=self.asks[key].digest(),
            near=key in self.near,
            up=self.up[key],
        )


class Plan(Struct):
    """A cluster: which node checks what, and how often which mishap happens."""

    seed: int
    nodes: int
    services: int
    backends: int
    loss: float
    twice: float
    replayed: float


plans = st.builds(
    Plan,
    seed=st.integers(0, 2**32),
    nodes=st.integers(1, 6),
    services=st.integers(1, 3),
    backends=st.integers(1, 3),
    loss=st.sampled_from([0.0, 0.3, 0.9]),
    twice=st.sampled_from([0.0, 0.5]),
    replayed=st.sampled_from([0.0, 0.5]),
)


class Cluster:
    """Nodes that say verdicts to each other over a network that loses, doubles, reorders."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.now_s = 0.0
        self.lives = 0
        self.truth: dict[Key, bool] = {}
        self.recorded: list[tuple[Key, Verdict]] = []
        self.nodes: dict[str, Node] = {}
        keys = [
            (f"s{i}", f"10.0.{i}.{j}") for i in range(plan.services) for j in range(plan.backends)
        ]
        for key in keys:
            self.truth[key] = self.chance.random() < 0.5
        for n in range(plan.nodes):
            self.start(f"pi-{n}")

    def start(self, name: str) -> None:
        """A new life of a node, whose file may be another one."""
        self.lives += 1
        asks = {
            key: Question(*key, key[1], self.chance.choice([80, 80, 80, 81]), HealthCheck())
            for key in self.truth
            if self.chance.random() < 0.8
        }
        near = {key for key in asks if self.chance.random() < 0.2}
        self.nodes[name] = Node(name, self.lives, asks, near)
        self.meet()

    def stop(self, name: str) -> None:
        del self.nodes[name]
        self.meet()

    def meet(self) -> None:
        """All know who is there."""
        for node in self.nodes.values():
            node.there.clear()
            node.there.update({n: other.life for n, other in self.nodes.items() if n != node.name})

    def turn(self, *, mishaps: bool) -> int:
        """Everybody on duty checks and speaks; how many spoke."""
        said: list[tuple[Key, Verdict]] = []
        for node in self.nodes.values():
            for key in node.asks:
                chief = node.chief(key, self.now_s)
                if chief is None:
                    node.up[key] = self.truth[key]
                    said.append((key, node.verdict(key, int(self.now_s * 1000))))
        self.recorded += said
        plan, count = self.plan, len(said)
        if mishaps:
            said += [one for one in said if self.chance.random() < plan.twice]
            said += [one for one in self.recorded if self.chance.random() < plan.replayed]
        for node in self.nodes.values():
            self.chance.shuffle(said)
            for key, one in said:
                lost = mishaps and self.chance.random() < plan.loss
                if one.node != node.name and not lost:
                    node.verdicts.hear(key, one, self.now_s)
            for key in node.asks:
                chief = node.chief(key, self.now_s)
                if chief is not None:
                    node.up[key] = chief.up
        return count

    def on_duty(self, key: Key) -> dict[str, list[str]]:
        """Question -> nodes that check it."""
        found: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if key in node.asks:
                at = found.setdefault(node.asks[key].digest(), [])
                if node.chief(key, self.now_s) is None:
                    at.append(node.name)
        return found


def settled(cluster: Cluster) -> None:
    """Nothing goes wrong any more: a few turns, each of a refresh."""
    for _ in range(4):
        cluster.now_s += REFRESH_S
        cluster.turn(mishaps=False)


def disturb(cluster: Cluster) -> None:
    """Nodes come and go, backends too, and messages are lost."""
    chance = cluster.chance
    for _ in range(chance.randrange(12)):
        cluster.now_s += chance.choice([0.5, 2.0, 30.0, 100.0])
        name = f"pi-{chance.randrange(cluster.plan.nodes)}"
        what = chance.random()
        if what < 0.2 and name in cluster.nodes and len(cluster.nodes) > 1:
            cluster.stop(name)
        elif what < 0.4:
            cluster.start(name)
        elif what < 0.7:
            key = chance.choice(list(cluster.truth))
            cluster.truth[key] = not cluster.truth[key]
        cluster.turn(mishaps=True)


@given(plans)
def test_in_a_settled_cluster_one_node_checks_a_backend_and_all_have_its_verdict(
    plan: Plan,
) -> None:
    cluster = Cluster(plan)
    disturb(cluster)
    settled(cluster)
    for key, up in cluster.truth.items():
        for digest, on_duty in cluster.on_duty(key).items():
            who = [n for n in cluster.nodes.values() if key in n.asks]
            who = [n for n in who if n.asks[key].digest() == digest]
            assert on_duty == [max(who, key=lambda n: n.rank(key)).name]
            assert {n.up[key] for n in who} == {up}


@given(plans)
def test_a_change_is_known_everywhere_when_it_was_said_once(plan: Plan) -> None:
    cluster = Cluster(plan)
    disturb(cluster)
    settled(cluster)
    for key in cluster.truth:
        cluster.truth[key] = not cluster.truth[key]
    cluster.now_s += 2.0
    cluster.turn(mishaps=False)
    for node in cluster.nodes.values():
        assert node.up == {key: cluster.truth[key] for key in node.asks}


@given(plans)
def test_a_node_that_hears_nothing_checks_everything_itself_before_long(plan: Plan) -> None:
    cluster = Cluster(plan)
    disturb(cluster)
    settled(cluster)
    cluster.now_s += WEB.silence_s()
    for node in cluster.nodes.values():
        assert all(node.chief(key, cluster.now_s) is None for key in node.asks)


@given(plans)
def test_when_the_node_on_duty_dies_another_has_it_at_once(plan: Plan) -> None:
    cluster = Cluster(plan)
    settled(cluster)
    cluster.stop(cluster.chance.choice(list(cluster.nodes)))
    for key in cluster.truth:
        assert all(on_duty for on_duty in cluster.on_duty(key).values())


@given(plans, st.randoms(use_true_random=False))
def test_what_was_recorded_changes_nothing_in_a_settled_cluster(
    plan: Plan, chance: random.Random
) -> None:
    cluster = Cluster(plan)
    disturb(cluster)
    settled(cluster)
    before = {
        (node.name, key): node.chief(key, cluster.now_s)
        for node in cluster.nodes.values()
        for key in node.asks
    }
    for node in cluster.nodes.values():
        replayed = [one for one in cluster.recorded if one[1].node != node.name]
        chance.shuffle(replayed)
        for key, said in replayed:
            node.verdicts.hear(key, said, cluster.now_s)
        for key in node.asks:
            found, known = node.chief(key, cluster.now_s), before[node.name, key]
            assert found == known
