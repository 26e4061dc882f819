"""The timing that the tests of the lease use: the fast profile."""

from __future__ import annotations

from piagent.core.model import Timing

MS = 1_000_000
TIMING = Timing(
    lease_ms=900, renew_ms=200, wait_ms=938, guard_ms=80, attempt_ms=250, stagger_ms=40, lag_ms=400
)
