"""Which backend each policy chooses, beside plain Python models."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpath.engine import Backend, Service, Tables

probe = pytest.importorskip("fastpath._probe", reason="built without PIAGENT_PROBE=1")

MASK = 2**64 - 1
MAX_TRIES = 8
POLICIES = ("maglev", "round-robin", "least-connections", "random-two")
NAMES = "abcdefgh"
WEIGHTS = st.lists(st.one_of(st.integers(1, 6), st.integers(1, 65535)), min_size=1, max_size=8)
HASH = st.integers(0, MASK)


def backends(weights: dict[str, int], down: str = "") -> tuple[Backend, ...]:
    return tuple(
        Backend(name, "10.0.0.1", 1 + at, weight, name not in down)
        for at, (name, weight) in enumerate(weights.items())
    )


def service(
    weights: dict[str, int], balance: str, down: str = "", *, affinity: bool = False
) -> Tables:
    made = Service("s", backends(weights, down), balance=balance, affinity=affinity)
    return Tables((), (made,), ())


def balancer(
    weights: dict[str, int], balance: str, down: str = "", n_workers: int = 1
) -> probe.Balancer:
    made = probe.Balancer(n_workers)
    made.publish(service(weights, balance, down))
    return made


def named(weights: list[int]) -> dict[str, int]:
    return dict(zip(NAMES, weights, strict=False))


class SmoothRoundRobin:
    """nginx's smooth weighted round robin, as its author describes it."""

    def __init__(self) -> None:
        self.current: dict[str, int] = {}

    def choose(self, weights: dict[str, int]) -> str:
        """Each gains its weight; the first of those with the most gives all weights away."""
        for name, weight in weights.items():
            self.current[name] = self.current.get(name, 0) + weight
        best = max(weights, key=lambda name: self.current[name])
        self.current[best] -= sum(weights.values())
        return best


