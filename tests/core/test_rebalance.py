"""Planned moves: from nodes with too many VIPs, and back to preferred ones."""

from __future__ import annotations

from collections import Counter

import pytest

from piagent.core.lease_types import Reason
from piagent.core.ledger import Candidate
from piagent.core.placement import place
from piagent.core.rebalance import Move, excess, preempted

A, B, C = (Candidate(name=name) for name in "abc")
NAMED = ("a", "b", "c")


def keys(count: int) -> list[str]:
    return [f"10.0.0.{number}" for number in range(1, count + 1)]


def owned(owners: str) -> dict[str, str]:
    """One letter for each VIP: its owner."""
    return dict(zip(keys(len(owners)), owners, strict=True))


def after(owners: dict[str, str], moves: tuple[Move, ...]) -> dict[str, str]:
    for move in moves:
        assert owners[move.key] == move.giver
        owners = owners | {move.key: move.taker}
    return owners


# ---- too many ----


@pytest.mark.parametrize(
    ("owners", "fewest"),
    [
        ("", 0),
        ("abc", 0),
        ("aabb", 0),  # nobody has more than two
        ("aaabbb", 2),  # c has come
        ("aaaaaa", 4),
        ("aaaabbbb", 2),
        ("aabbccc", 0),
        ("aaaabbc", 1),
    ],
)
def test_the_fewest_moves_even_out(owners: str, fewest: int) -> None:
    have = owned(owners)
    moves = excess(place(have, (A, B, C), have))
    assert len(moves) == fewest
    have = after(have, moves)
    assert max(Counter(have.values()).values(), default=0) <= -(-len(owners) // 3)
    assert excess(place(have, (A, B, C), have)) == ()


def test_a_node_of_less_weight_keeps_less() -> None:
    have = owned("aaabbb")
    light = Candidate(name="a", weight=50)
    moves = excess(place(have, (light, B, C), have))
    assert Counter(move.giver for move in moves) == {"a": 1}


def test_a_node_that_fell_sick_gives_away_what_is_above_its_share() -> None:
    have = owned("aaabbbccc")
    sick = Candidate(name="a", health=5)
    moves = excess(place(have, (sick, B, C), have))
    assert Counter(move.giver for move in moves) == {"a": 2}
    assert Counter(move.taker for move in moves) == {"b": 1, "c": 1}


def test_moves_go_to_the_zone_with_fewer() -> None:
    zoned = [Candidate(name=n, zone=z) for n, z in (("a", "x"), ("b", "x"), ("c", "y"))]
    have = owned("aaaa")
    moves = excess(place(have, zoned, have))
    assert {move.taker for move in moves} == {"c"}


def test_a_node_without_room_passes_one_on_to_make_room() -> None:
    have = owned("aaaabbb")
    limited = Candidate(name="c", refuses=dict.fromkeys(keys(4), Reason.NOT_ELIGIBLE))
    placement = place(have, (A, B, limited), have)
    assert placement.share == {"a": 3, "b": 3, "c": 1}
    moves = excess(placement)
    assert Counter((move.giver, move.taker) for move in moves) == {("a", "b"): 1, ("b", "c"): 1}


def test_what_nobody_else_may_own_stays() -> None:
    have = owned("aaa")
    strange = [Candidate(name=n, refuses=dict.fromkeys(have, Reason.NOT_ELIGIBLE)) for n in "bc"]
    assert excess(place(have, (A, *strange), have)) == ()


def test_keys_without_an_owner_take_up_room_and_are_not_moved() -> None:
    have = owned("aaaxxx")  # x is gone
    moves = excess(place(have, (A, B, C), have))
    assert [(move.giver, len(moves)) for move in moves] == [("a", 1)]


def test_a_key_without_an_owner_that_has_to_make_room_is_none_to_be_moved() -> None:
    owned_by_a = {f"10.1.0.{number}": "a" for number in range(10)}
    limited = Candidate(name="c", health=80, refuses=dict.fromkeys(owned_by_a, Reason.NOT_ELIGIBLE))
    placement = place([*owned_by_a, *keys(10)], (A, B, limited), owned_by_a)
    assert placement.load == {"a": 10, "b": 9, "c": 1}
    assert placement.share == {"a": 9, "b": 9, "c": 3}
    assert excess(placement) == (Move("10.1.0.0", "a", "b"),)


# ---- preferred ----


def give_back(owners: str, *candidates: Candidate) -> list[tuple[str, str]]:
    have = owned(owners)
    return [(m.giver, m.taker) for m in preempted(place(have, candidates, have, NAMED))]


def test_a_preferred_node_gets_its_vip_back() -> None:
    assert give_back("b", A, B) == [("b", "a")]
    assert give_back("a", A, B) == []


def test_without_names_nobody_gets_anything_back() -> None:
    have = owned("b")
    assert preempted(place(have, (A, B), have)) == ()


def test_the_least_preferred_owner_gives_first() -> None:
    assert give_back("bc", A, B, C) == [("c", "a")]


def test_a_preferred_node_gets_no_more_than_its_share_and_no_more_than_the_owner_had() -> None:
    assert give_back("abb", A, B) == [("b", "a")]
    assert give_back("aabb", A, B) == []
    assert give_back("abca", A, B, C) == []
    assert give_back("abcc", A, B, C) == [("c", "a")]


@pytest.mark.parametrize(
    "preferred",
    [
        Candidate(name="a", health=60),
        Candidate(name="a", health=60, weight=300),
        Candidate(name="a", draining=True),
        Candidate(name="a", weight=0),
        Candidate(name="a", refuses={keys(1)[0]: Reason.NO_LOCAL_BACKEND}),
    ],
)
def test_a_preferred_node_that_is_not_well_gets_nothing_back(preferred: Candidate) -> None:
    assert give_back("b", preferred, B) == []


def test_a_zone_does_not_get_more_than_the_owners_had() -> None:
    a, b = Candidate(name="a", zone="x"), Candidate(name="b", zone="x")
    c = Candidate(name="c", zone="y")
    assert give_back("bc", a, b, c) == [("b", "a")]
    assert give_back("cc", a, b, c) == [("c", "a")]
