"""What holds for every placement and every set of planned moves, whatever the cluster."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from piagent.core.lease_types import Reason
from piagent.core.ledger import Candidate, Criterion
from piagent.core.placement import Placement, place
from piagent.core.rebalance import Move, excess, preempted

NAMES = tuple("abcdefg")
KEYS = tuple(f"10.0.0.{number}" for number in range(1, 15))


class Cluster(Struct, frozen=True):
    """What `place` is asked about."""

    keys: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    owners: dict[str, str]
    preference: tuple[str, ...]

    def placement(self) -> Placement:
        return place(self.keys, self.candidates, self.owners, self.preference)

    def settled(self) -> Cluster:
        """When every key is owned by who stands first for it."""
        placement = self.placement()
        owners = {key: node for key in self.keys if (node := placement.first(key)) is not None}
        return replace(self, owners=owners)

    def moved(self, moves: tuple[Move, ...]) -> Cluster:
        """When the owners have made the moves."""
        assert all(self.owners[move.key] == move.giver for move in moves)
        return replace(self, owners=self.owners | {move.key: move.taker for move in moves})


def cluster_of(seed: int, *, refusals: bool, equal: bool) -> Cluster:
    """Any kind of cluster, small and odd ones too; often somebody owns more than its share."""
    random = Random(seed)
    keys = KEYS[: random.choice((14, 14, 11, 9, 6, 3, random.randint(0, 14)))]
    names = NAMES[: random.choice((7, 5, 4, 4, 3, 3, 2, 1, 0))]
    plain = equal or random.random() < 0.5
    refused = refused_by(random, names) if refusals else {}
    candidates = tuple(
        Candidate(
            name=name,
            weight=100 if plain else random.choice((100, 100, 100, 300, 50, 1, 0)),
            health=100 if plain else random.choice((100, 100, 100, 80, 60, 5, 0)),
            zone="" if plain else random.choice(("", "x", "y")),
            draining=not plain and random.random() < 0.1,
            refuses={
                key: random.choice((Reason.NOT_ELIGIBLE, Reason.CARRIER_LOST))
                for key, nodes in refused.items()
                if name in nodes
            },
        )
        for name in names
    )
    owners: dict[str, str] = {}
    if random.random() < 0.8:
        rich = random.sample((*names, "gone"), random.randint(1, len(names) + 1))
        for key in random.sample(KEYS, random.choice((14, 14, 12, 7))):
            may = [name for name in rich if name not in refused.get(key, ())]
            owners[key] = may[0] if may else random.choice(rich)
    preference = random.choice(((), (), NAMES, NAMES[::-1], NAMES[1:5]))
    return Cluster(keys, candidates, owners, () if equal else preference)


def refused_by(random: Random, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Key -> who refuses it: nobody, anybody, or all but the few that serve the key's pool."""
    kind = random.choice(("none", "some", "pools"))
    if kind == "none" or not names:
        return {}
    if kind == "some":
        return {key: [name for name in names if random.random() < 0.3] for key in KEYS}
    pools = [set(random.choices(names, k=2)) for _ in range(3)]
    served = {key: random.choice(pools) for key in KEYS}
    return {key: [name for name in names if name not in served[key]] for key in KEYS}


def clusters(*, refusals: bool = True, equal: bool = False) -> st.SearchStrategy[Cluster]:
    """By seed: hypothesis by itself makes mostly clusters in which there is nothing to decide."""
    return st.integers(0, 1 << 64).map(
        lambda seed: cluster_of(seed, refusals=refusals, equal=equal)
    )


def test_the_clusters_are_not_all_alike() -> None:
    """A property says little where nothing is free, nobody owns too much or none is preferred."""
    seen: Counter[str] = Counter()
    for seed in range(1000):
        cluster = cluster_of(seed, refusals=True, equal=False)
        placement, settled = cluster.placement(), cluster.settled().placement()
        seen["kept"] += bool(kept(cluster))
        seen["free"] += len(kept(cluster)) < sum(placement.load.values())
        seen["too many"] += bool(excess(settled))
        seen["in a chain"] += len(excess(settled)) > overload(settled)
        seen["preferred"] += bool(preempted(settled))
        seen["refused by all"] += any(not eligible(cluster, key) for key in cluster.keys)
    assert min(seen[kind] for kind in ("kept", "free", "too many")) > 250, seen
    assert min(seen[kind] for kind in ("preferred", "refused by all")) > 100, seen
    assert seen["in a chain"] > 0, seen


