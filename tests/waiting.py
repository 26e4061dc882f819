"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 30.0
"""Generous: what is being waited for takes milliseconds on a machine that is not busy."""


async def until(
    condition: Callable[[], object],
    what: str | Callable[[], str] = "the condition",
    timeout_s: float = PATIENCE_S,
) -> None:
    """Return once it holds, letting the event loop run; `what` is in the failure's text."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, _late(what, timeout_s)
        await asyncio.sleep(0.01)


def wait_until(
    condition: Callable[[], object],
    what: str | Callable[[], str] = "the condition",
    timeout_s: float = PATIENCE_S,
    every_s: float = 0.01,
) -> None:
    """Return once it holds; for code without an event loop."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, _late(what, timeout_s)
        time.sleep(every_s)


def _late(what: str | Callable[[], str], timeout_s: float) -> str:
    return f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}"
