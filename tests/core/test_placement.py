"""Who claims a VIP first, and why the others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pytest

from piagent.core.lease_types import Reason
from piagent.core.ledger import Candidate, Criterion
from piagent.core.placement import Placement, place, rank

NODES = ("pi-1", "pi-2", "pi-3")


def nodes(count: int) -> list[Candidate]:
    return [Candidate(name=f"pi-{number}") for number in range(1, count + 1)]


def keys(count: int) -> list[str]:
    return [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(count)]


def firsts(placement: Placement, of: Iterable[str]) -> dict[str, str]:
    """Key -> who should own it; each has somebody."""
    found = {key: placement.first(key) for key in of}
    return {key: node for key, node in found.items() if node is not None}


def loads(owners: Mapping[str, str]) -> dict[str, int]:
    return dict(Counter(owners.values()))


def reasons(placement: Placement, key: str) -> dict[str, Reason | Criterion]:
    return {verdict.node: verdict.reason for verdict in placement.verdicts(key)}


# ---- all start at once ----


@pytest.mark.parametrize(("count", "vips"), [(3, 3), (3, 6), (5, 10), (8, 16), (1, 4), (50, 100)])
def test_nodes_that_start_at_once_get_the_same_number_of_vips(count: int, vips: int) -> None:
    placement = place(keys(vips), nodes(count), {})
    owners = firsts(placement, keys(vips))
    assert loads(owners) == {one.name: vips // count for one in nodes(count)}
    assert placement.load == loads(owners)
    assert set(placement.share.values()) == {vips // count}


@pytest.mark.parametrize(("count", "vips"), [(3, 7), (3, 4), (5, 6), (8, 3)])
def test_what_does_not_divide_evenly_differs_by_one(count: int, vips: int) -> None:
    placement = place(keys(vips), nodes(count), {})
    assert len(firsts(placement, keys(vips))) == vips
    assert set(placement.load.values()) == {vips // count, vips // count + 1}
    assert set(placement.share.values()) == {vips // count + 1}


def test_no_nodes_and_no_vips_are_no_trouble() -> None:
    assert place((), nodes(3), {}).ranks("pi-1") == {}
    empty = place(keys(2), (), {keys(1)[0]: "pi-1"})
    assert empty.first(keys(1)[0]) is None
    assert empty.order(keys(1)[0]) == ()
    assert empty.verdicts(keys(1)[0]) == ()
    assert empty.ranks("pi-1") == {}


def test_a_node_that_knows_nobody_stands_first_for_everything() -> None:
    assert place(keys(5), nodes(1), {}).ranks("pi-1") == dict.fromkeys(keys(5), 0)


# ---- owners ----


def test_a_dead_nodes_vips_spread_over_the_others_and_nothing_else_moves() -> None:
    for dead in (one.name for one in nodes(5)):
        before = firsts(place(keys(20), nodes(5), {}), keys(20))
        after = firsts(place(keys(20), [n for n in nodes(5) if n.name != dead], before), keys(20))
        assert all(after[key] == node for key, node in before.items() if node != dead)
        assert set(loads(after).values()) == {5}


def test_a_node_that_comes_moves_nothing_by_itself() -> None:
    before = firsts(place(keys(6), nodes(2), {}), keys(6))
    placement = place(keys(6), nodes(3), before)
    assert firsts(placement, keys(6)) == before
    assert placement.load["pi-3"] == 0
    assert placement.share["pi-3"] == 2
    assert set(reasons(placement, keys(6)[0]).values()) == {Criterion.OTHER_OWNS}


def test_what_has_been_claimed_already_does_not_change_who_claims_the_rest() -> None:
    planned = firsts(place(keys(12), nodes(5), {}), keys(12))
    for start in range(12):
        claimed = {key: planned[key] for key in keys(12)[start::2]}
        assert firsts(place(keys(12), nodes(5), claimed), keys(12)) == planned


def test_nodes_that_see_one_node_more_or_less_at_a_start_still_agree_on_most_vips() -> None:
    few = firsts(place(keys(100), nodes(9), {}), keys(100))
    many = firsts(place(keys(100), nodes(10), {}), keys(100))
    assert sum(few[key] != many[key] for key in keys(100)) < 25


def test_a_new_vip_goes_to_who_has_fewest() -> None:
    owners = {"10.0.0.1": "pi-1", "10.0.0.2": "pi-2", "10.0.0.3": "pi-2"}
    assert place([*owners, "10.0.0.4"], nodes(3), owners).first("10.0.0.4") == "pi-3"


@pytest.mark.parametrize("change", [{"draining": True}, {"weight": 0}])
def test_the_vips_of_a_node_that_gives_up_all_have_successors_that_spread(
    change: dict[str, int],
) -> None:
    before = firsts(place(keys(12), nodes(4), {}), keys(12))
    leaving = [Candidate(name="pi-1", **change), *nodes(4)[1:]]
    placement = place(keys(12), leaving, before)
    after = firsts(placement, keys(12))
    assert loads(after) == {"pi-2": 4, "pi-3": 4, "pi-4": 4}
    assert all(after[key] == node for key, node in before.items() if node != "pi-1")
    assert all(placement.rank(key, "pi-1") is None for key in keys(12))
    assert placement.share["pi-1"] == 0


# ---- weights and health ----


def test_weights_set_the_shares() -> None:
    candidates = [Candidate(name="big", weight=300), *nodes(2)]
    placement = place(keys(10), candidates, {})
    assert placement.share == {"big": 6, "pi-1": 2, "pi-2": 2}
    assert placement.load == {"big": 6, "pi-1": 2, "pi-2": 2}


def test_a_spare_node_of_little_weight_gets_nothing_while_others_can() -> None:
    candidates = [Candidate(name="spare", weight=1), Candidate(name="main")]
    placement = place(keys(2), candidates, {})
    assert placement.load == {"main": 2, "spare": 0}
    assert place(keys(2), candidates[:1], {}).load == {"spare": 2}


def test_a_sick_node_gives_way_and_still_takes_what_nobody_else_can() -> None:
    sick = Candidate(name="pi-1", health=60)
    placement = place(keys(1), [sick, *nodes(3)[1:]], {})
    assert placement.first(keys(1)[0]) == "pi-2"
    assert reasons(placement, keys(1)[0]) == {"pi-1": Criterion.HEALTH, "pi-3": Criterion.ORDER}
    assert placement.order(keys(1)[0])[-1] == "pi-2" or placement.rank(keys(1)[0], "pi-1") == 2
    assert place(keys(3), [sick], {}).load == {"pi-1": 3}


def test_a_sick_node_gets_what_the_others_have_no_room_for() -> None:
    candidates = [Candidate(name="pi-1", health=80), *nodes(3)[1:]]
    placement = place(keys(6), candidates, {})
    assert placement.share == {"pi-1": 2, "pi-2": 3, "pi-3": 3}
    assert placement.load == {"pi-1": 0, "pi-2": 3, "pi-3": 3}
    assert place(keys(9), candidates, {}).load == {"pi-1": 1, "pi-2": 4, "pi-3": 4}


@pytest.mark.parametrize(("said", "meant"), [(1000, 100), (-1, 0)])
def test_health_beyond_its_range_is_the_end_of_the_range(said: int, meant: int) -> None:
    others = [Candidate(name=name, health=meant) for name in NODES[:2]]
    found = [
        place(keys(4), [*others, Candidate(name="pi-3", health=health)], {})
        for health in (said, meant)
    ]
    assert found[0].share == found[1].share
    assert found[0].load == found[1].load
    assert [found[0].order(key) for key in keys(4)] == [found[1].order(key) for key in keys(4)]


def test_differences_within_a_health_class_do_not_count_as_sickness() -> None:
    candidates = [Candidate(name="pi-1", health=76), Candidate(name="pi-2", health=99)]
    placement = place(keys(2), candidates, {})
    assert placement.load == {"pi-1": 1, "pi-2": 1}


def test_when_all_are_sick_to_death_weights_decide() -> None:
    candidates = [Candidate(name=name, health=0) for name in NODES]
    assert set(place(keys(6), candidates, {}).load.values()) == {2}


# ---- zones ----


def test_vips_spread_over_zones() -> None:
    zones = {"a-1": "a", "a-2": "a", "a-3": "a", "b-1": "b"}
    candidates = [Candidate(name=name, zone=zone) for name, zone in zones.items()]
    for _ in range(2):  # whatever the names
        owners = firsts(place(keys(2), candidates, {}), keys(2))
        assert {zones[node] for node in owners.values()} == {"a", "b"}
        zones = {f"z{name}": zone for name, zone in reversed(zones.items())}
        candidates = [Candidate(name=name, zone=zone) for name, zone in zones.items()]


def test_a_dead_nodes_vip_goes_to_the_zone_with_fewer() -> None:
    candidates = [Candidate(name=n, zone=z) for n, z in (("a", "x"), ("b", "x"), ("c", "y"))]
    owners = {"10.0.0.1": "a", "10.0.0.2": "dead", "10.0.0.3": "dead"}
    placement = place(owners, candidates, owners)
    assert placement.load == {"a": 1, "b": 1, "c": 1}
    owners = {"10.0.0.1": "a", "10.0.0.2": "dead"}
    placement = place(owners, candidates, owners)
    assert placement.first("10.0.0.2") == "c"
    assert reasons(placement, "10.0.0.2") == {"a": Criterion.NO_ROOM, "b": Criterion.ZONE}


def test_a_node_without_a_zone_is_one_of_its_own() -> None:
    candidates = [Candidate(name="a", zone="x"), Candidate(name="b", zone="x"), *nodes(2)]
    placement = place(keys(3), candidates, {})
    assert placement.load["a"] + placement.load["b"] == 1


# ---- refusals ----


def test_a_node_that_refuses_gets_nothing_and_says_why() -> None:
    key = keys(1)[0]
    candidates = [Candidate(name="pi-1", refuses={key: Reason.NO_LOCAL_BACKEND}), *nodes(2)[1:]]
    placement = place([key], candidates, {key: "pi-1"})
    assert placement.first(key) == "pi-2"
    assert placement.order(key) == ("pi-2",)
    (verdict,) = placement.verdicts(key)
    assert (verdict.node, verdict.reason) == ("pi-1", Reason.NO_LOCAL_BACKEND)
    assert "no-local-backend" in verdict.detail


def test_a_vip_that_all_refuse_has_no_first() -> None:
    key = keys(1)[0]
    refusing = [Candidate(name=name, refuses={key: Reason.CARRIER_LOST}) for name in NODES]
    placement = place([key], refusing, {})
    assert placement.first(key) is None
    assert set(reasons(placement, key)) == set(NODES)
    assert placement.ranks("pi-1") == {}


def test_shares_are_of_what_a_node_may_own() -> None:
    """Two of ten nodes are on the pool's network: five each, not one."""
    refuses = dict.fromkeys(keys(10), Reason.NOT_ELIGIBLE)
    others = [Candidate(name=f"other-{number}", refuses=refuses) for number in range(8)]
    placement = place(keys(10), [*others, *nodes(2)], {})
    assert {node: n for node, n in placement.load.items() if n} == {"pi-1": 5, "pi-2": 5}
    assert placement.share["other-0"] == 0


