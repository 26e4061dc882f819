"""The ring against a deque, and between two threads."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.memory._probe", reason="built with PIAGENT_PROBE=1 only")


@given(
    exponent=st.integers(0, 4),
    size=st.integers(1, 40),
    puts=st.lists(st.booleans(), max_size=120),
)
def test_records_come_out_in_order_and_none_is_overwritten(
    exponent: int, size: int, puts: list[bool]
) -> None:
    ring = probe.Ring(1 << exponent, size)
    model: deque[bytes] = deque()
    dropped = 0
    for number, is_put in enumerate(puts):
        if not is_put:
            assert ring.take() == (model.popleft() if model else None)
            continue
        record = bytes([number % 251]) * size
        taken = ring.put(record)
        assert taken == (len(model) < 1 << exponent)
        if taken:
            model.append(record)
        else:
            ring.drop()
            dropped += 1
        assert ring.dropped == dropped


def test_what_one_thread_puts_another_takes_whole_and_in_order() -> None:
    ring = probe.Ring(8, 64)
    n = 200_000
    producer = threading.Thread(target=ring.put_numbers, args=(n,))
    producer.start()
    assert ring.take_numbers(n) == 0
    producer.join()
    assert ring.take() is None


@pytest.mark.parametrize("n_records", [0, 3, 96])
def test_only_a_power_of_two_is_taken(n_records: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        probe.Ring(n_records, 8)
