"""Sums of counters."""

from __future__ import annotations

from fastpath.counting import histogram, since


def test_what_was_counted_before_is_taken_off_at_every_depth() -> None:
    now = {"a": 5, "b": {"c": [3, 4]}, "new": 2}
    assert since(now, {"a": 1, "b": {"c": [3, 1]}}) == {"a": 4, "b": {"c": [0, 3]}, "new": 2}
    assert since(now, None) == now


def test_a_histogram_is_cumulative_and_ends_without_a_bound() -> None:
    assert histogram([1, 0, 2], (0.5, 1.0), 7.5) == {
        "buckets": [(0.5, 1), (1.0, 1), (None, 3)],
        "sum": 7.5,
        "count": 3,
    }
