"""The lease clock, and the clock on the wall."""

from __future__ import annotations

import time

from piagent.adapters.clock import BootClock, wall_ms


def test_it_counts_nanoseconds_since_boot_suspend_included() -> None:
    clock = BootClock()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now = clock.now_ns()
    assert before <= now <= clock.now_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_the_clock_on_the_wall_counts_milliseconds_since_1970() -> None:
    assert abs(wall_ms() / 1000 - time.time()) < 60
