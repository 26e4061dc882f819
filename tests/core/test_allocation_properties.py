"""What holds whatever is asked for and held: nobody loses, nobody shares who may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations, product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from piagent.core.address_book import AddressBook, Ranges, Use
from piagent.core.allocation import Allocation, AllocationReason, Count, Request, allocate
from tests.core.allocating import PREFER, SINGLE, held_of
from tests.core.allocation_worlds import (
    World,
    addresses_of,
    changed,
    family,
    gives,
    in_order,
    is_met,
    is_open,
    may_share,
    of_one_pool,
    types_of,
    users,
    world_of,
)

SEEDS = st.integers(0, 1 << 64)
WORLDS = SEEDS.map(world_of)
UNTIMED = settings(deadline=None)
Why = AllocationReason


def test_the_worlds_are_not_all_alike() -> None:
    """A property says little where nothing is kept, refused or shared."""
    seen: Counter[str] = Counter()
    for seed in range(1000):
        world = world_of(seed)
        allocation = world.allocation()
        reasons = [grant.reason for grant in allocation.given.values()]
        refusals = [refusal.reason for refusal in allocation.refused.values()]
        seen.update({*reasons, *refusals})
        seen["given and refused"] += bool(allocation.given.keys() & allocation.refused.keys())
        seen["both"] += any(len(grant.addresses) > 1 for grant in allocation.given.values())
        seen["moved to an address left in the same call"] += any(
            world.held.get(other.name, ())[:1] == allocation.given[one.name].addresses
            for one in world.requests
            for other in world.requests
            if one is not other and one.name in allocation.given
        )
    rare = {Why.MALFORMED, Why.PORT_IN_USE, Why.TWO_POOLS, Why.OUT_OF_RANGE}
    assert min(seen[reason] for reason in Why if reason not in rare) > 20, seen
    assert min(seen[what] for what in ("given and refused", "both")) > 100, seen
    assert seen["moved to an address left in the same call"] > 20, seen


# ---- legality ----


def check_legal(world: World, allocation: Allocation) -> None:
    """Everybody has what it may have, or a word why not; nobody has what is another's."""
    names = {one.name for one in world.requests}
    assert allocation.given.keys() | allocation.refused.keys() == names
    for one in world.requests:
        grant = allocation.given.get(one.name)
        if grant is not None:
            check_grant(world, one, grant.addresses, grant.pool)
            if one.name not in allocation.refused:
                assert is_met(world, one, grant.addresses), (one, grant)
    for one, other in combinations(world.requests, 2):
        mine, theirs = (set(held_of(allocation).get(each.name, ())) for each in (one, other))
        if mine & theirs:
            assert may_share(one, other), (one, other)


def check_grant(world: World, one: Request, addresses: tuple[str, ...], pool: str | None) -> None:
    versions = [family(address) for address in addresses]
    assert len(set(versions)) == len(versions) in {1, 2}
    assert len(versions) == 1 or one.families is not SINGLE
    if len(versions) == 2:
        assert versions[0] == (one.first_family or 4)
    if pool is None:
        assert set(addresses) <= set(one.addresses) & {"127.0.0.1"}
    else:
        assert pool in [each.name for each in of_one_pool(world, one, addresses)]


@UNTIMED
@given(WORLDS)
def test_nobody_has_what_it_may_not_have(world: World) -> None:
    check_legal(world, world.allocation())


# ---- what is held ----


def check_kept(world: World, allocation: Allocation) -> None:
    """Nobody loses or leaves an address that it may keep and that is all that it asks for."""
    for one in world.requests:
        held = world.held.get(one.name, ())
        if not held or not of_one_pool(world, one, held) or is_contested(world, one, held):
            continue
        if len({family(address) for address in held}) < len(held):
            continue
        has = set(held_of(allocation).get(one.name, ()))
        if is_met(world, one, held):
            assert set(held) <= has, (one, held, has)
        else:
            assert has, (one, held)
            if one.name in allocation.refused:
                assert has <= set(held), (one, held, has)


