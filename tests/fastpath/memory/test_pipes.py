"""The pool of pipes that streams are spliced through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastpath.peers import pipe_ends

probe = pytest.importorskip("fastpath.memory._probe", reason="built without PIAGENT_PROBE=1")

PIPES_MAX = 32


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from("gpda"), st.integers(0, 5)), max_size=40),
)
def test_never_more_than_allowed_and_none_is_given_twice(
    n_max: int, steps: list[tuple[str, int]]
) -> None:
    before = pipe_ends()
    pipes = probe.Pipes(n_max)
    out: list[int] = []
    for step, number in steps:
        if step == "g":
            got = pipes.get()
            if got is None:
                assert len(out) >= n_max
            else:
                assert got[0] not in out
                assert got[1] >= 65536
                out.append(got[0])
        elif step == "a":
            n_max = number
            pipes.allow(n_max)
        elif out:
            pipes.put(out.pop(number % len(out)), held=0 if step == "p" else 7)
        assert pipe_ends() - before == 2 * pipes.n_made
    for index in out:
        pipes.put(index, held=0)
    del pipes
    assert pipe_ends() == before


def test_a_pipe_with_bytes_in_it_is_never_given_to_another() -> None:
    pipes = probe.Pipes(PIPES_MAX)
    index, _ = pipes.get()
    pipes.put(index, held=1)
    assert pipes.n_made == 0
    index, _ = pipes.get()
    pipes.put(index, held=0)
    assert pipes.n_made == 1
