"""Health checks over real connections: TCP connects and HTTP/1.1 GETs.

Many small conversations at a time cost little when they are looked at together: all checks that
begin together get their sockets together, and are looked at together, at once and a little later,
by when a LAN and most backends have answered. What takes longer is looked at again, each time after
twice as long, and for the last time when its time is up. So no socket is registered with the event
loop and no check has a task or timer of its own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections import deque
from collections.abc import Callable

from piagent.core.checking import Question
from piagent.core.model import HealthKind, host_port
from piagent.ports import ProbeResult

MAX_HEAD = 16 * 1024
"""Bytes of an answer's status line and header fields; the body is not read."""
MAX_RUNNING = 64
"""Checks under way at a time: connections and descriptors of this host."""
LOOK_AFTER_S = 0.02
"""When to look for an answer first: longer than a LAN and most backends take."""
TOGETHER_S = 0.005
"""What is due so little later is looked at, too."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_UNDER_WAY = {errno.EINPROGRESS, errno.EALREADY}
_OUR_OWN_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_WORDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "closed without an answer",
    errno.EPIPE: "closed without an answer",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "no route",
    errno.ENETUNREACH: "no route",
}
_TIMEOUT = ProbeResult(good=False, reason="timeout")

Answered = Callable[[ProbeResult], None]


class NetworkProber:
    """`ports.Prober` for checks of kind tcp and http.

    When this host itself has no descriptor, port or memory left for a check, that says nothing
    about the backend: it counts as not checked.
    """

    def __init__(self) -> None:
        self._running: list[tuple[_Conversation | _Failure, Answered]] = []
        self._waiting: deque[tuple[Question, Answered]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, question: Question, answered: Answered) -> None:
        """Begin a check, or let it wait for its turn."""
        if len(self._running) < MAX_RUNNING:
            self._begin(question, answered, asyncio.get_running_loop().time())
            self._arm()
        else:
            self._waiting.append((question, answered))

    def close(self) -> None:
        """End what is under way; nothing is answered any more."""
        self._waiting.clear()
        for one, _ in self._running:
            one.close()
        self._running.clear()
        self._arm()

    def _begin(self, question: Question, answered: Answered, now: float) -> None:
        try:
            connection, connected = _connecting(question)
        except OSError as error:
            self._running.append((_Failure(error, now), answered))
        else:
            self._running.append((_Conversation(question, connection, connected, now), answered))

    def _arm(self) -> None:
        """Have the timer run when the first of them wants to be looked at."""
        due = min((one.look_at for one, _ in self._running), default=None)
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return  # `_look` sets it anew
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        results: list[tuple[Answered, ProbeResult]] = []
        running, self._running = self._running, []
        for one, answered in running:
            result = one.look(now) if one.look_at <= now + TOGETHER_S else None
            if result is None:
                self._running.append((one, answered))
            else:
                one.close()
                results.append((answered, result))
        while self._waiting and len(self._running) < MAX_RUNNING:
            self._begin(*self._waiting.popleft(), now)
        self._arm()
        for answered, result in results:
            answered(result)


def _connecting(question: Question) -> tuple[socket.socket, bool]:
    """A socket that connects, and whether it has already; raises OSError.

    It is asked twice: an address of this very host answers before the first call has returned.
    """
    family = socket.AF_INET6 if ":" in question.address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connected = _is_connected(connection, question) or _is_connected(connection, question)
    except OSError:
        connection.close()
        raise
    return connection, connected


def _is_connected(connection: socket.socket, question: Question) -> bool:
    """Whether connect() is through: asked again, it says what has become of the first one."""
    code = connection.connect_ex((question.address, question.port))
    if code and code not in _UNDER_WAY:
        raise OSError(code, os.strerror(code))
    return not code


class _Failure:
    """A check that could not begin; told when it is looked at, like any other result."""

    def __init__(self, error: OSError, now: float) -> None:
        self.look_at = now
        self._error = error

    def look(self, _now: float) -> ProbeResult:
        return _failed(self._error)

    def close(self) -> None:
        pass


class _Conversation:
    """One check under way."""

    __slots__ = (
        "_connected",
        "_connection",
        "_end",
        "_gap",
        "_head",
        "_question",
        "_unsent",
        "look_at",
    )

    def __init__(
        self, question: Question, connection: socket.socket, connected: bool, now: float
    ) -> None:
        """Own the connection, which is being made."""
        self._question = question
        self._connection = connection
        self._connected = connected
        self._end = now + question.check.timeout_ms / 1000
        self._gap = LOOK_AFTER_S
        self.look_at = now if connected else min(now + LOOK_AFTER_S, self._end)
        self._head = b""
        http = question.check.kind is HealthKind.HTTP
        self._unsent = question.preface + (_request(question) if http else b"")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def look(self, now: float) -> ProbeResult | None:
        """See how far it has come; None: not to the end yet, look again at `look_at`."""
        try:
            result = self._advance()
        except BlockingIOError:
            result = None
        except OSError as error:
            return _failed(error)
        if result is None and now >= self._end - TOGETHER_S:
            return _TIMEOUT
        self.look_at = min(now + self._gap, self._end)
        self._gap *= 2
        return result

    def _advance(self) -> ProbeResult | None:
        """As far as it goes without waiting; raises OSError, BlockingIOError when it has to."""
        if not self._connected:
            self._connected = _is_connected(self._connection, self._question)
            if not self._connected:
                return None
        tcp = self._question.check.kind is HealthKind.TCP
        if self._unsent:
            self._unsent = self._unsent[self._connection.send(self._unsent) :]
            self._gap = LOOK_AFTER_S
            if self._unsent or not tcp:
                return None
        return ProbeResult(good=True, reason="connected") if tcp else self._read()

    def _read(self) -> ProbeResult:
        """The status decides as soon as the whole head of the answer has come."""
        while b"\r\n\r\n" not in self._head and b"\n\n" not in self._head:
            if len(self._head) >= MAX_HEAD:
                return ProbeResult(good=False, reason=f"header longer than {MAX_HEAD} bytes")
            more = self._connection.recv(MAX_HEAD)
            if not more:
                reason = "closed within the header" if self._head else "closed without an answer"
                return ProbeResult(good=False, reason=reason)
            self._head += more
        line = _STATUS_LINE.match(self._head)
        if line is None:
            return ProbeResult(good=False, reason="not HTTP/1.1")
        status, expect = int(line[1]), self._question.check.expect
        good = status in expect if expect else 200 <= status <= 399
        return ProbeResult(good=good, reason=f"status {status}")


def _request(question: Question) -> bytes:
    return (
        f"GET {question.check.path} HTTP/1.1\r\n"
        f"Host: {host_port(question.address, question.port)}\r\n"
        "User-Agent: piagent-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


def _failed(error: OSError) -> ProbeResult:
    if error.errno in _OUR_OWN_TROUBLE:
        reason = f"not checked: {os.strerror(error.errno)} on this host"
        return ProbeResult(good=None, reason=reason)
    if error.errno is None:
        return ProbeResult(good=False, reason=str(error))
    reason = _WORDS.get(error.errno, os.strerror(error.errno))
    return ProbeResult(good=False, reason=reason)
