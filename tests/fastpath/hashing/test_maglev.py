"""Maglev tables: byte for byte, beside a model in fractions, and by their properties."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared_vectors import load_vectors

probe = pytest.importorskip("fastpath.hashing._probe", reason="built without PIAGENT_PROBE=1")

Node = tuple[int, int, int, int]
SIZE = 65537
NONE = probe.MAGLEV_NONE
BAD_SIZE, BAD_INDEX = -1, -2
PRIMES = (3, 5, 7, 17, 101, 251)


def named(weights: dict[str, int]) -> list[Node]:
    """Nodes as a caller makes them: sorted by name; the index is the place in the given order."""
    index = {name: at for at, name in enumerate(weights)}
    return [
        (probe.xxh64(name.encode(), 0), probe.xxh64(name.encode(), 1), weights[name], index[name])
        for name in sorted(weights)
    ]


def model(nodes: list[Node], m: int) -> list[int]:
    """Envoy's rule as it is written there: weights normalised to a sum of one."""
    total = sum(weight for _, _, weight, _ in nodes)
    table = [NONE] * m
    if total == 0:
        return table
    heaviest = Fraction(max(weight for _, _, weight, _ in nodes), total)
    due = [Fraction(0)] * len(nodes)
    taken = [0] * len(nodes)
    turn = 0
    while True:
        turn += 1
        for at, (hash0, hash1, weight, index) in enumerate(nodes):
            if weight == 0 or turn * Fraction(weight, total) < due[at]:
                continue
            due[at] += heaviest
            entry = (hash0 + taken[at] * (hash1 % (m - 1) + 1)) % m
            while table[entry] != NONE:
                taken[at] += 1
                entry = (hash0 + taken[at] * (hash1 % (m - 1) + 1)) % m
            table[entry] = index
            if NONE not in table:
                return table


def node_lists() -> st.SearchStrategy[list[Node]]:
    hashes = st.integers(0, 2**64 - 1)
    weights = st.one_of(st.integers(0, 10), st.integers(0, 2**32 - 1))
    rows = st.lists(st.tuples(hashes, hashes, weights), max_size=12)
    return rows.map(lambda rows: [(*row, at) for at, row in enumerate(rows)])


def test_envoys_tables_come_out_byte_for_byte() -> None:
    for case in load_vectors("l4_vectors.json")["maglev"]["envoy"]["cases"]:
        table = probe.maglev(named(dict(case["hosts"])), case["M"])
        assert table == case["table"], case["name"]


def test_the_papers_table_comes_out_before_and_after_a_backend_went() -> None:
    paper = load_vectors("l4_vectors.json")["maglev"]["paper_table1"]
    nodes = [(offset, skip - 1, 1, at) for at, (offset, skip) in enumerate(paper["offset_skip"])]
    assert probe.maglev(nodes, paper["M"]) == paper["table"]
    del nodes[1]
    assert probe.maglev(nodes, paper["M"]) == paper["table_after_removing_backend_1"]


def test_the_lightest_of_many_gets_its_entry_beside_a_giant() -> None:
    weights = {f"127.0.0.1:{at}": 1 for at in range(1024)}
    weights["127.0.0.1:0"] = 127 * 1023
    counts = Counter(probe.maglev(named(weights), SIZE))
    assert counts.pop(0) == SIZE - 1023
    assert set(counts.values()) == {1}


@given(nodes=node_lists(), m=st.sampled_from(PRIMES))
def test_the_table_is_the_models(nodes: list[Node], m: int) -> None:
    nodes = [(a, b, weight % 1000, at) for a, b, weight, at in nodes]
    assert probe.maglev(nodes, m) == model(nodes, m)


@given(nodes=node_lists(), m=st.sampled_from(PRIMES))
def test_every_entry_names_a_node_with_weight(nodes: list[Node], m: int) -> None:
    weighted = {index for _, _, weight, index in nodes if weight > 0}
    used = set(probe.maglev(nodes, m))
    assert used <= weighted if weighted else used == {NONE}
    if 0 < len(weighted) <= m:
        assert used == weighted


@given(nodes=node_lists(), factor=st.integers(1, 1000))
def test_only_the_ratio_of_the_weights_counts(nodes: list[Node], factor: int) -> None:
    small = [(a, b, weight % 1000, at) for a, b, weight, at in nodes]
    scaled = [(a, b, weight * factor, at) for a, b, weight, at in small]
    assert probe.maglev(small, 251) == probe.maglev(scaled, 251)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 16, 32, 1000])
def test_equal_backends_get_equal_shares_but_for_one_entry(count: int) -> None:
    counts = Counter(probe.maglev(named({f"10.0.0.{at}:80": 1 for at in range(count)}), SIZE))
    assert len(counts) == count
    assert max(counts.values()) - min(counts.values()) <= 1


def test_shares_follow_the_weights() -> None:
    weights = {"a": 100, "b": 50, "c": 25, "d": 1}
    counts = Counter(probe.maglev(named(weights), SIZE))
    for index, weight in enumerate(weights.values()):
        assert abs(counts[index] - SIZE * weight / 176) <= len(weights)


@pytest.mark.parametrize("count", [3, 4, 8, 16, 32])
def test_a_backend_that_goes_hardly_moves_the_flows_of_the_others(count: int) -> None:
    weights = {f"10.0.0.{at}:80": 1 for at in range(count)}
    before = probe.maglev(named(weights), SIZE)
    after = probe.maglev(named(weights | {"10.0.0.0:80": 0}), SIZE)
    moved = sum(old not in (0, new) for old, new in zip(before, after, strict=True))
    assert 0 not in after
    assert moved / SIZE < 0.005


def test_the_order_of_the_file_does_not_matter() -> None:
    weights = {"a:80": 1, "b:80": 2, "c:80": 3}
    turned = dict(reversed(weights.items()))
    forth = [list(weights)[index] for index in probe.maglev(named(weights), 251)]
    back = [list(turned)[index] for index in probe.maglev(named(turned), 251)]
    assert forth == back


def test_no_backend_at_all_leaves_a_table_that_says_so() -> None:
    assert probe.maglev([], 17) == [NONE] * 17
    assert probe.maglev([(1, 2, 0, 0)], 17) == [NONE] * 17


@pytest.mark.parametrize("m", [0, 1, 2, 9, 65536, 5000017])
def test_a_size_that_is_not_a_usable_prime_is_refused(m: int) -> None:
    assert probe.maglev([(1, 2, 1, 0)], m) == BAD_SIZE


def test_the_index_that_means_none_is_refused() -> None:
    assert probe.maglev([(1, 2, 1, NONE)], 17) == BAD_INDEX