@pytest.mark.parametrize("turn", [False, True])
def test_who_may_own_little_gets_that_and_leaves_the_rest_to_the_others(turn: bool) -> None:
    """Whichever VIP is given out first, there is a way in which nobody gets too many."""
    only, both = keys(2)[::-1] if turn else keys(2)
    candidates = [Candidate(name="a"), Candidate(name="b", refuses={only: Reason.NOT_ELIGIBLE})]
    assert firsts(place([only, both], candidates, {}), [only, both]) == {only: "a", both: "b"}


def test_keys_are_passed_on_where_one_after_the_other_would_end_badly() -> None:
    """Three pools that overlap in a ring; each node ends with its share and no more."""
    pools = {"p": "ab", "q": "bc", "r": "ca"}
    vips = {f"{pool}{number}": members for pool, members in pools.items() for number in range(4)}
    candidates = [
        Candidate(
            name=name,
            refuses={key: Reason.NOT_ELIGIBLE for key, may in vips.items() if name not in may},
        )
        for name in "abc"
    ]
    placement = place(vips, candidates, {})
    assert placement.share == {"a": 4, "b": 4, "c": 4}
    assert placement.load == placement.share


# ---- named candidates ----


def test_named_candidates_stand_in_the_order_of_the_file() -> None:
    named = ("pi-3", "pi-1", "pi-2")
    placement = place(keys(1), nodes(4), {}, named)
    assert placement.order(keys(1)[0]) == named
    assert reasons(placement, keys(1)[0]) == {
        "pi-1": Criterion.PREFERENCE,
        "pi-2": Criterion.PREFERENCE,
        "pi-4": Criterion.NOT_NAMED,
    }


