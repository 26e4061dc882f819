"""CIDR prefixes -> the fewest ranges of addresses."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network

_MAPPED = 0xFFFF << 32
"""::ffff:0:0/96, where IPv4 addresses are (RFC 4291 section 2.5.5.2)."""


def merged(prefixes: Iterable[str]) -> list[tuple[int, int]]:
    """First and last address of each range, as 128-bit numbers: disjoint, ascending.

    IPv4 addresses count as their IPv4-mapped IPv6 ones. Raises ValueError for what is no prefix.
    """
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(map(_range, prefixes)):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return ranges


def _range(prefix: str) -> tuple[int, int]:
    network = ip_network(prefix)
    base = _MAPPED if isinstance(network, IPv4Network) else 0
    first = base + int(network.network_address)
    return first, first + network.num_addresses - 1
