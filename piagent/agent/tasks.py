"""Work that goes on beside the agent's main parts; what goes wrong in it is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """Keeps what runs from being forgotten: the event loop alone holds a task only weakly."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it; nobody waits for its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s failed", task.get_coro(), exc_info=error)


class Alarm:
    """Does one thing at a time that may be set anew, or to never."""

    def __init__(self, work: Callable[[], None]) -> None:
        """`work` is called in the event loop."""
        self._work = work
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float | None) -> None:
        """Have it done after so long; None: not at all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s is not None:
            self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0), self._work)


class Later:
    """Does one thing a while after it was asked to, and once however often it was asked."""

    def __init__(self, work: Callable[[], None], delay_s: float) -> None:
        """`work` is called in the event loop."""
        self._work = work
        self._delay_s = delay_s
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Have it done."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._do)

    def _do(self) -> None:
        self._timer = None
        self._work()