def test_named_candidates_share_too() -> None:
    placement = place(keys(4), nodes(4), {}, ("pi-3", "pi-1", "pi-2"))
    assert placement.load == {"pi-1": 1, "pi-2": 1, "pi-3": 2, "pi-4": 0}


def test_a_preferred_node_takes_nothing_from_an_owner_that_is_well() -> None:
    key = keys(1)[0]
    placement = place([key], nodes(3), {key: "pi-2"}, NODES)
    assert placement.order(key) == ("pi-2", "pi-1", "pi-3")


# ---- ranks and verdicts ----


def test_ranks_are_the_places_in_the_order() -> None:
    candidates = [Candidate(name="pi-0", health=50), *nodes(6)]
    placement = place(keys(9), candidates, {keys(1)[0]: "pi-3"})
    for key in keys(9):
        order = placement.order(key)
        assert sorted(order) == [one.name for one in candidates]
        assert [placement.rank(key, node) for node in order] == list(range(7))
        assert {placement.ranks(node)[key] for node in order} == set(range(7))


def test_who_is_full_stands_behind_who_has_room() -> None:
    owners = dict.fromkeys(keys(4), "pi-1") | {keys(5)[4]: "pi-2"}
    placement = place(owners, nodes(3), owners)
    assert placement.order(keys(5)[4]) == ("pi-2", "pi-3", "pi-1")