def draw(seed: int, number: int) -> int:
    """SplitMix64's output `number`, from its published description."""
    z = (seed + number * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_draws_are_splitmix64s_numbers() -> None:
    # The first outputs for the seed 1234567, as other implementations print them.
    assert [probe.draw(1234567, i) for i in range(1, 4)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    assert all(probe.draw(seed, 9) == draw(seed, 9) for seed in (0, 1, MASK))


# ---- round robin ----


@given(weights=WEIGHTS, n=st.integers(1, 300))
def test_round_robin_goes_by_nginxs_sequence(weights: list[int], n: int) -> None:
    model, given_weights = SmoothRoundRobin(), named(weights)
    made = balancer(given_weights, "round-robin")
    for at in range(n):
        assert made.choose("s", at) == model.choose(given_weights)


def test_round_robin_goes_by_the_sequence_that_nginx_documents() -> None:
    made = balancer({"a": 5, "b": 1, "c": 1}, "round-robin")
    assert "".join(made.choose("s", 0) for _ in range(14)) == "aabacaa" * 2


@given(
    weights=st.lists(st.integers(1, 50), min_size=2, max_size=8),
    steps=st.lists(st.tuples(st.sets(st.sampled_from(NAMES)), st.integers(1, 40)), max_size=6),
)
def test_round_robin_goes_on_where_it_was_for_those_who_were_away(
    weights: list[int], steps: list[tuple[set[str], int]]
) -> None:
    """As nginx leaves failed peers out. The bound of rounds is never reached by these."""
    model, given_weights = SmoothRoundRobin(), named(weights)
    made = balancer(given_weights, "round-robin")
    for tried, n in steps:
        left = {name: weight for name, weight in given_weights.items() if name not in tried}
        for _ in range(n):
            if not left:
                assert made.choose("s", 0, sorted(tried & set(given_weights))) is None
                break
            far = 4 * sum(given_weights.values())
            assert all(abs(current) <= far for current in model.current.values())
            expected = model.choose(left)
            assert made.choose("s", 0, sorted(tried & set(given_weights))) == expected


def test_each_worker_has_a_round_of_its_own() -> None:
    made = balancer({"a": 2, "b": 1}, "round-robin", n_workers=2)
    assert [made.choose("s", 0, (), worker) for worker in (0, 1) * 3] == list("aabbaa")


def run_lengths(chosen: str) -> dict[str, int]:
    """The longest run of each name."""
    longest: Counter[str] = Counter()
    length = 1
    for before, now in pairwise(chosen + "."):
        longest[before] = max(longest[before], length)
        length = length + 1 if now == before else 1
    return longest


@settings(max_examples=60)
@given(
    sets=st.lists(
        st.dictionaries(st.sampled_from(NAMES), st.integers(0, 20), min_size=2),
        min_size=2,
        max_size=8,
    ),
    n=st.integers(1, 60),
)
def test_round_robin_lives_through_new_tables_without_bursts(
    sets: list[dict[str, int]], n: int
) -> None:
    """Whatever the tables were before: nobody gets more than a few rounds at once, nor waits so."""
    made = probe.Balancer()
    for weights in sets:
        made.publish(service(weights, "round-robin"))
        usable = {name: weight for name, weight in weights.items() if weight > 0}
        if len(usable) < 2:
            continue
        total = sum(usable.values())
        chosen = "".join(made.choose("s", 0) for _ in range(n + 12 * total))
        counts = Counter(chosen)
        for name, weight in usable.items():
            due = Fraction(len(chosen) * weight, total)
            assert abs(counts[name] - due) <= 7
        assert set(chosen) <= set(usable)


def test_a_newcomer_gets_no_burst() -> None:
    made = balancer({"a": 1, "b": 1, "c": 1}, "round-robin")
    for at in range(1000):
        made.choose("s", at)
    made.publish(service({"a": 1, "b": 1, "c": 1, "d": 1}, "round-robin"))
    chosen = "".join(made.choose("s", 0) for _ in range(8))
    assert Counter(chosen) == dict.fromkeys("abcd", 2)


def test_weights_that_shrink_leave_no_burst_behind() -> None:
    made = balancer({"a": 60_000, "b": 59_999, "c": 1}, "round-robin")
    for at in range(7):
        made.choose("s", at)
    made.publish(service({"a": 2, "b": 2, "c": 2}, "round-robin"))
    chosen = "".join(made.choose("s", 0) for _ in range(30))
    assert max(run_lengths(chosen).values()) <= 2
    assert all(9 <= Counter(chosen)[name] <= 11 for name in "abc")


def test_a_name_that_comes_back_begins_anew() -> None:
    made = balancer({"a": 1, "b": 3}, "round-robin")
    assert made.choose("s", 0) == "b"
    assert made.current_weight("s", "b") == -1
    made.publish(service({"a": 1}, "round-robin"))
    made.publish(service({"a": 1, "b": 3}, "round-robin"))
    assert made.current_weight("s", "b") == 0


# ---- least connections ----


@given(
    weights=WEIGHTS,
    seed=HASH,
    opened=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2)), max_size=60),
)
def test_least_connections_goes_to_the_fewest_of_all_workers_for_its_weight(
    weights: list[int], seed: int, opened: list[tuple[str, int]]
) -> None:
    given_weights = named(weights)
    made = balancer(given_weights, "least-connections", n_workers=3)
    connections = dict.fromkeys(given_weights, 0)
    for name, worker in opened:
        if name in given_weights:
            made.connect("s", name, 1, worker)
            connections[name] += 1
    fewest = min(Fraction(connections[name], given_weights[name]) for name in given_weights)
    for worker in range(3):
        chosen = made.choose("s", seed, (), worker)
        assert Fraction(connections[chosen], given_weights[chosen]) == fewest


@given(weights=WEIGHTS, seed=HASH, n=st.integers(1, 100))
def test_ties_of_least_connections_go_as_the_draws_say(
    weights: list[int], seed: int, n: int
) -> None:
    given_weights = named(weights)
    made = balancer(given_weights, "least-connections")
    connections = dict.fromkeys(given_weights, 0)
    for at in range(n):
        hashed = (seed + at) & MASK
        chosen = made.choose("s", hashed)
        ties = [
            name
            for name in given_weights
            if Fraction(connections[name], given_weights[name])
            == min(Fraction(connections[each], given_weights[each]) for each in given_weights)
        ]
        # Which connections went before does not matter to how ties are drawn.
        drawn, total = "", 0
        for index, name in enumerate(given_weights):
            if name in ties:
                total += given_weights[name]
                if draw(hashed, 0x10000 + index) % total < given_weights[name] or not drawn:
                    drawn = name
        assert chosen == drawn
        made.connect("s", chosen)
        connections[chosen] += 1


