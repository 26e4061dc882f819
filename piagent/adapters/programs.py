"""Health checks by programs of the user's own.

A check is a program with its arguments, started without a shell, with a small environment and no
right of the agent's. Its exit status decides, and the last line that it wrote says why. It has a
process group of its own, which is killed when its time is up, and also when it ended in time: what
a check leaves running in the background would be one more with each check.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable

from piagent.adapters.leash import leash
from piagent.core.checking import Question
from piagent.core.text import printable
from piagent.ports import ProbeResult

MAX_RUNNING = 8
"""Programs at a time: a Pi has better things to do."""
MAX_OUTPUT = 64 * 1024
"""Bytes; who writes more is killed."""
MAX_LINE = 120
"""Characters of its last line that are kept."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_READ_SIZE = 4096
_OUR_OWN_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}

Answered = Callable[[ProbeResult], None]


class ProgramProber:
    """`ports.Prober` for checks of kind exec."""

    def __init__(self) -> None:
        self._running: set[_Program] = set()
        self._waiting: deque[_Waiting] = deque()

    def ask(self, question: Question, answered: Answered) -> None:
        """Start the program, or let it wait for its turn, though not for ever."""
        if len(self._running) < MAX_RUNNING:
            self._start(question, answered)
        else:
            self._waiting.append(_Waiting(question, answered, self._waiting.remove))

    def close(self) -> None:
        """Kill what runs; nothing is answered any more."""
        for waiting in self._waiting:
            waiting.timer.cancel()
        self._waiting.clear()
        for program in self._running:
            program.abandon()
        self._running.clear()

    def _start(self, question: Question, answered: Answered) -> None:
        try:
            self._running.add(_Program(question, answered, self._gone))
        except OSError as error:
            asyncio.get_running_loop().call_soon(answered, _not_started(error))

    def _gone(self, program: _Program) -> None:
        self._running.discard(program)
        if self._waiting:
            waiting = self._waiting.popleft()
            waiting.timer.cancel()
            self._start(waiting.question, waiting.answered)


class _Waiting:
    """A check whose turn has not come; programs that cannot be killed may take every place."""

    def __init__(
        self, question: Question, answered: Answered, forget: Callable[[_Waiting], None]
    ) -> None:
        self.question = question
        self.answered = answered
        self._forget = forget
        patience_s = question.check.timeout_ms / 1000
        self.timer = asyncio.get_running_loop().call_later(patience_s, self._give_up)

    def _give_up(self) -> None:
        self._forget(self)
        reason = f"not checked: {MAX_RUNNING} other programs are still running"
        self.answered(ProbeResult(good=None, reason=reason))


class _Program:
    """A check under way: a process, the pipe that it writes to, the time that it has."""

    def __init__(
        self, question: Question, answered: Answered, gone: Callable[[_Program], None]
    ) -> None:
        """Start it; raises OSError. `gone`: nothing is left of it, which may be after an answer."""
        self._answered = answered
        self._gone = gone
        self._is_answered = False
        self._tail = b""
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._process, self._ended, self._output = _started(question)
        timeout_s = question.check.timeout_ms / 1000
        self._timer = self._loop.call_later(timeout_s, self._cut, "timeout")
        self._loop.add_reader(self._ended, self._reap)
        self._loop.add_reader(self._output, self._read)

    def abandon(self) -> None:
        """Kill it, and say nothing."""
        self._kill()
        self._close()
        self._process.poll()

    def _read(self) -> bool:
        """Keep the end of what it writes; whether there may be more now."""
        try:
            data = os.read(self._output, _READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._output)
            return False
        self._size += len(data)
        self._tail = (self._tail + data)[-_READ_SIZE:]
        if self._size > MAX_OUTPUT:
            self._loop.remove_reader(self._output)
            self._cut(f"wrote more than {MAX_OUTPUT // 1024} KiB")
            return False
        return True

    def _cut(self, reason: str) -> None:
        """Kill it for what it did; it is reaped when it is dead."""
        self._kill()
        self._answer(ProbeResult(good=False, reason=reason))

    def _reap(self) -> None:
        """It has ended; what it wrote last may still be in the pipe."""
        while self._read():
            pass
        self._kill()
        self._close()
        self._answer(_judged(self._process.wait(), self._tail))
        self._gone(self)

    def _answer(self, result: ProbeResult) -> None:
        if not self._is_answered:
            self._is_answered = True
            self._timer.cancel()
            self._answered(result)

    def _kill(self) -> None:
        """Kill its whole group. The number is nobody else's as long as it is not reaped."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        self._timer.cancel()
        for descriptor in (self._ended, self._output):
            self._loop.remove_reader(descriptor)
            os.close(descriptor)


def _started(question: Question) -> tuple[subprocess.Popen[bytes], int, int]:
    """The process; descriptors that tell of its end and give what it writes. Raises OSError."""
    output, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(theirs, True)
        process = subprocess.Popen(
            [*leash(), *question.check.command],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            cwd="/",
            env={
                "PATH": PATH,
                "PIAGENT_SERVICE": question.service,
                "PIAGENT_BACKEND": question.backend,
                "PIAGENT_ADDRESS": question.address,
                "PIAGENT_PORT": str(question.port),
            },
        )
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(theirs)
    try:
        return process, os.pidfd_open(process.pid), output
    except OSError:
        os.close(output)
        process.kill()
        process.wait()
        raise


def _judged(code: int, tail: bytes) -> ProbeResult:
    lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
    said = printable(lines[-1].strip())[:MAX_LINE] if lines else ""
    ended = f"exit {code}" if code >= 0 else f"killed by signal {-code}"
    if code == 0:
        return ProbeResult(good=True, reason=said or ended)
    return ProbeResult(good=False, reason=f"{ended}: {said}" if said else ended)


def _not_started(error: OSError) -> ProbeResult:
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _OUR_OWN_TROUBLE:
        return ProbeResult(good=None, reason=f"not checked: {why} on this host")
    return ProbeResult(good=False, reason=f"cannot be run: {why}")
