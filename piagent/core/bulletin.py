"""What nodes say of their files and of what registered itself with them; both are retained."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from piagent.core.address_book import (
    IPV4,
    IPV6,
    NO_ADDRESS,
    family_of,
    number_of,
    text_of,
)
from piagent.core.assignments import Assignments
from piagent.core.lease_types import Count, Incarnation
from piagent.core.model import AddressRange, Backend, Pool
from piagent.core.wants import Want

MAX_ENDPOINTS = 200
"""At one node."""
TTL_MAX_MS = 3_600_000
Word = Annotated[str, Meta(max_length=63)]


class Wants(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`wants/<node>`: the pools of a node's file, and what its services and gateways ask for."""

    incarnation: Incarnation
    at: Count
    """Unix milliseconds; what was said before it is void."""
    pools: tuple[Pool, ...] = ()
    wants: dict[str, Want] = {}


class Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program that joined a service, for as long as it says so."""

    service: Word
    address: Word
    port: Annotated[int, Meta(ge=1, le=65535)]
    only: Word | None = None
    """The name of the one service port that it serves."""
    weight: Annotated[int, Meta(ge=0, le=1000)] = 1
    left_ms: Annotated[int, Meta(ge=1, le=TTL_MAX_MS)]
    """For how long from now."""

    def backend(self, node: str) -> Backend:
        """It as one of the service's backends; `node` is where it registered itself."""
        return Backend(
            address=self.address, port=self.port, only=self.only, weight=self.weight, node=node
        )


class Endpoints(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`endpoints/<node>`: what registered itself at a node."""

    incarnation: Incarnation
    at: Count
    """Unix milliseconds; what was said before it is void."""
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=MAX_ENDPOINTS)] = ()


def is_sound(said: Assignments | Wants | Endpoints) -> bool:
    """Whether its addresses are addresses, its IP versions those that there are, its pools named.

    A node may have another version of this program, or a fault.
    """
    if isinstance(said, Endpoints):
        return all(_is_address(one.address) for one in said.endpoints)
    if isinstance(said, Assignments):
        return all(
            _is_address(address)
            for one in said.given.values()
            for address in (*one.vips, *one.cluster_ips)
        )
    wants = said.wants.values()
    spans = (span for pool in said.pools for span in pool.addresses)
    return all(map(_is_range, spans)) and not any(
        one.first_family not in {None, IPV4, IPV6} or one.pool == "" for one in wants
    )


def _is_address(text: str) -> bool:
    """Whether it is one in the spelling that all nodes use."""
    number = number_of(text)
    return number != NO_ADDRESS and text_of(number) == text


def _is_range(span: AddressRange) -> bool:
    first, last = number_of(span.first), number_of(span.last)
    return NO_ADDRESS < first <= last and family_of(first) == family_of(last)


def is_newer(said: Wants | Endpoints, before: Wants | Endpoints, *, fresh: bool) -> bool:
    """Whether a node said it after what is known of it.

    A host without a clock of its own may be back in the past after a restart, so what was
    published just now by another life of it counts whatever its time. Who replays an old life's
    words is corrected by the node, which hears them, too.
    """
    if said.incarnation != before.incarnation and fresh:
        return True
    return said.at > before.at
