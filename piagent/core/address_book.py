"""Which addresses of which pools are in use, by whom, and which one is the next.

An address is one integer here: that of IPv4 as it is, that of IPv6 above all of IPv4's. No step
looks at all of a pool. The next free address is found by a position that moves on over addresses
in use, once over each of them, and a heap of those that were given back behind it.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import heappop, heappush
from ipaddress import IPv4Address, IPv6Address, ip_address

from piagent.core.allocation_types import Count, Request
from piagent.core.model import AddressRange, Pool, PoolType, Protocol

IPV4, IPV6 = 4, 6
NO_ADDRESS = -1
"""In place of what is none; no pool has it."""

_IPV6_BIT = 1 << 128
_LOOPBACK = (
    AddressRange(first="127.0.0.0", last="127.255.255.255"),
    AddressRange(first="::1", last="::1"),
)


def number_of(text: str) -> int:
    """The address as a number; NO_ADDRESS: it is none, or one of a single link (`%eth0`)."""
    try:
        address = ip_address(text)
    except ValueError:
        return NO_ADDRESS
    if isinstance(address, IPv4Address):
        return int(address)
    return NO_ADDRESS if address.scope_id else int(address) | _IPV6_BIT


def text_of(number: int) -> str:
    """The address as canonical text."""
    if number & _IPV6_BIT:
        return str(IPv6Address(number ^ _IPV6_BIT))
    return str(IPv4Address(number))


def family_of(number: int) -> int:
    """4 or 6."""
    return IPV6 if number & _IPV6_BIT else IPV4


class Use:
    """Who uses one address. All that share it have one key and one policy, and no port twice."""

    __slots__ = ("_sorted", "key", "local", "names", "ports")

    def __init__(self) -> None:
        self.key: str | None = None
        self.local: tuple[str, ...] | None = None
        self.ports: dict[tuple[Protocol, int], str] = {}
        """Port -> who serves it."""
        self.names: set[str] = set()
        self._sorted: list[str] | None = None

    def add(self, request: Request) -> None:
        """One more user, that `admits` has let pass."""
        self.key, self.local = request.sharing_key, request.local
        self.ports.update(dict.fromkeys(request.ports, request.name))
        self.names.add(request.name)
        self._sorted = None

    def remove(self, request: Request) -> None:
        """One user less."""
        self.names.remove(request.name)
        self._sorted = None
        for port in request.ports:
            self.ports.pop(port, None)

    def sorted_names(self) -> list[str]:
        """The users by name, sorted once for all that are told of them."""
        if self._sorted is None:
            self._sorted = sorted(self.names)
        return self._sorted

    def has_key_of(self, request: Request) -> bool:
        """Whether both may be shared, and with each other."""
        return self.key is not None and self.key == request.sharing_key

    def admits(self, request: Request) -> bool:
        """Whether the request may use the address besides all others that do."""
        if not self.names:
            return True
        return (
            self.has_key_of(request)
            and self.local == request.local
            and self.ports.keys().isdisjoint(request.ports)
        )

    def blockers(self, request: Request) -> Iterator[str]:
        """Who would have to leave for the request to use it; some more than once."""
        if self.has_key_of(request) and self.local == request.local:
            found = [self.ports[port] for port in request.ports if port in self.ports]
            return (name for name in found if name != request.name)
        return (name for name in self.names if name != request.name)


class Ranges:
    """The addresses of one IP version that one pool has."""

    def __init__(self, spans: Iterable[tuple[int, int]], *, avoid_buggy: bool) -> None:
        self.spans = tuple(spans)
        """First and last, in the order in which they are given out."""
        self._avoid_buggy = avoid_buggy
        self._at = 0
        self._next = self.spans[0][0] if self.spans else 0
        """All that come before this one, which is in span `_at`, are used or to be avoided, or
        else in `_freed`."""
        self._freed: list[tuple[int, int]] = []
        """Heap of (index of the span, address)."""

    def avoids(self, address: int) -> bool:
        """Whether it is not to be used although it is in a span.

        As MetalLB has it (internal/allocator/allocator.go, `poolFor`): such an address is in no
        respect one of the pool's. It is not given to those who ask for it, either.
        """
        return self._avoid_buggy and address & 0xFF in {0, 255}

    def lowest_free(self, used: Collection[int]) -> int | None:
        """The first address that is not in use."""
        while self._freed:
            address = self._freed[0][1]
            if address not in used:
                return address
            heappop(self._freed)
        while self._at < len(self.spans):
            last = self.spans[self._at][1]
            while self._next <= last:
                if self._next not in used and not self.avoids(self._next):
                    return self._next
                self._next += 1
            self._at += 1
            if self._at < len(self.spans):
                self._next = self.spans[self._at][0]
        return None

    def give_back(self, index: int, address: int) -> None:
        """An address of the span of that index is used no more."""
        if (index, address) < (self._at, self._next) and not self.avoids(address):
            heappush(self._freed, (index, address))

    def total(self) -> int:
        """How many there are, each once."""
        count, reached = 0, -1
        for first, last in sorted(self.spans):
            start = max(first, reached + 1)
            if start <= last:
                count += last - start + 1
                if self._avoid_buggy:
                    count -= _buggy_below(last + 1) - _buggy_below(start)
                reached = last
        return count


def _buggy_below(number: int) -> int:
    """How many numbers from 0 on and below this one end in 0 or 255, as bytes."""
    return (number + 255) // 256 + number // 256


class PoolEntry:
    """A pool, as a page of the book."""

    def __init__(self, pool: Pool | None, rank: int) -> None:
        self.pool = pool
        """None: the loopback addresses, which are in no pool and everybody may ask for."""
        self.rank = rank
        spans: dict[int, list[tuple[int, int]]] = {IPV4: [], IPV6: []}
        for one in pool.addresses if pool else _LOOPBACK:
            first, last = number_of(one.first), number_of(one.last)
            if NO_ADDRESS not in {first, last} and family_of(first) == family_of(last):
                spans[family_of(first)].append((first, last))
        avoid = pool is not None and pool.avoid_buggy_ips
        self.ranges = {
            family: Ranges(found, avoid_buggy=avoid and family == IPV4)
            for family, found in spans.items()
        }

    @property
    def name(self) -> str | None:
        """The pool's."""
        return self.pool.name if self.pool else None

    def has_type(self, wanted: PoolType) -> bool:
        """Whether its addresses are for such users."""
        return self.pool is None or self.pool.type is wanted

    def selects(self, request: Request) -> bool:
        """Whether the labels of the request are those that the pool is for."""
        return self.pool is None or self.pool.services.items() <= request.labels.items()

    def fits(self, request: Request) -> bool:
        """Both."""
        return self.has_type(request.type) and self.selects(request)

    @property
    def is_disabled(self) -> bool:
        """Whether it gives nothing new."""
        return self.pool is not None and self.pool.disabled


