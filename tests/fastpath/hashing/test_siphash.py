"""SipHash against its authors' vectors, against CPython's own, and against a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared_vectors import load_vectors

probe = pytest.importorskip("fastpath.hashing._probe", reason="built without PIAGENT_PROBE=1")

MASK = (1 << 64) - 1
KEYS = st.binary(min_size=16, max_size=16)


def rotate(word: int, count: int) -> int:
    return (word << count | word >> (64 - count)) & MASK


def sip_round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a, c = (a + b) & MASK, (c + d) & MASK
    b, d = rotate(b, 13) ^ a, rotate(d, 16) ^ c
    a = rotate(a, 32)
    c, a = (c + b) & MASK, (a + d) & MASK
    b, d = rotate(b, 17) ^ c, rotate(d, 21) ^ a
    return a, b, rotate(c, 32), d


def model(key: bytes, data: bytes, word_rounds: int, final_rounds: int) -> int:
    """SipHash-c-d as section 2 of the paper writes it."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    start = b"somepseudorandomlygeneratedbytes"
    a, b, c, d = (
        int.from_bytes(start[at : at + 8], "big") ^ k
        for at, k in zip(range(0, 32, 8), (k0, k1, k0, k1), strict=True)
    )
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        d ^= word
        for _ in range(word_rounds):
            a, b, c, d = sip_round(a, b, c, d)
        a ^= word
    c ^= 0xFF
    for _ in range(final_rounds):
        a, b, c, d = sip_round(a, b, c, d)
    return a ^ b ^ c ^ d


def test_siphash24_gives_the_published_values() -> None:
    vectors = load_vectors("l4_vectors.json")["siphash"]
    key = bytes.fromhex(vectors["key_hex"])
    got = [probe.siphash24(key, bytes(range(n))).to_bytes(8, "little").hex() for n in range(64)]
    assert got == vectors["siphash24_64_le_hex"]


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this CPython hashes otherwise")
def test_siphash13_is_what_cpython_hashes_bytes_with() -> None:
    program = "import json; print(json.dumps([hash(bytes(range(n))) for n in range(1, 200)]))"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "0"},  # the key is all zeros then
        check=True,
        capture_output=True,
    )
    got = [probe.siphash13(bytes(16), bytes(range(n))) for n in range(1, 200)]
    assert got == [value & MASK for value in json.loads(answer.stdout)]


@given(key=KEYS, data=st.binary(max_size=300))
def test_both_agree_with_the_model(key: bytes, data: bytes) -> None:
    assert probe.siphash13(key, data) == model(key, data, 1, 3)
    assert probe.siphash24(key, data) == model(key, data, 2, 4)


@given(key=KEYS, data=st.binary(max_size=80))
def test_the_address_of_the_data_does_not_matter(key: bytes, data: bytes) -> None:
    assert {sip for sip, _ in probe.unaligned(data, key, 0)} == {probe.siphash13(key, data)}
