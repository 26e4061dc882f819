"""Who claims a VIP first."""

from __future__ import annotations

from collections import Counter

from piagent.core.placement import rank

NODES = ("pi-1", "pi-2", "pi-3")


def test_named_candidates_stand_in_the_order_of_the_file() -> None:
    named = ("pi-3", "pi-1", "pi-2")
    assert [rank("10.0.0.1", node, named) for node in named] == [0, 1, 2]
    assert rank("10.0.0.2", "pi-3", named, known=NODES) == 0


def test_who_is_not_named_comes_last() -> None:
    assert rank("10.0.0.1", "pi-9", NODES) == 3


def test_without_names_all_nodes_agree_on_an_order() -> None:
    for key in ("10.0.0.1", "10.0.0.2", "fd00::1"):
        assert sorted(rank(key, node, (), known=NODES) for node in NODES) == [0, 1, 2]


def test_without_names_vips_spread_over_the_nodes() -> None:
    keys = [f"10.0.{i}.1" for i in range(300)]
    first = Counter(node for key in keys for node in NODES if rank(key, node, (), NODES) == 0)
    assert set(first) == set(NODES)
    assert min(first.values()) > 60


def test_a_node_that_leaves_changes_the_first_claimer_of_no_vip_but_its_own() -> None:
    left = NODES[:2]
    for key in (f"10.0.0.{i}" for i in range(100)):
        for node in left:
            if rank(key, node, (), NODES) == 0:
                assert rank(key, node, (), left) == 0


def test_a_node_that_knows_nobody_is_first() -> None:
    assert rank("10.0.0.1", "pi-1", ()) == 0