def test_connections_that_stay_spread_by_weight() -> None:
    made = balancer({"a": 1, "b": 2, "c": 7}, "least-connections")
    counts: Counter[str] = Counter()
    for at in range(1000):
        chosen = made.choose("s", draw(1, at))
        made.connect("s", chosen)
        counts[chosen] += 1
    assert counts == {"a": 100, "b": 200, "c": 700}


def test_ties_do_not_always_go_to_the_first() -> None:
    made = balancer({"a": 1, "b": 1, "c": 2}, "least-connections")
    counts = Counter(made.choose("s", draw(2, at)) for at in range(4000))
    assert 900 < counts["a"] < 1100
    assert 900 < counts["b"] < 1100
    assert 1850 < counts["c"] < 2150


# ---- random two ----


def pairs(weights: dict[str, int]) -> dict[frozenset[str], Fraction]:
    """How probable it is that these two are drawn, one after the other, by weight."""
    total = sum(weights.values())
    found: dict[frozenset[str], Fraction] = {}
    for first, weight in weights.items():
        for second, other in weights.items():
            if first != second:
                pair = frozenset((first, second))
                chance = Fraction(weight, total) * Fraction(other, total - weight)
                found[pair] = found.get(pair, Fraction(0)) + chance
    return found


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 1], [1, 2, 3], [5, 1, 1, 3, 2]])
def test_random_two_draws_by_weight_and_takes_the_less_busy(weights: list[int]) -> None:
    given_weights = named(weights)
    made = balancer(given_weights, "random-two", n_workers=2)
    # Each is busier for its weight than the one before.
    for rank, (name, weight) in enumerate(given_weights.items()):
        made.connect("s", name, 10 * weight * rank, rank % 2)
    n = 20_000
    counts = Counter(made.choose("s", draw(3, at)) for at in range(n))
    expected = dict.fromkeys(given_weights, Fraction(0))
    for pair, chance in pairs(given_weights).items():
        expected[min(pair)] += chance
    for name, chance in expected.items():
        deviation = (float(chance * (1 - chance)) * n) ** 0.5
        assert abs(counts[name] - float(chance) * n) <= 5 * deviation
    assert counts[max(given_weights)] == 0  # it loses to any other


def test_random_two_of_the_same_business_goes_by_weight() -> None:
    made = balancer({"a": 1, "b": 3}, "random-two")
    counts = Counter(made.choose("s", draw(4, at)) for at in range(8000))
    assert 1850 < counts["a"] < 2150


def test_random_two_keeps_connections_near_their_weights() -> None:
    made = balancer({"a": 1, "b": 1, "c": 2, "d": 4}, "random-two", n_workers=2)
    counts: Counter[str] = Counter()
    for at in range(8000):
        chosen = made.choose("s", draw(5, at), (), at % 2)
        made.connect("s", chosen, 1, at % 2)
        counts[chosen] += 1
    for name, weight in {"a": 1, "b": 1, "c": 2, "d": 4}.items():
        assert abs(counts[name] - 1000 * weight) < 30 * weight


# ---- Maglev ----


@pytest.mark.parametrize(
    ("n_backends", "measured"),
    [(3, 0.00016), (4, 0.00039), (8, 0.00174), (16, 0.00268), (32, 0.00375)],
)
def test_a_backend_that_goes_down_moves_only_its_own_flows(
    n_backends: int, measured: float
) -> None:
    """And hardly any of the others': a share that depends on the names, but not much."""
    weights = {f"10.0.0.{at}:80": 1 for at in range(n_backends)}
    made = probe.Balancer()
    made.publish(service(weights, "maglev"))
    hashes = list(range(65537))  # every entry once
    before = [made.choose("s", hashed) for hashed in hashes]
    made.publish(service(weights, "maglev", "10.0.0.0:80"))
    after = [made.choose("s", hashed) for hashed in hashes]
    moved = Counter(old for old, new in zip(before, after, strict=True) if old != new)
    own = moved.pop("10.0.0.0:80")
    assert own == Counter(before)["10.0.0.0:80"]
    assert moved.total() / 65537 <= 1.5 * measured
    made.publish(service(weights, "maglev"))
    assert [made.choose("s", hashed) for hashed in hashes] == before


