"""What the tests of giving out addresses write pools and requests with."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from piagent.core.allocation import Allocation, Request
from piagent.core.model import AddressRange, Families, Pool, PoolType, Protocol

LB, CLUSTER = PoolType.LOAD_BALANCER, PoolType.CLUSTER
SINGLE, PREFER, REQUIRE = Families
HTTP = "80/tcp"


def pool(addresses: str, name: str = "lan", **more: Any) -> Pool:
    """`addresses` as in a file, blanks between them: CIDRs, ranges, single ones."""
    return Pool(name=name, addresses=tuple(map(span, addresses.split())), **more)


def span(text: str) -> AddressRange:
    first, dash, last = text.partition("-")
    if dash:
        return AddressRange(first=first, last=last)
    network = ip_network(text)
    return AddressRange(first=str(network[0]), last=str(network[-1]))


def ask(name: str, address: str = "", *, ports: str = HTTP, **more: Any) -> Request:
    """Addresses and ports with blanks between them; `key` is the sharing key."""
    more.setdefault("type", LB)
    more["sharing_key"] = more.pop("key", None)
    pairs = (port.split("/") for port in ports.split())
    return Request(
        name=name,
        addresses=tuple(address.split()),
        ports=frozenset((Protocol(protocol), int(number)) for number, protocol in pairs),
        **more,
    )


def held_of(allocation: Allocation) -> dict[str, tuple[str, ...]]:
    """What everybody has after it, for the next call."""
    return {name: grant.addresses for name, grant in allocation.given.items()}
