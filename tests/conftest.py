"""What holds for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("piagent", deadline=None)
settings.load_profile("piagent")

LONG = (
    "ansible",
    "arm64",
    "sanitizers",
    "style",
    "model",
    "fuzz",
    "packaging",  # of the wheel that the first has made meanwhile
    "sim",
    "benchmarks",  # their agents' leases do not outlast compilers
    "lab",
)
"""What takes minutes, the longest first: several workers would wait for the last one else."""

LEFT_OPEN_MAX = 16
"""Descriptors that a module may keep: of what it imported, and of threads about to end."""


@pytest.fixture(scope="module", autouse=True)
def _descriptors_are_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """select(2), which paho and tests call, knows no descriptor above 1023: few modules fill it."""
    before = _n_descriptors()
    yield
    left = _n_descriptors() - before
    if left > LEFT_OPEN_MAX:  # collecting takes a while
        gc.collect()
        left = _n_descriptors() - before
    assert left <= LEFT_OPEN_MAX, f"{request.path} leaves {left} descriptors open"


def _n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long."""
    items.sort(key=lambda item: _turn(item.path))


def _turn(path: Path) -> int:
    part = path.relative_to(Path(__file__).parent).parts[0]
    return LONG.index(part) if part in LONG else len(LONG)
