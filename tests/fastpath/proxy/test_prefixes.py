"""Sets of CIDR prefixes against Python's ipaddress."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpath.prefixes import merged

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")

MAPPED = 0xFFFF << 32
# Few bits differ, so that prefixes meet, enclose each other, and addresses fall on their borders.
V6_NUMBERS = st.builds(
    lambda high, middle, low: high << 124 | middle << 63 | low,
    st.sampled_from([0, 0, 1, 15]),
    st.integers(0, 3),
    st.sampled_from([0, 1, 2, 7, 8, MAPPED, MAPPED + 255, (1 << 63) - 1]),
)
V4_NUMBERS = st.sampled_from([0, 1, 255, 256, 10 << 24, (10 << 24) + 255, (1 << 32) - 1])
PREFIXES = st.builds(
    lambda number, bits: str(ip_network((number, bits), strict=False)),
    V6_NUMBERS.map(IPv6Address),
    st.integers(0, 128) | st.sampled_from([63, 64, 65, 96, 127]),
) | st.builds(
    lambda number, bits: str(ip_network((number, bits), strict=False)),
    V4_NUMBERS.map(IPv4Address),
    st.integers(0, 32),
)
ADDRESSES = (
    V6_NUMBERS.map(IPv6Address).map(str)
    | V4_NUMBERS.map(IPv4Address).map(str)
    | st.ip_addresses().map(str)
)


def as_v6(prefix: str) -> IPv6Network:
    network = ip_network(prefix)
    if isinstance(network, IPv6Network):
        return network
    return IPv6Network((MAPPED + int(network.network_address), 96 + network.prefixlen))


def is_in(address: str, prefixes: list[str]) -> bool:
    number = int(ip_address(address)) + (0 if ":" in address else MAPPED)
    return any(IPv6Address(number) in as_v6(prefix) for prefix in prefixes)


def borders(prefixes: list[str]) -> list[str]:
    """The addresses right inside and right outside of each."""
    ends = [
        end
        for network in map(as_v6, prefixes)
        for first, last in [(int(network[0]), int(network[-1]))]
        for end in (first - 1, first, last, last + 1)
    ]
    return [str(IPv6Address(end)) for end in ends if 0 <= end < 1 << 128]


@settings(max_examples=500)
@given(st.lists(PREFIXES, max_size=12), st.lists(ADDRESSES, max_size=12))
@example(["::/0"], ["::", "0.0.0.0"])
@example([], ["::", "0.0.0.0"])
def test_an_address_is_in_the_set_when_one_prefix_has_it(
    prefixes: list[str], addresses: list[str]
) -> None:
    found = probe.Prefixes(merged(prefixes))
    for address in addresses + borders(prefixes):
        assert (address in found) == is_in(address, prefixes), address


def test_both_forms_of_an_ipv4_address_are_one() -> None:
    private = probe.Prefixes(merged(["10.0.0.0/8", "2001:db8::/32"]))
    for address in ("10.255.255.255", "::ffff:10.255.255.255", "2001:db8::a00:1"):
        assert address in private
    for address in ("11.0.0.0", "::ffff:11.0.0.0", "::10.0.0.1", "::a00:1", "a00::"):
        assert address not in private
    assert "10.1.1.1" in probe.Prefixes(merged(["::ffff:10.0.0.0/104"]))
    assert "10.1.1.1" in probe.Prefixes(merged(["::/0"]))


def test_a_thousand_prefixes_are_told_apart() -> None:
    chance = random.Random(1)
    numbers = chance.sample(range(1, 1 << 23), 1024)
    prefixes = [str(ip_network((number << 9, 24))) for number in numbers]
    found = probe.Prefixes(merged(prefixes))
    for number in numbers:
        first = number << 9
        assert str(IPv4Address(first)) in found
        assert str(IPv4Address(first + 255)) in found
        assert str(IPv4Address(first + 256)) not in found
        assert str(IPv4Address(first - 1)) not in found