_Key = tuple[str, int]
"""Sharing key and IP version."""


class AddressBook:
    """All pools, and who uses which address."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        ordered = sorted(pools, key=lambda pool: (pool.priority == 0, pool.priority, pool.name))
        self.pools = tuple(PoolEntry(pool, rank) for rank, pool in enumerate(ordered))
        """By priority, then by name."""
        self._uses: dict[int, Use] = {}
        self._by_key: defaultdict[_Key, list[int]] = defaultdict(list)
        """The addresses that are used with a sharing key, sorted."""
        self._by_port: Counter[tuple[_Key, tuple[Protocol, int]]] = Counter()
        """On how many of them a port is taken."""
        entries = (*self.pools, PoolEntry(None, len(ordered)))
        self._starts, self._covers = _index(entries)
        self._entries = [
            sorted({entry for entry, _, _ in covers}, key=lambda entry: entry.rank)
            for covers in self._covers
        ]
        self._fitting: dict[tuple[PoolType, frozenset[tuple[str, str]]], list[PoolEntry]] = {}

    def use(self, address: int) -> Use:
        """Who uses an address: possibly nobody."""
        return self._uses.get(address) or Use()

    def in_spans(self, address: int) -> list[PoolEntry]:
        """The pools with a span that the address lies in, in their order; loopback is the last."""
        place = bisect_right(self._starts, address) - 1
        return self._entries[place] if place >= 0 else []

    def pools_of(self, address: int) -> list[PoolEntry]:
        """The pools that have the address, in their order; loopback is the last."""
        family = family_of(address)
        return [e for e in self.in_spans(address) if not e.ranges[family].avoids(address)]

    def having(self, addresses: Collection[int]) -> list[PoolEntry]:
        """The pools that have all of the addresses, as `pools_of`."""
        found: list[PoolEntry] | None = None
        for address in addresses:
            here = self.pools_of(address)
            found = here if found is None else [entry for entry in found if entry in here]
        return found or []

    def fitting(self, request: Request) -> list[PoolEntry]:
        """The pools that are for the request, in their order."""
        key = request.type, frozenset(request.labels.items())
        if key not in self._fitting:
            self._fitting[key] = [e for e in self.pools if e.fits(request)]
        return self._fitting[key]

    def take(self, address: int, request: Request) -> None:
        """From now on the request uses the address."""
        use = self._uses.get(address)
        is_first = use is None
        if use is None:
            use = self._uses[address] = Use()
        use.add(request)
        if request.sharing_key is not None:
            key = request.sharing_key, family_of(address)
            self._by_port.update((key, port) for port in request.ports)
            if is_first:
                insort(self._by_key[key], address)

    def give_back(self, address: int, request: Request) -> None:
        """From now on the request does not use the address any more."""
        use = self._uses[address]
        use.remove(request)
        if request.sharing_key is not None:
            key = request.sharing_key, family_of(address)
            self._by_port.subtract((key, port) for port in request.ports)
            if not use.names:
                self._by_key[key].remove(address)
        if not use.names:
            del self._uses[address]
            for _, ranges, index in self._covers[bisect_right(self._starts, address) - 1]:
                ranges.give_back(index, address)

    def lowest_shared(self, entry: PoolEntry, family: int, request: Request) -> int | None:
        """The lowest address of the pool that the request's key is used on, and may be by it."""
        if request.sharing_key is None:
            return None
        key = request.sharing_key, family
        addresses = self._by_key.get(key, ())
        if any(self._by_port[key, port] == len(addresses) for port in request.ports):
            return None
        for address in addresses:
            if self._uses[address].admits(request) and entry in self.pools_of(address):
                return address
        return None

    def lowest_free(self, entry: PoolEntry, family: int) -> int | None:
        """The first address of the pool that nobody uses."""
        return entry.ranges[family].lowest_free(self._uses)

    def counts(self) -> dict[str, Mapping[int, Count]]:
        """Pool -> IP version -> how many addresses it has and how many of them are used."""
        used = Counter(
            (entry.rank, family_of(address))
            for address in self._uses
            for entry in self.pools_of(address)
        )
        return {
            entry.pool.name: {
                family: Count(total, used[entry.rank, family], total - used[entry.rank, family])
                for family, ranges in entry.ranges.items()
                if (total := ranges.total()) or ranges.spans
            }
            for entry in self.pools
            if entry.pool is not None
        }


_Cover = tuple[PoolEntry, Ranges, int]
"""A pool, its addresses of one IP version, and the index of one span of these."""


def _index(entries: Iterable[PoolEntry]) -> tuple[list[int], list[tuple[_Cover, ...]]]:
    """Where the spans that cover an address change, sorted, and which ones do from there on."""
    begins: defaultdict[int, list[_Cover]] = defaultdict(list)
    ends: defaultdict[int, list[_Cover]] = defaultdict(list)
    for entry in entries:
        for ranges in entry.ranges.values():
            for index, (first, last) in enumerate(ranges.spans):
                if first <= last:
                    begins[first].append((entry, ranges, index))
                    ends[last + 1].append((entry, ranges, index))
    starts, covers = sorted(begins.keys() | ends.keys()), []
    open_now: list[_Cover] = []
    for start in starts:
        open_now = [one for one in open_now if one not in ends[start]] + begins[start]
        covers.append(tuple(open_now))
    return starts, covers
