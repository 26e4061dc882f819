"""XXH64 against the reference implementation's own sanity check."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared_vectors import load_vectors

probe = pytest.importorskip("fastpath.hashing._probe", reason="built without PIAGENT_PROBE=1")


def sanity_buffer(size: int) -> bytes:
    """The bytes that the reference's check hashes."""
    state, content = 2654435761, bytearray()
    for _ in range(size):
        content.append(state >> 56)
        state = state * 11400714785074694797 % (1 << 64)
    return bytes(content)


def test_xxh64_gives_the_published_values() -> None:
    rows = load_vectors("l4_vectors.json")["xxhash"]["xxh64"]
    got = [(size, seed, f"{probe.xxh64(sanity_buffer(size), seed):016x}") for size, seed, _ in rows]
    assert got == [tuple(row) for row in rows]


@given(data=st.binary(max_size=200), seed=st.integers(0, 2**64 - 1))
def test_the_address_of_the_data_does_not_matter(data: bytes, seed: int) -> None:
    assert {xxh for _, xxh in probe.unaligned(data, bytes(16), seed)} == {probe.xxh64(data, seed)}


@given(data=st.binary(min_size=1, max_size=200), at=st.integers(0, 199), bit=st.integers(0, 7))
def test_every_bit_of_the_data_matters(data: bytes, at: int, bit: int) -> None:
    other = bytearray(data)
    other[at % len(data)] ^= 1 << bit
    assert probe.xxh64(bytes(other), 0) != probe.xxh64(data, 0)