def eligible(cluster: Cluster, key: str) -> set[str]:
    """Who may own a key, in the words of the documentation."""
    return {
        one.name
        for one in cluster.candidates
        if one.weight > 0
        and not one.draining
        and key not in one.refuses
        and (not cluster.preference or one.name in cluster.preference)
    }


def kept(cluster: Cluster) -> set[str]:
    """Keys whose owners may keep them."""
    return {key for key in cluster.keys if cluster.owners.get(key) in eligible(cluster, key)}


def overload(placement: Placement) -> int:
    return sum(max(0, load - placement.share[node]) for node, load in placement.load.items())


def short_of_room(cluster: Cluster, share: dict[str, int]) -> int:
    """How many of the free keys find no room at best.

    Kuhn's bipartite matching, with a slot for each key that a node has room for.
    """
    held = Counter(cluster.owners[key] for key in kept(cluster))
    slots = {(node, slot): "" for node in share for slot in range(max(0, share[node] - held[node]))}

    def fits(key: str, tried: set[tuple[str, int]]) -> bool:
        for slot, taken_by in slots.items():
            if slot[0] in eligible(cluster, key) and slot not in tried:
                tried.add(slot)
                if not taken_by or fits(taken_by, tried):
                    slots[slot] = key
                    return True
        return False

    free = [k for k in cluster.keys if k not in kept(cluster) and eligible(cluster, k)]
    return len(free) - sum(fits(key, set()) for key in free)


# ---- placements ----


@given(clusters(), st.randoms())
def test_the_order_of_what_goes_in_does_not_matter(cluster: Cluster, random: Random) -> None:
    def mixed(items: tuple[object, ...]) -> list[object]:
        return random.sample(items, len(items))

    other = place(
        mixed(cluster.keys),
        mixed(cluster.candidates),
        dict(mixed(tuple(cluster.owners.items()))),
        cluster.preference,
    )
    placement = cluster.placement()
    for key in cluster.keys:
        assert placement.order(key) == other.order(key)
        assert placement.verdicts(key) == other.verdicts(key)
    assert placement.share == other.share
    assert excess(placement) == excess(other)
    assert preempted(placement) == preempted(other)


@given(clusters())
def test_all_that_may_own_a_key_have_a_rank_and_no_others(cluster: Cluster) -> None:
    placement = cluster.placement()
    for key in cluster.keys:
        order = placement.order(key)
        assert len(order) == len(set(order))
        assert set(order) == eligible(cluster, key)
        assert placement.first(key) == (order[0] if order else None)
        for node in (*NAMES, "gone"):
            place_in_order = order.index(node) if node in order else None
            assert placement.rank(key, node) == place_in_order
            assert placement.ranks(node).get(key) == place_in_order


@given(clusters())
def test_who_is_not_the_first_is_told_why(cluster: Cluster) -> None:
    placement = cluster.placement()
    for key in cluster.keys:
        first, may = placement.first(key), eligible(cluster, key)
        verdicts = {verdict.node: verdict for verdict in placement.verdicts(key)}
        assert set(verdicts) == {one.name for one in cluster.candidates} - {first}
        for one in cluster.candidates:
            if one.name != first:
                reason = verdicts[one.name].reason
                refused = isinstance(reason, Reason)
                assert refused == (one.name not in may and reason == one.refuses.get(key))
                never = {Criterion.WEIGHT_ZERO, Criterion.DRAINING, Criterion.NOT_NAMED}
                assert (refused or reason in never) == (one.name not in may)
                assert (reason is Criterion.OTHER_OWNS) == (
                    one.name in may and key in kept(cluster)
                )


@given(clusters())
def test_whoever_owns_a_key_and_may_keep_it_stands_first(cluster: Cluster) -> None:
    placement = cluster.placement()
    for key in kept(cluster):
        assert placement.first(key) == cluster.owners[key]


@given(clusters())
def test_shares_together_are_enough_for_all(cluster: Cluster) -> None:
    share = cluster.placement().share
    assert sum(share.values()) >= sum(bool(eligible(cluster, key)) for key in cluster.keys)


@given(clusters())
def test_at_a_start_nobody_gets_more_than_its_share(cluster: Cluster) -> None:
    placement = replace(cluster, owners={}).placement()
    assert overload(placement) == 0


