"""The lease clock, and the clock on the wall."""

from __future__ import annotations

import time

import pytest

from piagent.adapters import clock
from piagent.adapters.clock import BootClock, until_beat_s, wall_ms


def test_it_counts_nanoseconds_since_boot_suspend_included() -> None:
    boot = BootClock()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now = boot.now_ns()
    assert before <= now <= boot.now_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_the_clock_on_the_wall_counts_milliseconds_since_1970() -> None:
    assert abs(wall_ms() / 1000 - time.time()) < 60


@pytest.mark.parametrize(
    ("now", "period", "left"),
    [
        (100.0, 1.0, 1.0), (100.25, 1.0, 0.75), (100.5, 1.0, 0.5), (100.75, 1.0, 1.25),
        (101.5, 2.0, 2.5), (101.0, 2.0, 1.0), (100.25, 0.5, 0.5),
    ],
)  # fmt: skip
def test_what_is_done_each_second_or_so_is_done_together(
    monkeypatch: pytest.MonkeyPatch, now: float, period: float, left: float
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(clock, "_PHASE_S", 0.0)
    assert until_beat_s(period) == left
