"""Giving out the addresses of pools: who gets which, who gets none, and why.

One pure function, which the leader calls with everything whenever something changes; what it says
is what everybody has until the next call. Nobody loses an address that it may keep, whatever else
is asked for and by whom. In this order:

1. Who has an address of a pool that is for it keeps that address, even if another pool came first
   now, or if the pool gives none by itself any more. Where requests that share an address may not
   do so any more, one that gave up its sharing key leaves, else those of a key that fewer have,
   else those that do not ask for the address by name, else those that come later.
2. Who asks for addresses by name gets them, if nobody else has them. Who has others until then
   leaves these; so two may exchange theirs.
3. Who has an address that is not what it asks for (another pool, another IP version) gets another
   and leaves that one. As long as there is none it keeps what it has, and the refusal says so.
4. All the others get the lowest address that is free, in the order of the requests: from the
   pools by priority and name, from each in the order of its list. Who has a sharing key and names
   no address joins the lowest address of that key where its ports are free, if there is one.

An address that is to be avoided (`avoid_buggy_ips`) is none of the pool's, as in MetalLB: who has
one gets another, and who asks for one is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from piagent.core.address_book import (
    IPV4,
    IPV6,
    NO_ADDRESS,
    AddressBook,
    PoolEntry,
    Use,
    family_of,
    number_of,
    text_of,
)
from piagent.core.allocation_types import (
    Allocation,
    AllocationReason,
    Count,
    Grant,
    Refusal,
    Request,
)
from piagent.core.allocation_why import none_found, not_possible, taken
from piagent.core.exchange import movable
from piagent.core.model import Families, Pool

__all__ = [
    "Allocation",
    "AllocationReason",
    "Count",
    "Grant",
    "Refusal",
    "Request",
    "allocate",
]


def allocate(
    pools: Sequence[Pool], requests: Sequence[Request], held: Mapping[str, tuple[str, ...]]
) -> Allocation:
    """Say who has which addresses from now on.

    `held` is what each name has now: what an earlier call gave, or what was found in use. Names
    that request nothing any more lose it; what is no address is overlooked, and so is a second
    request of one name. The order of the requests decides between newcomers, and takes nothing
    from anybody.

    Called again with what it gave, it gives the same.
    """
    work = _Work(pools, requests, held)
    work.keep()
    work.give_asked()
    work.move()
    work.assign()
    return work.result()


_TOLD = {
    AllocationReason.KEPT: "it had it before",
    AllocationReason.ASKED: "it asks for it",
    AllocationReason.ASSIGNED: "the lowest one that was free",
    AllocationReason.JOINED: "used with its sharing key",
    AllocationReason.ADDED: "the other IP version's, besides what it had",
    AllocationReason.REASSIGNED: "the lowest one that was free",
}


class _Work:
    """One call of `allocate`."""

    def __init__(
        self,
        pools: Sequence[Pool],
        requests: Sequence[Request],
        held: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._book = AddressBook(pools)
        by_name: dict[str, Request] = {}
        for one in requests:
            by_name.setdefault(one.name, one)
        self._requests = tuple(by_name.values())
        self._asked = {
            one.name: tuple(dict.fromkeys(map(number_of, one.addresses)))
            for one in self._requests
            if one.addresses
        }
        self._had = {
            one.name: _held(one, held[one.name]) for one in self._requests if one.name in held
        }
        self._has: dict[str, tuple[int, ...]] = {}
        self._pool: dict[str, PoolEntry] = {}
        """Where that is from."""
        self._why: dict[str, AllocationReason] = {}
        self._waiting: dict[str, Request] = {}
        """Who could have the addresses that it names if nobody else had them."""

    # ---- 1. who keeps what it has ----

    def keep(self) -> None:
        """Take down what everybody keeps: what it asks for, or else what it may have."""
        sharers = Counter(
            (address, one.sharing_key, one.local)
            for one in self._requests
            for address in self._had.get(one.name, ())
        )

        def right(one: Request) -> tuple[bool, int, bool]:
            had = self._had[one.name]
            count = max(sharers[address, one.sharing_key, one.local] for address in had)
            return one.sharing_key is None, -count, one.name not in self._asked

        holders = sorted((one for one in self._requests if self._had.get(one.name)), key=right)
        for one in holders:
            if not self._keep(one, fully=True):
                self._keep(one, fully=False)
        self._waiting = {
            one.name: one
            for one in self._requests
            if one.name in self._asked and not self._is_content(one)
            if not_possible(self._book, one, self._asked[one.name]) is None
        }

    def _keep(self, one: Request, *, fully: bool) -> bool:
        """Keep what it has, or one of two; `fully`: if it asks for that. Tell whether it could."""
        had = self._had[one.name]
        parts = [had, *((address,) for address in had)] if len(had) > 1 else [had]
        for part in parts:
            if len(part) > 1 and one.families is Families.SINGLE:
                continue
            for entry in self._pools_of(one, part):
                if fully and not self._is_asked(one, part, entry):
                    continue
                if all(self._book.use(address).admits(one) for address in part):
                    self._take(one, part, entry, AllocationReason.KEPT)
                    return True
        return False

    def _is_asked(self, one: Request, addresses: tuple[int, ...], entry: PoolEntry) -> bool:
        """Whether it asks for these: it may still lack the other IP version's."""
        if one.pool is not None and entry.name != one.pool:
            return False
        if not set(self._asked.get(one.name, ())) <= set(addresses):
            return False
        single = one.families is Families.SINGLE and one.first_family is not None
        return not single or family_of(addresses[0]) == one.first_family

    def _pools_of(self, one: Request, addresses: tuple[int, ...]) -> list[PoolEntry]:
        """The pools that have all the addresses, and are for the request."""
        found = [entry for entry in self._book.having(addresses) if entry.fits(one)]
        if set(addresses) <= set(self._asked.get(one.name, ())):
            return found
        return [entry for entry in found if entry.pool is not None]

    # ---- 2. who asks for addresses by name ----

    def give_asked(self) -> None:
        """Give what is asked for by name to all that can have it."""
        while self._waiting and (going := self._going()):
            moving = [self._waiting.pop(name) for name in going]
            for one in moving:
                self._leave(one)
            for one in moving:
                asked = self._asked[one.name]
                entry = next(e for e in self._pools_of(one, asked) if _gives(e, one))
                self._take(one, asked, entry, AllocationReason.ASKED)

    def _going(self) -> list[str]:
        """Those of the waiting that can have what they ask for at once.

        Ordinarily the first one that asks for an address gets it. If that leads nowhere, since it
        also asks for another one that it cannot have, those whose addresses are free come first.
        """
        blockers = {name: self._blockers(one) for name, one in self._waiting.items()}
        able = {name: found for name, found in blockers.items() if found is not None}
        for names in (list(able), sorted(able, key=lambda name: len(able[name]) > 0)):
            claims: defaultdict[int, Use] = defaultdict(Use)

            def claim(name: str, claims: defaultdict[int, Use] = claims) -> bool:
                one, asked = self._waiting[name], self._asked[name]
                if not all(claims[address].admits(one) for address in asked):
                    return False
                for address in asked:
                    claims[address].add(one)
                return True

            if going := movable(names, able, claim):
                return going
        return []

    def _blockers(self, one: Request) -> set[str] | None:
        """Who would have to leave for it to get what it asks for; None: one of them will not."""
        blockers: set[str] = set()
        for address in self._asked[one.name]:
            for name in self._book.use(address).blockers(one):
                if name not in self._waiting or address in self._asked[name]:
                    return None
                blockers.add(name)
        return blockers

    # ---- 3. who has something, and asks for something else ----

    def move(self) -> None:
        """Give what they ask for to those who have something else, as long as anybody moves."""
        wanted = {address for asked in self._asked.values() for address in asked}
        movers = [one for one in self._requests if one.name in self._has]
        movers = [one for one in movers if one.name not in self._asked]
        movers.sort(key=lambda one: wanted.isdisjoint(self._has[one.name]))
        moved = True
        while moved:
            moved = False
            for one in movers:
                left = self._has[one.name]
                if self._is_content(one):
                    continue
                if self._add(one):
                    moved = True
                elif self._choose(one):
                    moved = moved or self._is_content(one)  # who never is has moved enough
                    if not wanted.isdisjoint(left):
                        self.give_asked()

    # ---- 4. who has nothing, or not yet of both IP versions ----

    def assign(self) -> None:
        """Give the lowest free addresses to all that name none."""
        for one in self._requests:
            if one.name not in self._has and one.name not in self._asked:
                self._choose(one)
            if one.name in self._has and one.families is Families.PREFER_DUAL:
                self._add(one)

    def _add(self, one: Request) -> bool:
        """To its address, add the other IP version's from the same pool; tell whether it could."""
        has, why = self._has[one.name], self._why[one.name]
        if one.families is Families.SINGLE or len(has) > 1:
            return False
        for entry in self._pools_of(one, has):
            if entry.pool is None or entry.is_disabled or not self._is_asked(one, has, entry):
                continue
            offer = self._offer(one, entry, (IPV4 + IPV6 - family_of(has[0]),))
            if offer is not None:
                self._leave(one)
                added = why is AllocationReason.KEPT
                self._take(one, (*has, *offer[1]), entry, AllocationReason.ADDED if added else why)
                return True
        return False

    def _choose(self, one: Request) -> bool:
        """Leave what it has for new addresses, if there are any; tell whether there are."""
        for stage in _stages(one):
            offers = (
                offer
                for families in stage
                for entry in self._book.fitting(one)
                if _gives(entry, one)
                if (offer := self._offer(one, entry, families)) is not None
            )
            # Fewest new addresses first; without a key they are all new, and the first one will do.
            best = (
                next(offers, None)
                if one.sharing_key is None
                else min(offers, key=lambda offer: offer[0], default=None)
            )
            if best is None:
                continue
            new, addresses, entry = best
            why = AllocationReason.ASSIGNED if new == len(addresses) else AllocationReason.JOINED
            if self._had.get(one.name):
                why = AllocationReason.REASSIGNED
            self._leave(one)
            self._take(one, addresses, entry, why)
            return True
        return False

    def _offer(
        self, one: Request, entry: PoolEntry, families: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...], PoolEntry] | None:
        """How many new addresses, and which ones, the pool has for it; None: too few."""
        addresses, new = [], 0
        for family in families:
            found = self._book.lowest_shared(entry, family, one)
            if found is None:
                found, new = self._book.lowest_free(entry, family), new + 1
            if found is None:
                return None
            addresses.append(found)
        return new, tuple(addresses), entry

    # ---- the books ----

    def _take(
        self, one: Request, addresses: tuple[int, ...], entry: PoolEntry, why: AllocationReason
    ) -> None:
        for address in addresses:
            self._book.take(address, one)
        families = _order(one)
        self._has[one.name] = tuple(sorted(addresses, key=lambda a: families.index(family_of(a))))
        self._pool[one.name], self._why[one.name] = entry, why

    def _leave(self, one: Request) -> None:
        for address in self._has.pop(one.name, ()):
            self._book.give_back(address, one)

    def _is_content(self, one: Request) -> bool:
        """Whether it has what it asks for."""
        has = self._has.get(one.name, ())
        if not has or not self._is_asked(one, has, self._pool[one.name]):
            return False
        return len(has) > 1 or one.families is not Families.REQUIRE_DUAL

    def result(self) -> Allocation:
        """What came out."""
        given = {one.name: self._grant(one) for one in self._requests if one.name in self._has}
        refused = {
            one.name: self._refusal(one) for one in self._requests if not self._is_content(one)
        }
        return Allocation(given, refused, self._book.counts())

    def _grant(self, one: Request) -> Grant:
        has, entry, why = self._has[one.name], self._pool[one.name], self._why[one.name]
        where = f"pool {entry.name}" if entry.name else "every host has it by itself"
        detail = f"{_TOLD[why]}; {where}"
        if why is AllocationReason.REASSIGNED:
            had = " and ".join(map(text_of, self._had[one.name]))
            detail = f"{detail}, instead of {had}"
        if one.families is Families.PREFER_DUAL and len(has) == 1:
            detail += f"; no IPv{IPV4 + IPV6 - family_of(has[0])} address of it is free"
        return Grant(tuple(map(text_of, has)), entry.name, why, detail)

    def _refusal(self, one: Request) -> Refusal:
        asked = self._asked.get(one.name)
        if asked is None:
            why = none_found(self._book, one)
        else:
            why = not_possible(self._book, one, asked) or taken(self._book, one, asked)
        if one.name in self._has:
            keeps = " and ".join(map(text_of, self._has[one.name]))
            why = Refusal(why.reason, f"{why.detail}; until then it keeps {keeps}")
        return why


