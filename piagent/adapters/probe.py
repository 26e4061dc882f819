"""Health checks over real connections."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket

from piagent.core.model import Backend, HealthCheck, HealthKind
from piagent.ports import ProbeResult

MAX_HEAD = 16 * 1024
"""Bytes of an answer's status line and header fields; the body is not read."""
LOOK_AFTER_S = 0.02
"""When to look for an answer: longer than a LAN and most backends take."""

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


class NetworkProber:
    """`ports.Prober`: TCP connects and HTTP/1.1 GETs.

    When this host itself has no descriptor, port or memory left for a check, that says nothing
    about the backend: the last result stays.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, int, HealthCheck], bool] = {}

    async def probe(self, backend: Backend, port: int, check: HealthCheck) -> ProbeResult:
        """Check once; never raises for what a backend does, never takes longer than its timeout."""
        key = (backend.address, port, check)
        try:
            async with asyncio.timeout(check.timeout_ms / 1000):
                result = await _probe(backend.address, port, check)
        except TimeoutError:
            result = ProbeResult(good=False, reason="timeout")
        except OSError as error:
            if error.errno in _OUR_OWN_TROUBLE:
                reason = f"not checked: {os.strerror(error.errno)} on this host"
                return ProbeResult(good=self._last.get(key, True), reason=reason)
            result = ProbeResult(good=False, reason=_in_words(error))
        self._last[key] = result.good
        return result


async def _probe(address: str, port: int, check: HealthCheck) -> ProbeResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        await _connect(connection, address, port)
        if check.kind is HealthKind.TCP:
            return ProbeResult(good=True, reason="connected")
        return await _get(connection, address, port, check)


async def _connect(connection: socket.socket, address: str, port: int) -> None:
    """Look at once and a little later, by when a LAN has answered; wait for what takes longer.

    So all checks that began together look together: one wake-up, and no socket is registered with
    the event loop.
    """
    for pause_s in (0, LOOK_AFTER_S):
        # Asked again, connect() says what has become of the first one.
        code = connection.connect_ex((address, port))
        if code not in _UNDER_WAY:
            break
        await asyncio.sleep(pause_s)
    else:
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
        return
    if code:
        raise OSError(code, os.strerror(code))


async def _get(
    connection: socket.socket, address: str, port: int, check: HealthCheck
) -> ProbeResult:
    """Send a GET; its status decides as soon as the whole head of the answer has come."""
    loop = asyncio.get_running_loop()
    host = f"[{address}]" if ":" in address else address
    await loop.sock_sendall(
        connection,
        f"GET {check.path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: piagent-health\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n".encode(),
    )
    await asyncio.sleep(LOOK_AFTER_S)
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        if len(head) >= MAX_HEAD:
            return ProbeResult(good=False, reason=f"header longer than {MAX_HEAD} bytes")
        more = await loop.sock_recv(connection, MAX_HEAD)
        if not more:
            reason = "closed within the header" if head else "closed without an answer"
            return ProbeResult(good=False, reason=reason)
        head += more
    line = _STATUS_LINE.match(head)
    if line is None:
        return ProbeResult(good=False, reason="not HTTP/1.1")
    status = int(line[1])
    good = status in check.expect if check.expect else 200 <= status <= 399
    return ProbeResult(good=good, reason=f"status {status}")


def _in_words(error: OSError) -> str:
    if error.errno is None:
        return str(error)
    return _WORDS.get(error.errno, os.strerror(error.errno))
