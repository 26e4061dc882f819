"""The lease clock: time that counts suspend and that nobody sets."""

from __future__ import annotations

import time


class BootClock:
    """CLOCK_BOOTTIME; with CLOCK_MONOTONIC an owner that slept would think that it still owns."""

    def now_ns(self) -> int:
        """Nanoseconds since the boot of this host."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
