"""The lease clock, which counts suspend and which nobody sets; and the wall clock, for people."""

from __future__ import annotations

import random
import time

_PHASE_S = random.random()  # noqa: S311
"""Of this process: several on one host, in a test or a demonstration, must not fall into step."""


class BootClock:
    """CLOCK_BOOTTIME; with CLOCK_MONOTONIC an owner that slept would think that it still owns."""

    def now_ns(self) -> int:
        """Nanoseconds since the boot of this host."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def slept_ns(self) -> int:
        """By how much that is ahead of CLOCK_MONOTONIC, in which the kernel counts its timers."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def until_beat_s(period_s: float) -> float:
    """How long to wait for what is done each `period_s`: until this process's next beat.

    What is done together wakes the process once, and waking up costs more than most of the work.
    Half a period at least; and a period below a second is waited for as it is.
    """
    if period_s < 1:
        return period_s
    left = period_s - (time.monotonic() - _PHASE_S) % period_s
    return left if left >= period_s / 2 else left + period_s


def wall_ms() -> int:
    """Milliseconds since 1970 (UTC); may jump, so nothing but what people read depends on it."""
    return time.time_ns() // 1_000_000
