"""CRC-32C: published values, and the bits one by one beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastpath.proxy.proxy_headers import crc32c as bit_by_bit

probe = pytest.importorskip("fastpath.hashing._probe", reason="built with PIAGENT_PROBE=1 only")


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4; its bytes are in the order they are sent in
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_published_values(data: bytes, crc: int) -> None:
    assert probe.crc32c(0, data) == crc


@given(st.binary(max_size=200), st.integers(0, 200))
def test_parts_follow_each_other(data: bytes, cut: int) -> None:
    assert probe.crc32c(probe.crc32c(0, data[:cut]), data[cut:]) == bit_by_bit(data)
