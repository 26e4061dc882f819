"""A rule that is removed while a history is played, to see that the simulation notices."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.sim.houses import HOUSES
from tests.sim.world import Options

TWO = ("may act until", "is answered for by", "still answers")
"""What is said when two own a key, answer for it, or one says too early that it does not."""

Patch = Callable[[pytest.MonkeyPatch], None]


class Mutant(msgspec.Struct, frozen=True):
    """What is removed, and the house in which that shows."""

    rule: str
    removed: str
    patch: Patch | None
    """None: the house itself breaks an assumption."""
    house: str | Options
    kept_seed: int
    """It is found there; others find it, too."""
    expect: tuple[str, ...] = TWO
    """One of these is in the violation."""

    @property
    def options(self) -> Options:
        """The house that it is played in."""
        return HOUSES[self.house] if isinstance(self.house, str) else self.house

    def caught_by(self, violation: str | None) -> bool:
        """Whether that is what had to be noticed."""
        return violation is not None and any(words in violation for words in self.expect)
