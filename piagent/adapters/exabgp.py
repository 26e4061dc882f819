"""One life of exabgp: a child process, told what to do and asked how it is by its API.

It is never imported here: it is a program of its own, of 20 MiB, for those who want BGP. It does
not outlive the agent, and has no capability whatever the agent has.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from piagent.adapters.leash import leash
from piagent.core import exabgp
from piagent.core.model import Bgp

START_TIMEOUT_S = 15.0
COMMAND_TIMEOUT_S = 10.0
FAREWELL_TIMEOUT_S = 2.0
"""For withdrawing everything and the NOTIFICATIONs."""
RELOAD_AGAIN_S = 0.2
LINE_MAX = 1 << 20
KEPT_LINES = 5

_FILE = "exabgp.conf"
_RELAY = Path(__file__).with_name("exabgp_relay.py")

_log = logging.getLogger(__name__)

OnChange = Callable[[exabgp.Changed], None]
_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ExabgpError(Exception):
    """exabgp does not run, or not any more; the text says why, and the cure."""


class Exabgp:
    """A running exabgp; made by `start`."""

    def __init__(
        self,
        folder: contextlib.ExitStack,
        process: asyncio.subprocess.Process,
        log: _Log,
        line: _Line,
        on_change: OnChange,
    ) -> None:
        self._folder = folder
        self._process = process
        self._log = log
        self._reader, self._writer = line
        self._on_change = on_change
        self._up: set[str] = set()
        """Addresses of the routers that have a session."""
        self._down = asyncio.Event()
        """None has one (any more)."""
        self._answer: asyncio.Future[bool] | None = None
        self._answers = asyncio.create_task(self._read_answers(), name="exabgp answers")

    @classmethod
    async def start(cls, bgp: Bgp, on_change: OnChange) -> Self:
        """Returns when it takes commands; ExabgpError or OSError when it does not.

        `on_change` is called in the event loop, for every session that comes up or ends.
        """
        if importlib.util.find_spec("exabgp") is None:
            raise ExabgpError("exabgp is not installed: 'pip install piagent[bgp]'")
        with contextlib.ExitStack() as stack:
            # rwx for its owner only
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="piagent-bgp-")))
            lines: asyncio.Queue[_Line] = asyncio.Queue()
            server = await asyncio.start_unix_server(
                lambda *line: lines.put_nowait(line), folder / "line", limit=LINE_MAX
            )
            stack.callback(server.close)
            relay = [sys.executable, "-I", "-S", str(_RELAY), str(folder / "line")]
            process = await _spawn(folder, exabgp.configuration(bgp, relay))
            log = _Log(process)
            try:
                line = await _joined(lines, process, log)
                server.close()
                # No password stays on a disk: the last file has none.
                _write(folder / _FILE, exabgp.configuration(bgp, relay, last=True))
                running = cls(stack.pop_all(), process, log, line, on_change)
                await running.command(exabgp.VERSION)
            except BaseException:
                await _kill(process)
                raise
        return running

    async def command(self, text: str) -> bool:
        """Give one command, and wait for its acknowledgement: False when it was refused.

        Commands go one by one: the caller waits for each. ExabgpError: there is no answer.
        """
        if self._process.returncode is not None or self._answers.done():
            raise ExabgpError(f"exabgp has ended{self._log.said()}")
        self._answer = asyncio.get_running_loop().create_future()
        self._writer.write(f"{text}\n".encode())
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                return await self._answer
        except TimeoutError:
            raise ExabgpError(f"exabgp gave no answer for {COMMAND_TIMEOUT_S:g} s") from None
        finally:
            self._answer = None

    async def ended(self) -> str:
        """Wait until it has ended; why, in words for people."""
        return await _ended(self._process, self._log)

    async def stop(self) -> None:
        """Take everything back and end every session properly, then the process."""
        with contextlib.suppress(ExabgpError, TimeoutError):
            async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                await self.command(exabgp.WITHDRAW_ALL)
                await self._end_sessions()
        await _kill(self._process)
        self._writer.close()
        await self._answers
        self._folder.close()

    async def _end_sessions(self) -> None:
        """Return when there is none; exabgp forgets a reload while it still sends routes."""
        while self._up:
            self._down.clear()
            await self.command(exabgp.RELOAD)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELOAD_AGAIN_S):
                    await self._down.wait()

    async def _read_answers(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(line.decode(errors="replace").strip())
        except (OSError, ValueError) as error:  # closed, or a line longer than LINE_MAX
            _log.warning("bgp: the line to exabgp: %s", error)
        finally:
            if self._process.returncode is None:
                # It hears nothing more, and would go on announcing. Not Process.kill: that looks
                # for its exit code first, and takes it away from who waits for it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            self._set_answer(ExabgpError(f"exabgp has ended{self._log.said()}"))

    def _take(self, text: str) -> None:
        if text in {exabgp.DONE, exabgp.ERROR}:
            self._set_answer(text == exabgp.DONE)
        elif (event := exabgp.changed(text)) is not None:
            (self._up.add if event.up else self._up.discard)(event.peer)
            if not self._up:
                self._down.set()
            self._on_change(event)
        else:
            _log.debug("exabgp: %s", text)

    def _set_answer(self, answer: bool | ExabgpError) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(answer, ExabgpError):
            self._answer.set_exception(answer)
        else:
            self._answer.set_result(answer)


class _Log:
    """What exabgp says goes to our log; the last lines are kept, for when it ends."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._stream = process.stderr
        self._last: list[str] = []
        # The task ends with the pipe, that is with the process.
        self.task = asyncio.create_task(self._relay(), name="exabgp log")

    def said(self) -> str:
        """The last lines, behind a colon."""
        return f": {'; '.join(self._last)}" if self._last else ""

    async def _relay(self) -> None:
        while self._stream is not None:
            try:
                line = await self._stream.readline()
            except ValueError:
                continue  # longer than the reader's limit
            if not line:
                return
            text = " ".join(line.decode(errors="replace").split())
            self._last = [*self._last, text][-KEPT_LINES:]
            _log.info("exabgp: %s", text)


async def _joined(
    lines: asyncio.Queue[_Line], process: asyncio.subprocess.Process, log: _Log
) -> _Line:
    """Wait for the relay; ExabgpError when exabgp ends instead, or takes too long."""
    line = asyncio.create_task(lines.get())
    ended = asyncio.create_task(_ended(process, log))
    try:
        await asyncio.wait(
            [line, ended], timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if line.done():
            return line.result()
        if ended.done():
            raise ExabgpError(ended.result())
        raise ExabgpError(f"exabgp was not ready within {START_TIMEOUT_S:g} s{log.said()}")
    finally:
        line.cancel()
        ended.cancel()


async def _ended(process: asyncio.subprocess.Process, log: _Log) -> str:
    code = await process.wait()
    await log.task  # what it said last
    return f"exabgp ended with code {code}{log.said()}"


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Routers notice that the connections close."""
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _spawn(folder: Path, configuration: str) -> asyncio.subprocess.Process:
    settings, file = folder / "exabgp.env", folder / _FILE
    _write(settings, exabgp.SETTINGS)
    _write(file, configuration)
    environment = {k: v for k, v in os.environ.items() if not k.lower().startswith("exabgp")}
    return await asyncio.create_subprocess_exec(
        *leash(),
        *[sys.executable, "-P", "-m", "exabgp", "server", str(file)],
        env={**environment, "EXABGP_ENVFILE": str(settings)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C at our terminal is not for it: it ends after us
    )


def _write(file: Path, text: str) -> None:
    """Write it for its owner only, in place of what was there."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
