"""Why a request gets no address: the reason, what is in the way and where, and what would help."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from piagent.core.address_book import (
    IPV4,
    IPV6,
    NO_ADDRESS,
    AddressBook,
    PoolEntry,
    family_of,
    number_of,
    text_of,
)
from piagent.core.allocation_types import AllocationReason, Refusal, Request
from piagent.core.model import Families
from piagent.core.text import printable

_Why = AllocationReason
_SHOWN = 5
"""So many names are enough of a list."""


def not_possible(book: AddressBook, one: Request, asked: Sequence[int]) -> Refusal | None:
    """Why it cannot have the addresses that it names, whoever has them; None: it can."""
    return _bad_addresses(one, asked) or _bad_pool(book, one, asked)


def _bad_addresses(one: Request, asked: Sequence[int]) -> Refusal | None:
    if NO_ADDRESS in asked:
        text = next(text for text in one.addresses if number_of(text) == NO_ADDRESS)
        what = f'"{printable(text)}" is no address: write one like 192.168.1.240 or fd00::f0'
        return Refusal(_Why.MALFORMED, what)
    families = [family_of(address) for address in asked]
    named = " and ".join(one.addresses)
    if len(families) > len(set(families)):
        what = f"{named} are of one IP version: name one, or one IPv4 and one IPv6 address"
    elif one.families is Families.SINGLE and len(asked) > 1:
        what = f'{named} are two: name one, or write ip_family_policy = "prefer-dual"'
    elif one.families is Families.SINGLE and one.first_family not in {None, families[0]}:
        what = f"{named} is not IPv{one.first_family}, which is asked for: leave one of them out"
    elif one.families is Families.REQUIRE_DUAL and len(asked) == 1:
        missing = IPV4 + IPV6 - families[0]
        what = f"{named} is one address, and two are required: name one of IPv{missing} as well"
    else:
        return None
    return Refusal(_Why.FAMILIES_DIFFER, what)


def _bad_pool(book: AddressBook, one: Request, asked: Sequence[int]) -> Refusal | None:
    for address in asked:
        if not any(entry.has_type(one.type) for entry in book.pools_of(address)):
            return _outside(book, one, address)
    named = " and ".join(map(text_of, asked))
    common = [entry for entry in book.having(asked) if entry.has_type(one.type)]
    if not common:
        return Refusal(_Why.TWO_POOLS, f"{named} are of two pools: name two addresses of one")
    if one.pool is not None:
        if (missing := _unknown_pool(book, one)) is not None:
            return missing
        common = [entry for entry in common if entry.name == one.pool]
        if not common:
            what = f'{named}: not in pool "{one.pool}", which is asked for, too: leave one out'
            return Refusal(_Why.OTHER_POOL, what)
    selecting = [entry for entry in common if entry.selects(one)]
    if not selecting:
        return _not_selected(common)
    if all(entry.is_disabled for entry in selecting):
        return _disabled(selecting)
    return None


def _outside(book: AddressBook, one: Request, address: int) -> Refusal:
    text = text_of(address)
    for entry in book.in_spans(address):
        if entry.has_type(one.type):
            what = f"{text} ends in .0 or .255, and {_named([entry])} has avoid_buggy_ips = true"
            return Refusal(_Why.AVOIDED, f"{what}: name another address")
    what = f'{text} is in no pool with type = "{one.type}": name an address of one, or add it'
    return Refusal(_Why.OUTSIDE_POOLS, what)


def _unknown_pool(book: AddressBook, one: Request) -> Refusal | None:
    names = [entry.name for entry in book.pools if entry.name and entry.has_type(one.type)]
    if one.pool in names:
        return None
    there = ", ".join(filter(None, names)) or "none"
    what = f'there is no pool "{one.pool}" with type = "{one.type}": there is {there}'
    return Refusal(_Why.UNKNOWN_POOL, what)


def _not_selected(entries: Sequence[PoolEntry]) -> Refusal:
    wanted = entries[0].pool.services if entries[0].pool else {}
    labels = ", ".join(f"{name} = {value}" for name, value in sorted(wanted.items()))
    what = f"{_named(entries)}: for services with other labels only"
    return Refusal(_Why.NOT_SELECTED, f"{what}; {_named(entries[:1])} wants {labels}")


def _disabled(entries: Sequence[PoolEntry]) -> Refusal:
    what = f"{_named(entries)}: disabled, it gives nothing new: enable it, or ask elsewhere"
    return Refusal(_Why.POOL_DISABLED, what)


def taken(book: AddressBook, one: Request, asked: Sequence[int]) -> Refusal:
    """Who has the addresses that it names."""
    for address in asked:
        use, text = book.use(address), text_of(address)
        if use.admits(one) or use.names == {one.name}:
            continue
        if not use.has_key_of(one):
            what = f"{text} is used by {_some(use.sorted_names())}"
            cure = "name another, or give all of them one sharing_key"
            return Refusal(_Why.IN_USE, f"{what}: {cure}")
        if use.local != one.local:
            what = f"{text} is used by {_some(use.sorted_names())} with another traffic_policy"
            cure = "or with other backends: they can be shared by equal ones only"
            return Refusal(_Why.POLICY_DIFFERS, f"{what}, {cure}")
        clashes = {port: use.ports[port] for port in one.ports if port in use.ports}
        if others := sorted(set(clashes.values()) - {one.name}):
            ports = sorted(f"{port[1]}/{port[0]}" for port in clashes if clashes[port] in others)
            what = f"{text}: {_some(ports)} used by {_some(others)}"
            return Refusal(_Why.PORT_IN_USE, f"{what}: another port or address")
    named = " and ".join(map(text_of, asked))
    what = f"{named}: asked for by several, of which none can have all that it asks for"
    return Refusal(_Why.IN_USE, f"{what}: name other addresses")


def none_found(book: AddressBook, one: Request) -> Refusal:
    """Why there is no address for a request that names none."""
    typed = [entry for entry in book.pools if entry.has_type(one.type)]
    if one.pool is not None:
        if (missing := _unknown_pool(book, one)) is not None:
            return missing
        typed = [entry for entry in typed if entry.name == one.pool]
    if not typed:
        what = f'there is no pool with type = "{one.type}": write a [[pool]] with addresses'
        return Refusal(_Why.NO_POOL, what)
    selecting = [entry for entry in typed if entry.selects(one)]
    if not selecting:
        return _not_selected(typed)
    giving = [entry for entry in selecting if one.pool or (entry.pool and entry.pool.auto_assign)]
    if not giving:
        what = f"{_named(selecting)}: gives addresses only to those who name it or one of these"
        return Refusal(_Why.ONLY_BY_NAME, what)
    enabled = [entry for entry in giving if not entry.is_disabled]
    if not enabled:
        return _disabled(giving)
    return _used_up(one, enabled)


def _used_up(one: Request, entries: Sequence[PoolEntry]) -> Refusal:
    wanted: set[int] = set()
    if one.families is Families.REQUIRE_DUAL:
        wanted, what = {IPV4, IPV6}, "an IPv4 and an IPv6 address of one pool"
    elif one.families is Families.SINGLE and one.first_family is not None:
        wanted, what = {one.first_family}, f"an IPv{one.first_family} address"
    else:
        what = "an address"
    able = [entry for entry in entries if all(entry.ranges[family].spans for family in wanted)]
    if not able:
        return Refusal(_Why.NO_FAMILY, f"{_named(entries)}: cannot give {what}: add some to it")
    detail = f"{_named(able)}: cannot give {what}: all are in use; add some, or free some"
    return Refusal(_Why.EXHAUSTED, detail)


def _named(entries: Iterable[PoolEntry]) -> str:
    names = [entry.name or "" for entry in entries]
    return f"pool{'s' if len(names) > 1 else ''} {_some(names)}"


def _some(names: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