def _order(one: Request) -> tuple[int, int]:
    """The IP versions, the one that comes first first."""
    return (IPV6, IPV4) if one.first_family == IPV6 else (IPV4, IPV6)


def _stages(one: Request) -> list[list[tuple[int, ...]]]:
    """Sets of IP versions to look for: any of a stage will do before the next stage."""
    first, other = _order(one)
    if one.families is Families.REQUIRE_DUAL:
        return [[(first, other)]]
    if one.families is Families.PREFER_DUAL:
        return [[(first, other)], [(first,), (other,)]]
    return [[(first,), (other,)]] if one.first_family is None else [[(first,)]]


def _gives(entry: PoolEntry, one: Request) -> bool:
    """Whether the pool, which fits, gives the request new addresses."""
    if entry.pool is None:
        return one.pool is None
    if entry.is_disabled:
        return False
    return entry.name == one.pool if one.pool else bool(one.addresses) or entry.pool.auto_assign


def _held(one: Request, texts: Iterable[str]) -> tuple[int, ...]:
    """What it has: one of each IP version, the first family's first."""
    found: dict[int, int] = {}
    for address in map(number_of, texts):
        if address != NO_ADDRESS:
            found.setdefault(family_of(address), address)
    return tuple(found[family] for family in _order(one) if family in found)