def is_contested(world: World, one: Request, held: tuple[str, ...]) -> bool:
    """Whether somebody else has one of the addresses, too, and they may not share it."""
    return any(
        set(held) & set(world.held.get(other.name, ())) and not may_share(one, other)
        for other in world.requests
        if other is not one
    )


@UNTIMED
@given(WORLDS)
def test_what_may_be_kept_is_kept(world: World) -> None:
    check_kept(world, world.allocation())


def check_quiet(world: World, allocation: Allocation) -> None:
    """Where everybody has what was given, nothing is given or taken any more."""
    again = allocate(world.pools, world.requests, held_of(allocation))
    assert held_of(again) == held_of(allocation)
    assert again.refused == allocation.refused
    assert again.pools == allocation.pools
    assert {grant.reason for grant in again.given.values()} <= {Why.KEPT}


@UNTIMED
@given(WORLDS)
def test_a_second_call_changes_nothing(world: World) -> None:
    check_quiet(world, world.allocation())


@UNTIMED
@given(WORLDS, SEEDS)
def test_the_same_comes_from_the_same_in_whichever_order_it_is_kept(
    world: World, seed: int
) -> None:
    random = Random(seed)
    held = list(world.held.items())
    random.shuffle(held)
    pools = random.sample(world.pools, len(world.pools))
    assert allocate(pools, list(world.requests), dict(held)) == world.allocation()


@UNTIMED
@given(SEEDS)
def test_whatever_happens_all_is_legal_and_only_what_changed_moves(seed: int) -> None:
    random = Random(seed)
    world = world_of(seed)
    for _ in range(6):
        before = world.settled()
        world = changed(random, before)
        allocation = world.allocation()
        check_legal(world, allocation)
        if world.pools == before.pools:
            check_stays(before, world, allocation)


def check_stays(before: World, world: World, allocation: Allocation) -> None:
    """What did not change itself has what it had; but what had less than it asks for may get it."""
    lacked = before.allocation().refused
    for one in before.requests:
        had = world.held.get(one.name, ())
        if one in world.requests and had and not is_disturbed(world, before, one):
            has = held_of(allocation).get(one.name, ())
            got_it = one.name in lacked and is_met(world, one, has)
            assert got_it or set(had) <= set(has), (one, had, has)


def is_disturbed(world: World, before: World, one: Request) -> bool:
    """Whether one with which it shares an address has changed, and nothing tells which of them."""
    return any(
        other.sharing_key is not None and other not in before.requests
        for other in world.requests
        if is_contested(replace(world, requests=(one, other)), one, world.held.get(one.name, ()))
    )


# ---- what is refused ----


def check_maximal(world: World, allocation: Allocation) -> None:
    """Nobody lacks what it could have."""
    for one in world.requests:
        has = held_of(allocation).get(one.name, ())
        if one.name in allocation.refused:
            assert not could_have(world, allocation, one), (one, allocation)
        elif one.families is PREFER and len(has) == 1:
            missing = 10 - family(has[0])
            pools = [p for p in of_one_pool(world, one, has) if not p.disabled]
            pools = [p for p in pools if one.pool in {None, p.name}]
            for address in (each for pool in pools for each in addresses_of(pool)):
                wanted = family(address) == missing
                assert not (wanted and is_open(world, allocation, one, address)), (one, address)


def could_have(world: World, allocation: Allocation, one: Request) -> bool:
    """Whether there are addresses for it, when everybody else has what was given."""
    for pool in world.pools:
        if not gives(pool, one):
            continue
        free = [a for a in addresses_of(pool) if is_open(world, allocation, one, a)]
        free = [a for a in free if a not in held_of(allocation).get(one.name, ()) or one.addresses]
        for versions in (
            each for stage in types_of(one.families, one.first_family) for each in stage
        ):
            for chosen in product(*([a for a in free if family(a) == v] for v in versions)):
                if one.addresses and set(one.addresses) != set(chosen):
                    continue
                if is_met(world, one, chosen):
                    return True
    return False


@UNTIMED
@given(WORLDS)
def test_nobody_is_refused_what_is_there(world: World) -> None:
    check_maximal(world, world.allocation())