@given(clusters())
def test_free_keys_go_where_there_is_room_as_long_as_there_is_a_way(cluster: Cluster) -> None:
    placement = cluster.placement()
    held = Counter(cluster.owners[key] for key in kept(cluster))
    before = sum(max(0, held[node] - most) for node, most in placement.share.items())
    assert overload(placement) - before == short_of_room(cluster, dict(placement.share))


@given(clusters(refusals=False, equal=True))
def test_equal_nodes_differ_by_one_at_most(cluster: Cluster) -> None:
    loads = replace(cluster, owners={}).placement().load.values()
    assert max(loads, default=0) - min(loads, default=0) <= 1


@given(clusters(refusals=False, equal=True))
def test_an_equal_share_is_the_nodes_part_rounded_up(cluster: Cluster) -> None:
    for share in cluster.placement().share.values():
        assert share == -(-len(cluster.keys) // len(cluster.candidates))


@given(clusters(refusals=False), st.data())
def test_what_is_claimed_already_does_not_change_who_claims_the_rest(
    cluster: Cluster, data: st.DataObject
) -> None:
    planned = cluster.settled()
    free = [key for key in planned.owners if key not in kept(cluster)]
    claimed = data.draw(st.sets(st.sampled_from(free))) if free else set()
    halfway = replace(
        cluster, owners=cluster.owners | {key: planned.owners[key] for key in claimed}
    )
    assert halfway.settled().owners == planned.owners


@given(clusters(), st.sampled_from(NAMES))
def test_a_death_changes_the_first_of_no_key_but_the_dead_ones(cluster: Cluster, dead: str) -> None:
    before = cluster.settled()
    left = replace(before, candidates=tuple(c for c in before.candidates if c.name != dead))
    after = left.settled()
    for key, node in before.owners.items():
        assert node == dead or after.owners[key] == node


@given(clusters())
def test_a_newcomer_changes_the_first_of_no_key_that_is_owned(cluster: Cluster) -> None:
    before = cluster.settled()
    joined = replace(before, candidates=(*before.candidates, Candidate(name="new")))
    after = joined.settled()
    assert all(after.owners[key] == node for key, node in before.owners.items())


# ---- moves ----


@given(clusters())
def test_evening_out_ends_after_one_round_with_nobody_above_its_share(cluster: Cluster) -> None:
    settled = cluster.settled()
    moves = excess(settled.placement())
    assert len({move.key for move in moves}) == len(moves)
    after = settled.moved(moves)
    assert kept(after) == set(after.owners) & set(after.keys)
    assert overload(after.placement()) == 0
    assert excess(after.placement()) == ()


@given(clusters(refusals=False))
def test_evening_out_takes_the_fewest_moves(cluster: Cluster) -> None:
    placement = cluster.settled().placement()
    assert len(excess(placement)) == overload(placement)


@given(clusters())
def test_evening_out_moves_only_what_is_owned_to_who_may_own_it(cluster: Cluster) -> None:
    for move in excess(cluster.placement()):
        assert move.key in kept(cluster)
        assert move.giver == cluster.owners[move.key]
        assert move.taker in eligible(cluster, move.key)
        assert move.taker != move.giver


@given(clusters())
def test_asking_for_moves_changes_nothing(cluster: Cluster) -> None:
    placement = cluster.placement()
    before = [placement.verdicts(key) for key in cluster.keys], dict(placement.load)
    first = excess(placement), preempted(placement)
    assert (excess(placement), preempted(placement)) == first
    assert ([placement.verdicts(key) for key in cluster.keys], dict(placement.load)) == before


@given(clusters())
def test_preferred_nodes_get_theirs_back_in_one_round_and_overload_nobody(cluster: Cluster) -> None:
    settled = cluster.settled()
    before = settled.placement()
    moves = preempted(before)
    order = settled.preference
    assert all(order.index(move.taker) < order.index(move.giver) for move in moves)
    after = settled.moved(moves).placement()
    assert preempted(after) == ()
    assert overload(after) <= overload(before)


@given(clusters())
def test_both_kinds_of_moves_together_come_to_an_end(cluster: Cluster) -> None:
    cluster = cluster.settled()
    for _ in range(len(NAMES) * len(KEYS)):
        moves = excess(cluster.placement()) or preempted(cluster.placement())
        if not moves:
            break
        cluster = cluster.moved(moves)
    assert not moves
