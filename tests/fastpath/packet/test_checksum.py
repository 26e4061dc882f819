"""The Internet checksum: as published, beside a model, and brought up to date."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastpath.packet.frames import checksum, word_sum
from tests.shared_vectors import load_vectors

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")


def complement(word: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in word)


def published() -> dict[str, dict[str, str]]:
    vectors: dict[str, dict[str, str]] = load_vectors("l4_vectors.json")["checksum"]
    return vectors


def test_the_example_of_rfc_1071() -> None:
    example = published()["rfc1071"]
    found = probe.checksum_sum(bytes.fromhex(example["bytes"]))
    assert found.hex() == example["sum"]
    assert complement(found).hex() == example["checksum"]


def test_the_example_of_rfc_1624_where_equation_2_fails() -> None:
    example = published()["rfc1624"]
    old, was, new = (bytes.fromhex(example[name]) for name in ("HC", "m", "m_new"))
    found = probe.checksum_updated(old, was, new)
    assert found.hex() == example["HC_new"] != example["wrong_value_of_eqn2"]


def test_an_ipv4_header_with_its_checksum_sums_up_to_ones() -> None:
    header = bytes.fromhex(published()["ipv4_header_example"]["hdr_with_checksum"])
    assert probe.checksum_sum(header) == b"\xff\xff"


def test_each_beginning_of_the_kernels_random_bytes() -> None:
    kunit = published()["linux_kunit"]
    data, start = bytes.fromhex(kunit["buf_hex"]), int(kunit["init_sum_le"], 16)
    assert len(kunit["expected"]) == 96
    for size, expected in enumerate(kunit["expected"]):
        word = complement(probe.checksum_sum(data[:size], start))
        assert int.from_bytes(word, "little") == int(expected, 16), size


@given(st.binary(max_size=100))
def test_a_sum_is_the_models(data: bytes) -> None:
    assert probe.checksum_sum(data) == word_sum(data).to_bytes(2)


@given(st.integers(0, 2000))
def test_ones_and_zeros_are_summed_up_as_the_model_does(size: int) -> None:
    """All carries there can be, or none."""
    for data in (b"\xff" * size, bytes(size)):
        assert probe.checksum_sum(data) == word_sum(data).to_bytes(2)


WORDS = st.integers(0, 8).map(lambda n: 2 * n)


@given(st.data(), WORDS, WORDS, WORDS)
def test_a_checksum_that_is_brought_up_to_date_is_that_from_scratch(
    data: st.DataObject, before: int, size: int, after: int
) -> None:
    head, tail = (data.draw(st.binary(min_size=n, max_size=n)) for n in (before, after))
    some = st.binary(min_size=size, max_size=size) | st.sampled_from([bytes(size), b"\xff" * size])
    old, new = data.draw(some), data.draw(some)
    if not any(head + tail):
        tail += b"\0\1"  # nothing but zeros has a sum of its own
    was = checksum(head + old + tail).to_bytes(2)
    assert probe.checksum_updated(was, old, new) == checksum(head + new + tail).to_bytes(2)


def test_a_udp_checksum_of_0_stays_and_none_becomes_0() -> None:
    assert probe.checksum_updated(b"\0\0", b"\0\1", b"\0\2", udp=True) == b"\0\0"
    old, was, new = b"\xdd\x2f", b"\x55\x55", b"\x32\x85"
    assert probe.checksum_updated(old, was, new, udp=True) == b"\xff\xff"
    assert probe.checksum_updated(b"\xff\xff", new, was, udp=True) == old
