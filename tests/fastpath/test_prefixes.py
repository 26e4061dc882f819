"""CIDR prefixes become the fewest ranges."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.prefixes import merged

MAPPED = 0xFFFF << 32


def test_neighbours_and_nested_prefixes_become_one_range() -> None:
    base = MAPPED + int(ip_address("10.0.0.0"))
    assert merged(["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32"]) == [(base, base + 511)]


def test_ipv6_and_ipv4_do_not_meet() -> None:
    assert len(merged(["fd00::/8", "0.0.0.0/0"])) == 2


def test_what_is_no_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="10.0.0"):
        merged(["10.0.0.300/8"])


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(20, 32)), max_size=20),
    st.integers(0, 2**32 - 1),
)
def test_an_address_is_in_a_range_when_it_is_in_a_prefix(
    wanted: list[tuple[int, int]], asked: int
) -> None:
    networks = [ip_network((number, size), strict=False) for number, size in wanted]
    asked = asked if not networks else int(networks[0].network_address) ^ (asked & 0xFFF)
    ranges = merged([str(one) for one in networks])
    assert all(one[1] + 1 < two[0] for one, two in pairwise(ranges))
    found = any(first <= MAPPED + asked <= last for first, last in ranges)
    assert found == any(ip_address(asked) in one for one in networks)
