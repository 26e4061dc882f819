"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("piagent", deadline=None)
settings.load_profile("piagent")

LONG = ("test_bootstrap.py", "sanitizers", "arm64", "packaging", "ansible", "fuzz", "benchmarks")
"""What takes minutes, the longest first: several workers would wait for the last one else."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long."""
    items.sort(key=lambda item: _turn(item.path))


def _turn(path: Path) -> int:
    part = path.relative_to(Path(__file__).parent).parts[0]
    return LONG.index(part) if part in LONG else len(LONG)
