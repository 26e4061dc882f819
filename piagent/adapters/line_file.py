"""A file that lines are appended to, by a thread of its own: whoever has lines never waits for it.

A disk may be slow or full, the reader of a pipe may sleep. Then lines wait, up to a limit; those
beyond it, and those that could not be written, are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import threading
from collections.abc import Sequence
from typing import Final

log = logging.getLogger(__name__)

STDOUT: Final = "-"
WAITING_MAX: Final = 1 << 20
"""Bytes of lines that wait to be written."""
MODE: Final = 0o640
_STDOUT_FD: Final = 1
_PATIENCE_S: Final = 1.0
"""For what waits when the file is closed."""


class LineFile:
    """`ports.Lines`: one file, opened with its first line; a bad one is tried again with each."""

    def __init__(self, path: str) -> None:
        """`path`: of a file, or `-` for the standard output."""
        self.path = path
        self.trouble: str | None = None
        """Why the last lines could not be written; None: they could."""
        self.dropped = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # What both threads use, under the lock of `_changed`.
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._reopen = self._ending = False
        # What the writing thread alone uses.
        self._fd = -1
        self._torn = False  # the file ends within a line

    # ---- for who has lines ----------------------------------------------------------------------

    def write(self, lines: Sequence[bytes]) -> None:
        """Have lines written, each with its end; none after `close`."""
        with self._changed:
            for line in lines:
                if self._ending or self._waiting_size + len(line) > WAITING_MAX:
                    self.dropped += 1
                else:
                    self._waiting.append(line)
                    self._waiting_size += len(line)
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._run, name=self.path, daemon=True)
                self._thread.start()
            self._changed.notify()

    def reopen(self) -> None:
        """Open the path anew for the next line: the file may have been moved away."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    async def close(self) -> None:
        """Write what waits, unless that takes too long."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _PATIENCE_S)

    # ---- the thread that writes -----------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._reopen or self._ending):
                    self._changed.wait()
                lines, self._waiting, self._waiting_size = self._waiting, [], 0
                reopen, self._reopen = self._reopen, False
                ending = self._ending
            if reopen:
                self._close()
            if lines:
                self._put(lines)
            elif ending:
                self._close()
                return

    def _put(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        written = 0
        try:
            if self._fd < 0:
                self._fd = self._open()
            if self._torn:
                self._write(b"\n")
                self._torn = False
            while written < len(data):
                written += self._write(data[written:])
        except OSError as error:
            whole = data.count(b"\n", 0, written)
            self._torn = self._torn or data[:written].rpartition(b"\n")[2] != b""
            with self._changed:
                self.dropped += len(lines) - whole
            self._say(error.strerror or str(error))
            self._close()  # the next line may find it mended
        else:
            self._say(None)

    def _open(self) -> int:
        """Without waiting for the reader of a FIFO: without one there is an error (ENXIO)."""
        if self.path == STDOUT:
            return _STDOUT_FD
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self.path, flags, MODE)

    def _write(self, data: bytes) -> int:
        """Some of it; waits while a pipe is full, though not for ever after `close`."""
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                room = select.poll()
                room.register(self._fd, select.POLLOUT)
                if not room.poll(_PATIENCE_S * 1000) and self._ending:
                    raise

    def _close(self) -> None:
        if self._fd >= 0 and self.path != STDOUT:
            os.close(self._fd)
        self._fd = -1

    def _say(self, trouble: str | None) -> None:
        if trouble == self.trouble:
            return
        self.trouble = trouble
        if trouble is None:
            log.info("access log %s: written again", self.path)
        else:
            log.error("access log %s: %s; its lines are dropped and counted", self.path, trouble)
