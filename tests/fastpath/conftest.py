"""What holds for the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fastpath.peers import close_all


@pytest.fixture(scope="module", autouse=True)
def _peers_end_with_their_module() -> Iterator[None]:
    """A process tests many modules: what all their backends hold would be too many descriptors."""
    yield
    close_all()
