"""Ratios of runs that were side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Ratio(NamedTuple):
    """Between `low` and `high` are those of half of the runs: what the noise was."""

    low: float
    middle: float
    high: float


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of figures with the same index: what a noisy machine does to one it mostly does to both."""
    ratios = [our / (their or math.inf) for our, their in zip(ours, theirs, strict=True)]
    if len(ratios) == 1:
        ratios *= 2
    return Ratio(*statistics.quantiles(ratios, method="inclusive"))
