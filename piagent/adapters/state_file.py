"""What an agent remembers over its end: one JSON file, replaced as a whole.

An SD card may take a second to write, so that happens in a thread, the latest content last.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Struct)
MODE = 0o600


class StateFile(Generic[S]):
    """Loads and saves one value; without a path it remembers nothing."""

    def __init__(self, path: str | None, kind: type[S]) -> None:
        """`kind`: what is saved; its fields have defaults."""
        self._path = None if path is None else Path(path)
        self._kind = kind
        self._waiting: S | None = None
        self._task: asyncio.Task[None] | None = None

    def load(self) -> S:
        """What was saved last; the defaults when there is nothing, or nothing that can be read."""
        if self._path is None:
            return self._kind()
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=self._kind)
        except FileNotFoundError:
            return self._kind()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            log.warning("state file %s: %s; starting without it", self._path, error)
            return self._kind()

    def save(self, value: S) -> None:
        """Have it written soon; called in the event loop, waits for nothing."""
        if self._path is None:
            return
        self._waiting = value
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Wait until all is written."""
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while self._waiting is not None:
            value, self._waiting = self._waiting, None
            try:
                await asyncio.to_thread(self._replace, msgspec.json.encode(value))
            except OSError as error:
                log.error("state file %s: not written: %s", self._path, error)

    def _replace(self, data: bytes) -> None:
        """Write beside it, flush, rename (rename(2)): a power cut leaves the old or the new."""
        path = self._path or Path()
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
