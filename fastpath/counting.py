"""Sums of counters: since when they count for somebody, and as histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def since(now: Any, before: Any) -> Any:
    """What was counted after `before`, which has the same shape or is None: dicts, lists, ints."""
    if before is None:
        return now
    if isinstance(now, dict):
        return {key: since(value, before.get(key)) for key, value in now.items()}
    if isinstance(now, list):
        return [since(*pair) for pair in zip(now, before, strict=True)]
    return now - before


def histogram(counts: Sequence[int], bounds: Sequence[float], total: float) -> dict[str, Any]:
    """Cumulative buckets, as Prometheus wants them; `counts` has one more than `bounds`."""
    buckets: list[tuple[float | None, int]] = []
    n = 0
    for bound, count in zip((*bounds, None), counts, strict=True):
        n += count
        buckets.append((bound, n))
    return {"buckets": buckets, "sum": total, "count": n}
