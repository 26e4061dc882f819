"""The vocabulary of giving out addresses and node ports: what is asked, what is given, and why."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from piagent.core.model import Families, PoolType, Protocol


class AllocationReason(StrEnum):
    """Why something is given, or is not: docs/reference/reasons.md."""

    # given
    KEPT = "kept"
    """It had it, and may keep it."""
    ASKED = "asked"
    """It asked for it by name or number."""
    ASSIGNED = "assigned"
    """The lowest one that was free."""
    JOINED = "joined"
    """The lowest address of its sharing key that its ports are free on."""
    ADDED = "added"
    """To the address that it had, the other IP version's from the same pool."""
    REASSIGNED = "reassigned"
    """Instead of what it had and could not keep."""
    # refused, as long as the request or the pools stay as they are
    MALFORMED = "malformed"
    """What is asked for is not an address."""
    OUTSIDE_POOLS = "outside-pools"
    """The address is in no pool of the type."""
    AVOIDED = "avoided"
    """It ends in .0 or .255, and its pool has avoid_buggy_ips."""
    OTHER_POOL = "other-pool"
    """The address is not in the pool that is asked for as well."""
    TWO_POOLS = "two-pools"
    """The two addresses are not of one pool."""
    FAMILIES_DIFFER = "families-differ"
    """The addresses do not go with the IP versions that are asked for."""
    NO_POOL = "no-pool"
    """There is no pool of the type."""
    UNKNOWN_POOL = "unknown-pool"
    """There is no pool of the name and type."""
    NOT_SELECTED = "not-selected"
    """The pool is for services with other labels."""
    ONLY_BY_NAME = "only-by-name"
    """All pools that fit have auto_assign = false."""
    POOL_DISABLED = "pool-disabled"
    """The pool gives nothing new."""
    NO_FAMILY = "no-family"
    """No pool that fits has addresses of the IP version, or of both when both are required."""
    OUT_OF_RANGE = "out-of-range"
    """The node port is not one of those that services may have."""
    # refused, as long as others have what they have
    IN_USE = "in-use"
    """Somebody else has it, and does not share it."""
    PORT_IN_USE = "port-in-use"
    """The address may be shared, and a port of it is taken."""
    POLICY_DIFFERS = "policy-differs"
    """The address may be shared, but not by these two traffic policies."""
    EXHAUSTED = "exhausted"
    """None is free."""


class Request(Struct, frozen=True, kw_only=True):
    """What one service or gateway asks for, in one type of pool."""

    name: str
    """"service/web", "gateway/web": unique, and otherwise of no meaning here."""
    type: PoolType
    addresses: tuple[str, ...] = ()
    """Asked for by name; at most one of each IP version."""
    pool: str | None = None
    """Asked for by name; None: any with auto_assign."""
    families: Families = Families.SINGLE
    first_family: int | None = None
    """4 or 6: of a single address; of two, the one that comes first. None: IPv4 if there is one."""
    sharing_key: str | None = None
    ports: frozenset[tuple[Protocol, int]]
    labels: Mapping[str, str] = {}
    """For pools that are for some services only."""
    local: tuple[str, ...] | None = None
    """With `traffic_policy = "local"`: what tells its backends from others'. None: "cluster"."""


class Grant(Struct, frozen=True):
    """What somebody has from now on."""

    addresses: tuple[str, ...]
    """One, or one of each IP version with the first family's first; canonical."""
    pool: str | None
    """Where they are from; None: loopback addresses, which every host has by itself."""
    reason: AllocationReason
    detail: str


class Refusal(Struct, frozen=True):
    """Why somebody does not have what it asks for."""

    reason: AllocationReason
    detail: str
    """What is in the way, where, and what would help."""


class Count(Struct, frozen=True):
    """How many addresses of one IP version a pool has: as many as 2**128, so beware of JSON."""

    total: int
    """Those to be avoided do not count."""
    used: int
    """A shared one counts once."""
    free: int
    """Also of a disabled pool."""


class Allocation(Struct, frozen=True):
    """Who has what, who does not, and what is left."""

    given: Mapping[str, Grant]
    refused: Mapping[str, Refusal]
    """A request may be in both: it keeps what it has until what it asks for can be given."""
    pools: Mapping[str, Mapping[int, Count]]
    """Pool -> IP version -> how many; versions of which the pool has none are left out."""
