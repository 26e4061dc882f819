"""The lease clock."""

from __future__ import annotations

import time

from piagent.adapters.clock import BootClock


def test_it_counts_nanoseconds_since_boot_suspend_included() -> None:
    clock = BootClock()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now = clock.now_ns()
    assert before <= now <= clock.now_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