def test_the_second_claimers_of_one_owners_vips_are_not_all_the_same() -> None:
    """Those that claim while the others still take a dead owner for alive."""
    owners = dict.fromkeys(keys(100), "pi-1")
    placement = place(keys(100), nodes(5), owners)
    second = Counter(placement.order(key)[1] for key in keys(100))
    assert len(second) == 4
    assert min(second.values()) > 10


@pytest.mark.parametrize(
    ("owners", "first", "details"),
    [
        ("bbcc", "a", {"b": "has 2 of at most 2", "c": "has 2 of at most 2"}),
        ("abb", "c", {"a": "has 1, c 0 without this one", "b": "has 2 of at most 2"}),
        ("", "a", {"b": "equal to a; the key's own order decides"}),
    ],
)
def test_a_verdict_names_the_figures(owners: str, first: str, details: dict[str, str]) -> None:
    have = dict(zip(keys(len(owners)), owners, strict=True))
    candidates = [Candidate(name=name) for name in "abc"]
    placement = place([*have, "10.9.9.9"], candidates, have)
    assert placement.first("10.9.9.9") == first
    verdicts = {verdict.node: verdict.detail for verdict in placement.verdicts("10.9.9.9")}
    assert verdicts == verdicts | details


def test_asking_for_a_key_that_is_none_is_an_error() -> None:
    placement = place(keys(1), nodes(2), {})
    for ask in (placement.order, placement.verdicts, lambda key: placement.rank(key, "pi-1")):
        with pytest.raises(KeyError):
            ask("192.0.2.1")


# ---- one key alone ----


def test_of_one_key_named_candidates_stand_in_the_order_of_the_file() -> None:
    named = ("pi-3", "pi-1", "pi-2")
    assert [rank("10.0.0.1", node, named) for node in named] == [0, 1, 2]
    assert rank("10.0.0.2", "pi-3", named, known=NODES) == 0
    assert rank("10.0.0.1", "pi-9", NODES) == 3


def test_of_one_key_without_names_all_nodes_agree_on_an_order() -> None:
    for key in ("10.0.0.1", "10.0.0.2", "fd00::1"):
        assert sorted(rank(key, node, (), known=NODES) for node in NODES) == [0, 1, 2]
    assert rank("10.0.0.1", "pi-1", ()) == 0


def test_a_node_that_leaves_changes_the_first_claimer_of_no_key_but_its_own() -> None:
    left = NODES[:2]
    for key in keys(100):
        for node in left:
            if rank(key, node, (), NODES) == 0:
                assert rank(key, node, (), left) == 0
