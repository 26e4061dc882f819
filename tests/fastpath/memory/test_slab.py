"""The slab against a set of indexes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.memory._probe", reason="built with PIAGENT_PROBE=1 only")


@given(
    n_objects=st.integers(0, 20),
    size=st.integers(8, 100),
    steps=st.lists(st.integers(-1, 19), max_size=100),
)
def test_every_object_is_given_out_once_until_it_is_put_back(
    n_objects: int, size: int, steps: list[int]
) -> None:
    slab = probe.Slab(n_objects, size)
    held: list[int] = []
    for step in steps:
        if step >= 0 and held:
            slab.put(held.pop(step % len(held)))
        else:
            index = slab.get()
            if len(held) == n_objects:
                assert index is None
            else:
                assert index not in held
                assert 0 <= index < n_objects
                held.append(index)
        assert slab.n_used == len(held)


def test_the_object_put_back_last_is_given_out_first() -> None:
    slab = probe.Slab(3, 16)
    first, second = slab.get(), slab.get()
    slab.put(second)
    slab.put(first)
    assert [slab.get(), slab.get()] == [first, second]
