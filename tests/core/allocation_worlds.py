"""Pools, requests and what is held, made from a seed; and the rules in the words of the docs.

Small ones: a few addresses on both sides of 10.0.1.0 and of each IP version, so that everything
that can happen does. Hypothesis by itself would make mostly worlds in which nothing does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.allocation import Allocation, Request, allocate
from piagent.core.model import AddressRange, Families, Pool, Protocol
from tests.core.allocating import CLUSTER, LB, PREFER, REQUIRE, SINGLE, held_of

NAMES = tuple(f"service/{letter}" for letter in "abcdefghij")
IPV4 = tuple(str(ip_address("10.0.0.250") + i) for i in range(12))
IPV6 = tuple(str(ip_address("fd00::") + i) for i in range(8))
PORTS = ((Protocol.TCP, 80), (Protocol.TCP, 443), (Protocol.UDP, 443), (Protocol.UDP, 53))
Held = Mapping[str, tuple[str, ...]]


class World(Struct, frozen=True):
    """What `allocate` is asked."""

    pools: tuple[Pool, ...]
    requests: tuple[Request, ...]
    held: Held

    def allocation(self) -> Allocation:
        return allocate(self.pools, self.requests, self.held)

    def settled(self) -> World:
        """When everybody has what was given."""
        return replace(self, held=held_of(self.allocation()))


# ---- the rules ----


def addresses_of(pool: Pool) -> Iterator[str]:
    """Each of the pool's addresses, in its order."""
    for one in pool.addresses:
        address, last = ip_address(one.first), ip_address(one.last)
        while address <= last:
            text = str(address)
            buggy = text.endswith((".0", ".255"))
            if not (pool.avoid_buggy_ips and buggy):
                yield text
            address += 1


def fits(pool: Pool, request: Request) -> bool:
    return pool.type is request.type and all(
        request.labels.get(name) == value for name, value in pool.services.items()
    )


def gives(pool: Pool, request: Request) -> bool:
    """Whether it may get a new address from there."""
    named = pool.name == request.pool if request.pool else pool.auto_assign or request.addresses
    return fits(pool, request) and bool(named) and not pool.disabled


def family(address: str) -> int:
    return ip_address(address).version


def may_share(one: Request, other: Request) -> bool:
    return (
        one.sharing_key is not None
        and one.sharing_key == other.sharing_key
        and not one.ports & other.ports
        and one.local == other.local
    )


def of_one_pool(world: World, request: Request, addresses: tuple[str, ...]) -> list[Pool]:
    """The pools that are for it and have all of the addresses."""
    return [
        pool
        for pool in world.pools
        if fits(pool, request) and set(addresses) <= set(addresses_of(pool))
    ]


def in_order(pools: tuple[Pool, ...]) -> list[Pool]:
    return sorted(pools, key=lambda pool: (pool.priority or 1000, pool.name))


def is_met(world: World, request: Request, addresses: tuple[str, ...]) -> bool:
    """Whether that is all that it asks for."""
    if not addresses or not set(request.addresses) <= set(addresses):
        return False
    if request.pool and not any(
        pool.name == request.pool for pool in of_one_pool(world, request, addresses)
    ):
        return False
    versions = {family(address) for address in addresses}
    if request.families is SINGLE:
        return len(addresses) == 1 and request.first_family in {None, *versions}
    return len(versions) == len(addresses) and (request.families is PREFER or len(versions) == 2)


def users(world: World, allocation: Allocation, address: str) -> list[Request]:
    """Who has the address."""
    return [
        one
        for one in world.requests
        if one.name in allocation.given and address in allocation.given[one.name].addresses
    ]


def is_open(world: World, allocation: Allocation, request: Request, address: str) -> bool:
    """Whether it could use the address besides those who do."""
    return all(
        may_share(request, other)
        for other in users(world, allocation, address)
        if other.name != request.name
    )


# ---- worlds ----


def world_of(seed: int) -> World:
    """Any kind of world; in most of them what is held is what was given to slightly others."""
    random = Random(seed)
    pools = pools_of(random)
    world = World(pools, requests_of(random, pools), {})
    if random.random() < 0.3:
        return replace(world, held=rubbish(random))
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        world = changed(random, world.settled())
    return world


def changed(random: Random, world: World) -> World:
    """The same, and something is different."""
    kind = random.choice(("pools", "one pool", "come", "go", "other", "other", "other", "order"))
    pools, requests = list(world.pools), list(world.requests)
    if kind == "pools":
        pools = list(pools_of(random))
    elif kind == "one pool" and pools:
        index = random.randrange(len(pools))
        pools[index] = replace(pool_of(random, random.choice(pools).name), name=pools[index].name)
    elif kind == "go" and requests:
        del requests[random.randrange(len(requests))]
    elif kind == "other" and requests:
        index = random.randrange(len(requests))
        requests[index] = request_of(random, requests[index].name, pools)
    elif kind == "order":
        random.shuffle(requests)
    elif free := [name for name in NAMES if name not in {one.name for one in requests}]:
        requests.append(request_of(random, random.choice(free), pools))
        random.shuffle(requests)
    return World(tuple(pools), tuple(requests), world.held)