@given(seed=HASH, n_tried=st.integers(0, 7))
@example(seed=93777832, n_tried=6)  # both that are left are not among the first 64 draws
def test_maglev_goes_on_to_other_entries_that_the_hash_draws(seed: int, n_tried: int) -> None:
    weights = named([1, 2, 3, 1, 2, 3, 1, 2])
    made = balancer(weights, "maglev")
    names = list(weights)
    drawn = [made.entry("s", seed)] + [made.entry("s", draw(seed, n)) for n in range(1, 64)]
    then = names[seed % 8 :] + names[: seed % 8]  # 64 draws are enough: the next one that can
    order = list(dict.fromkeys(drawn + then))
    assert made.choose("s", seed, order[:n_tried]) == order[n_tried]


@pytest.mark.parametrize("down", NAMES[:4])
def test_what_one_backend_cannot_take_spreads_over_the_others_by_weight(down: str) -> None:
    weights = {"a": 1, "b": 1, "c": 2, "d": 2}
    made = balancer(weights, "maglev")
    own = [hashed for hashed in range(65537) if made.entry("s", hashed) == down]
    counts = Counter(made.choose("s", hashed, [down]) for hashed in own)
    total = sum(weights.values()) - weights.pop(down)
    for name, weight in weights.items():
        due = len(own) * weight / total
        assert abs(counts[name] - due) < 5 * due**0.5


# ---- all of them ----


@settings(max_examples=200)
@given(
    weights=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    down=st.sets(st.sampled_from(NAMES)),
    balance=st.sampled_from(POLICIES),
    affinity=st.booleans(),
    seed=HASH,
)
def test_every_usable_backend_is_tried_once_and_no_other(
    weights: list[int], down: set[str], balance: str, affinity: bool, seed: int
) -> None:
    given_weights = named(weights)
    made = probe.Balancer()
    made.publish(service(given_weights, balance, "".join(down), affinity=affinity))
    usable = {name for name, weight in given_weights.items() if weight > 0 and name not in down}
    tried: list[str] = []
    while len(tried) < MAX_TRIES and (chosen := made.choose("s", seed, tried)) is not None:
        assert chosen in usable
        assert chosen not in tried
        tried.append(chosen)
    assert set(tried) == usable


@pytest.mark.parametrize("balance", POLICIES)
def test_a_connection_tries_eight_backends_at_most(balance: str) -> None:
    weights = {f"b{at}": 1 for at in range(20)}
    made = balancer(weights, balance)
    assert made.choose("s", 7, [f"b{at}" for at in range(7)]) is not None
    assert made.choose("s", 7, [f"b{at}" for at in range(8)]) is None


@pytest.mark.parametrize("balance", POLICIES)
def test_weights_count(balance: str) -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    made = balancer(weights, balance)
    n = 16_000
    counts = Counter(made.choose("s", draw(6, at)) for at in range(n))
    for name, weight in weights.items():
        assert abs(counts[name] - n * weight // 8) < 5 * n**0.5 / 2


@pytest.mark.parametrize("balance", POLICIES)
def test_a_backend_that_drains_gets_nothing_new(balance: str) -> None:
    made = balancer({"a": 1, "b": 1, "c": 0}, balance)
    made.connect("s", "a", 50)
    made.connect("s", "b", 50)
    assert {made.choose("s", draw(7, at)) for at in range(200)} >= {"a"}
    assert "c" not in {made.choose("s", draw(7, at)) for at in range(200)}
    assert made.choose("s", 1, ["a", "b"]) is None


@pytest.mark.parametrize("balance", POLICIES)
def test_with_affinity_a_clients_hash_chooses_whatever_the_policy(balance: str) -> None:
    weights = named([1, 2, 3])
    made, plain = probe.Balancer(), balancer(weights, "maglev")
    made.publish(service(weights, balance, affinity=True))
    made.connect("s", "a", 99)
    for at in range(100):
        assert made.choose("s", draw(8, at)) == plain.choose("s", draw(8, at))
        assert made.choose("s", draw(8, at), ["b"]) == plain.choose("s", draw(8, at), ["b"])
