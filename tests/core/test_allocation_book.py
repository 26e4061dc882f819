"""The book of what is used finds the next free address as one who looks at all of them does."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from piagent.core.address_book import (
    NO_ADDRESS,
    AddressBook,
    Ranges,
    family_of,
    number_of,
    text_of,
)
from tests.core.allocating import ask
from tests.core.allocation_worlds import IPV4, IPV6, addresses_of, family, in_order, pools_of


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("10.0.0.1", "10.0.0.1"), ("FD00:0::1", "fd00::1"), ("::", "::"), ("::ffff:1.2.3.4", None)],
)
def test_an_address_is_a_number_and_back(text: str, canonical: str | None) -> None:
    number = number_of(text)
    assert text_of(number) == (canonical or "::ffff:102:304")
    assert family_of(number) == family(text)


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.01", "fe80::1%eth0", "10.0.0.0/24", "x"])
def test_what_is_no_address_has_no_number(text: str) -> None:
    assert number_of(text) == NO_ADDRESS


def test_ipv4_comes_before_ipv6() -> None:
    assert number_of("255.255.255.255") < number_of("::")
    assert number_of("0.0.0.1") != number_of("::1")


def next_ones_are_right(seed: int) -> bool:
    """Take and give back at random; whether the next one was the first free one, each time."""
    random = Random(seed)
    pools = tuple(replace(one, disabled=False) for one in pools_of(random))
    book = AddressBook(pools)
    users = {address: ask(address) for address in (*IPV4, *IPV6)}
    used: set[str] = set()
    for _ in range(40):
        for pool, entry in zip(in_order(pools), book.pools, strict=True):
            assert entry.name == pool.name
            for version in (4, 6):
                there = [a for a in addresses_of(pool) if family(a) == version and a not in used]
                found = book.lowest_free(entry, version)
                if (None if found is None else text_of(found)) != next(iter(there), None):
                    return False
        address = random.choice(IPV4 + IPV6)
        move = book.give_back if address in used else book.take
        move(number_of(address), users[address])
        used ^= {address}
    return True


@settings(deadline=None)
@given(st.integers(0, 1 << 64))
def test_the_next_address_is_the_first_one_that_is_free(seed: int) -> None:
    assert next_ones_are_right(seed)


def test_that_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given back has to come again."""
    monkeypatch.setattr(Ranges, "give_back", lambda *_: None)
    assert not all(next_ones_are_right(seed) for seed in range(100))