def pools_of(random: Random) -> tuple[Pool, ...]:
    count = random.choice((1, 2, 2, 3, 3, 4))
    pools = tuple(pool_of(random, f"p{number}") for number in range(count))
    if random.random() < 0.2:
        return pools  # they overlap, as what two files say may do
    taken: set[str] = set()
    return tuple(without(pool, taken) for pool in pools)


def pool_of(random: Random, name: str) -> Pool:
    spans = [span_of(random, IPV4, 4), span_of(random, IPV4, 2), span_of(random, IPV6, 3)]
    random.shuffle(spans)
    return Pool(
        name=name,
        addresses=tuple(spans[: random.randint(1, 3)]),
        type=LB if random.random() < 0.85 else CLUSTER,
        auto_assign=random.random() < 0.8,
        avoid_buggy_ips=random.random() < 0.3,
        priority=random.choice((0, 0, 1, 2)),
        disabled=random.random() < 0.1,
        services=random.choice(({}, {}, {}, {"tier": "web"})),
    )


def span_of(random: Random, addresses: tuple[str, ...], most: int) -> AddressRange:
    first = random.randrange(len(addresses))
    last = min(first + random.randrange(most), len(addresses) - 1)
    return AddressRange(first=addresses[first], last=addresses[last])


def without(pool: Pool, taken: set[str]) -> Pool:
    """The pool without the ranges that touch what others have; adds the rest to that."""
    spans = []
    for one in pool.addresses:
        mine = set(addresses_of(Pool(name="", addresses=(one,))))
        if not mine & taken:
            spans.append(one)
            taken |= mine
    return replace(pool, addresses=tuple(spans))


def requests_of(random: Random, pools: Sequence[Pool]) -> tuple[Request, ...]:
    names = random.sample(NAMES, random.choice((2, 5, 8, 10, 10)))
    return tuple(request_of(random, name, pools) for name in names)


def request_of(random: Random, name: str, pools: Sequence[Pool]) -> Request:
    """Mostly one that can have what it asks for, if nobody else has it."""
    asked = asked_of(random, pools)
    plain = random.random() < 0.5
    return Request(
        name=name,
        type=LB if random.random() < 0.85 else CLUSTER,
        addresses=asked,
        pool=random.choice(("p0", "p1", "p2", "none")) if random.random() < 0.2 else None,
        families=random.choice((SINGLE, SINGLE, PREFER, REQUIRE)[2 * (len(asked) > 1) :]),
        first_family=None if plain or asked else random.choice((None, 4, 6)),
        sharing_key=random.choice((None, "k", "k", "k", "j")),
        ports=frozenset(random.sample(PORTS, random.randint(0, 2))),
        labels={"tier": random.choice(("web", "web", "db"))},
        local=None if plain else random.choice((None, None, ("pi-1",), ("pi-2",))),
    )


def asked_of(random: Random, pools: Sequence[Pool]) -> tuple[str, ...]:
    if random.random() < 0.55 or not pools:
        return ()
    if random.random() < 0.1:
        return (random.choice(("127.0.0.1", "10.9.9.9", "pi.lan", *IPV4, *IPV6)),)
    pool = random.choice(pools)
    there = list(addresses_of(replace(pool, avoid_buggy_ips=False)))
    versions = [[a for a in there if family(a) == version] for version in (4, 6)]
    some = [random.choice(found[: random.choice((1, 2, 9))]) for found in versions if found]
    if len(some) > 1 and random.random() < 0.1:
        return (some[0], random.choice(IPV6))
    return tuple(random.sample(some, random.randint(1, len(some)))) if some else ()


def rubbish(random: Random) -> Held:
    """What nobody gave."""
    some = (*IPV4, *IPV6, "", "rubbish", "127.0.0.1", "10.0.0.999", "fe80::1%eth0")
    return {
        name: tuple(random.choices(some, k=random.randint(0, 3)))
        for name in (*NAMES, "gone")
        if random.random() < 0.6
    }


def types_of(families: Families, first: int | None) -> list[list[tuple[int, ...]]]:
    """Sets of IP versions that will do; those of the first list before those of the second."""
    ordered = (6, 4) if first == 6 else (4, 6)
    single = [(version,) for version in ordered]
    if families is SINGLE:
        return [single[:1] if first else single]
    return [[ordered]] if families is REQUIRE else [[ordered], single]