def check_asked_first(world: World, allocation: Allocation) -> None:
    """Nobody gets by chance what another one asks for by name.

    Except one that had to leave something before the other could have all that it asks for.
    """
    for one in world.requests:
        refusal = allocation.refused.get(one.name)
        if refusal is None or refusal.reason not in {Why.IN_USE, Why.PORT_IN_USE}:
            continue
        assert any(
            address in (*world.held.get(other.name, ()), *other.addresses)
            or allocation.given[other.name].reason is Why.REASSIGNED
            for address in one.addresses
            for other in users(world, allocation, address)
            if other is not one and not may_share(one, other)
        ), (one, refusal)


@UNTIMED
@given(WORLDS)
def test_what_is_asked_for_by_name_goes_to_nobody_by_chance(world: World) -> None:
    check_asked_first(world, world.allocation())


def check_lowest(world: World, allocation: Allocation) -> None:
    """A newcomer's address is the first that is free, of the first pool that has one."""
    for one in world.requests:
        grant = allocation.given.get(one.name)
        if grant is None or grant.reason is not Why.ASSIGNED or one.families is not SINGLE:
            continue
        for version in (each[0] for each in types_of(one.families, one.first_family)[0]):
            for pool in (each for each in in_order(world.pools) if gives(each, one)):
                for address in addresses_of(pool):
                    if address == grant.addresses[0]:
                        break
                    used = users(world, allocation, address)
                    assert used or family(address) != version, (one, grant, address)
                else:
                    continue
                break
            else:
                continue
            break


@UNTIMED
@given(WORLDS)
def test_a_newcomer_gets_the_first_address_that_is_free(world: World) -> None:
    check_lowest(world, world.allocation())


# ---- counters ----


def check_counts(world: World, allocation: Allocation) -> None:
    """The counters are what one gets by counting."""
    used = {a for grant in allocation.given.values() for a in grant.addresses}
    for pool in world.pools:
        mine = set(addresses_of(pool))
        for version in (4, 6):
            all_of_it = {address for address in mine if family(address) == version}
            count = allocation.pools[pool.name].get(version, Count(0, 0, 0))
            assert count.total == len(all_of_it)
            assert count.used == len(all_of_it & used)
            assert count.free == len(all_of_it - used)


@UNTIMED
@given(WORLDS)
def test_counters_count(world: World) -> None:
    check_counts(world, world.allocation())


# ---- that these can fail ----

Check = Callable[[World, Allocation], None]


def one_too_low(self: Ranges, used: object) -> int | None:
    """A cursor that does not look at what is used."""
    return self.spans[0][0] if self.spans else None


def any_ports(self: Use, request: Request) -> bool:
    """Sharing without a look at the ports."""
    return not self.names or self.key == request.sharing_key


def no_sharing(self: AddressBook, *args: object) -> None:
    """Nobody joins."""


MUTANTS = [
    (Ranges, "lowest_free", one_too_low, check_legal),
    (Use, "admits", any_ports, check_legal),
    (Use, "admits", lambda *_: False, check_kept),
    (Ranges, "avoids", lambda *_: False, check_legal),
    (Ranges, "avoids", lambda *_: False, check_counts),
    (AddressBook, "lowest_shared", no_sharing, check_maximal),
    (Use, "remove", lambda *_: None, check_maximal),
]


def has_a_fault(check: Check, *, forget: bool = False) -> bool:
    """Whether the check finds one in any of many worlds; `forget`: what is held is not seen."""
    for seed in range(300):
        world = world_of(seed)
        try:
            check(world, (replace(world, held={}) if forget else world).allocation())
        except (AssertionError, KeyError):
            return True
    return False


@pytest.mark.parametrize(("where", "name", "mutant", "check"), MUTANTS)
def test_each_check_finds_a_fault(
    where: type,
    name: str,
    mutant: Callable[..., object],
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not has_a_fault(check)
    monkeypatch.setattr(where, name, mutant)
    assert has_a_fault(check)


def test_an_allocator_that_forgets_what_is_held_is_found() -> None:
    assert has_a_fault(check_kept, forget=True)
