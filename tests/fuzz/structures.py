"""The structures of the engine that are driven at random, and in which forms.

To add one: a subclass of Fuzz in a folder's `_fuzz.pyx` with the structure, a model and a `step`; a
line here; and a break of it in mutants.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CHUNK = 50_000
"""Steps for one seed and one form."""


class Structure(NamedTuple):
    """One of them."""

    module: str
    driver: str
    """The class of the module that drives it."""
    forms: dict[str, st.SearchStrategy[int]]
    """What its `__cinit__` takes besides the seed."""


STRUCTURES = {
    "slab": Structure(
        "fastpath.memory._fuzz",
        "SlabFuzz",
        {"n_objects": st.integers(0, 64), "object_size": st.integers(1, 200)},
    ),
    "ring": Structure(
        "fastpath.memory._fuzz",
        "RingFuzz",
        {
            "n_records": st.sampled_from([1, 2, 8, 64]),
            "record_size": st.integers(1, 64),
            "start": st.one_of(st.just(0), st.integers(2**64 - 100_000, 2**64 - 1)),
        },
    ),
    "wheel": Structure(
        "fastpath.memory._fuzz",
        "WheelFuzz",
        {
            "n_timeouts": st.integers(1, 64),
            "n_bits": st.integers(1, 27),
            "start": st.integers(0, 2**40),
        },
    ),
    "pipes": Structure(
        "fastpath.memory._fuzz",
        "PipesFuzz",
        {"n_max": st.integers(0, 32), "dirty": st.integers(1, 200)},
    ),
    "sessions": Structure(
        "fastpath.proxy._fuzz",
        "SessionsFuzz",
        {
            "n_keys": st.integers(1, 64),
            "n_hashes": st.integers(1, 8),
            "n_bits": st.integers(1, 18),
        },
    ),
    "clients": Structure(
        "fastpath.proxy._fuzz",
        "ClientsFuzz",
        {"capacity": st.integers(1, 80), "n_addresses": st.integers(1, 64)},
    ),
    "messages": Structure(
        "fastpath.http._fuzz",
        "MessagesFuzz",
        {"changes_max": st.integers(0, 6)},
    ),
    "packets": Structure(
        "fastpath.packet._fuzz",
        "PacketFuzz",
        {"changes_max": st.integers(0, 6)},
    ),
    "flows": Structure(
        "fastpath.packet._flows_fuzz",
        "FlowsFuzz",
        {
            "n_keys": st.integers(1, 64),
            "n_hashes": st.integers(1, 64),
            "n_bits": st.integers(1, 22),
            "new_max": st.integers(1, 24),
            "confirmed_max": st.integers(1, 24),
        },
    ),
    "fragments": Structure(
        "fastpath.packet._flows_fuzz",
        "FragmentsFuzz",
        {
            "n_keys": st.integers(1, 64),
            "capacity": st.integers(0, 80),
            "n_bits": st.integers(1, 14),
        },
    ),
    "nat_ports": Structure(
        "fastpath.packet._flows_fuzz",
        "NatPortsFuzz",
        {
            "n_ports": st.integers(1, 130),
            "n_workers": st.integers(1, 4),
            "n_bits": st.integers(1, 14),
        },
    ),
}


def fuzz(
    name: str,
    n_steps: int,
    *,
    choice: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Drive a structure for `n_steps` or more, with seeds and in forms that hypothesis chooses.

    Fails with the smallest form that it finds, the seed and the step after which the structure and
    its model differ. `choice` makes hypothesis choose the same again; `progress` hears how many
    steps were done.
    """
    structure = STRUCTURES[name]
    driver = getattr(importlib.import_module(structure.module), structure.driver)
    done = 0

    @settings(
        max_examples=-(-n_steps // CHUNK),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(seed=st.integers(0, 2**64 - 1), form=st.fixed_dictionaries(structure.forms))
    def drive(seed: int, form: dict[str, Any]) -> None:
        nonlocal done
        difference = driver(seed=seed, **form).run(CHUNK)
        done += CHUNK
        progress(done)
        assert difference is None, (
            f"{driver.__name__}(seed={seed}, {form}): after step {difference[0]}: {difference[1]}"
        )

    (drive if choice is None else hypothesis.seed(choice)(drive))()
    assert done >= n_steps, f"{done} steps only: hypothesis knows no more forms"
