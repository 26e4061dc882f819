"""Asks an agent: this host's through its admin socket, another one's by TCP; for the CLI."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Container
from typing import Final, TypeVar

import h11
import msgspec
from msgspec import Struct

from piagent.admin.status import ApiError
from piagent.core.model import host_port

T = TypeVar("T")

TIMEOUT_S = 5.0
ACTION_TIMEOUT_S = 15.0
"""A hand-over is answered when it is done."""
APPLY_TIMEOUT_S = 25.0
"""An order is answered when it is done, which a change of leaders delays."""
RETRY_S: Final = 0.02
ANSWER_MAX: Final = 64 * 1024 * 1024
"""Bytes; more is no agent's answer."""


class Remote(Struct, frozen=True, kw_only=True):
    """An agent on another host."""

    host: str
    port: int
    token: str | None = None

    def __str__(self) -> str:
        """Its host and port; never the token."""
        return host_port(self.host, self.port)


Where = str | Remote
"""A path stands for the admin socket of an agent on this host."""


class AskError(Exception):
    """No answer, or an answer that says no; one line for people."""

    def __init__(self, text: str, status: int = 0) -> None:
        """Take the line, and the status of the answer; 0: there was none."""
        super().__init__(text)
        self.status = status


def ask(
    where: Where,
    target: str,
    kind: type[T],
    body: object = None,
    *,
    timeout_s: float | None = None,
    answers: Container[int] = (200,),
) -> T:
    """GET `target` from an agent, or POST `body` to it; decoded as `kind`. Raises AskError.

    `answers`: the statuses that come with a `kind`; every other one is a refusal.
    """
    content = b"" if body is None else msgspec.json.encode(body)
    timeout_s = timeout_s or (ACTION_TIMEOUT_S if content else TIMEOUT_S)
    try:
        with _connected(where, timeout_s) as sock:
            connection, data = request_of(where, sock, target, body=content)
            sock.sendall(data)
            status, answer = _read(connection, sock)
    except (OSError, h11.ProtocolError) as error:
        raise explained(where, error) from None
    if status not in answers:
        raise refused(where, status, answer)
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.MsgspecError as error:
        raise AskError(f"{where}: not an answer of piagent: {error}") from error


def _connected(where: Where, timeout_s: float) -> socket.socket:
    if isinstance(where, Remote):
        sock = socket.create_connection((where.host, where.port), timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    end = time.monotonic() + timeout_s
    try:
        while True:
            try:
                sock.connect(where)
            except BlockingIOError:  # a full queue, which a Unix socket does not wait for
                if time.monotonic() > end:
                    raise TimeoutError from None
                time.sleep(RETRY_S)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def request_of(
    where: Where, sock: socket.socket, target: str, *, body: bytes = b"", upgrade: str | None = None
) -> tuple[h11.Connection, bytes]:
    """The bytes of a GET, or of a POST when there is a body; and what parses the answer."""
    headers = [("Connection", "close" if upgrade is None else "Upgrade")]
    if upgrade is not None:
        headers.append(("Upgrade", upgrade))
    if isinstance(where, Remote):
        # The address that the name stood for: whatever the name, the agent knows itself by it.
        address, port = sock.getpeername()[:2]
        headers.append(("Host", host_port(address.partition("%")[0], port)))
        if where.token is not None:
            headers.append(("Authorization", f"Bearer {where.token}"))
    else:
        headers.append(("Host", "piagent"))
    if body:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="POST" if body else "GET", target=target, headers=headers)
    data = connection.send(request) or b""
    if body:
        data += connection.send(h11.Data(data=body)) or b""
    return connection, data + (connection.send(h11.EndOfMessage()) or b"")


def _read(connection: h11.Connection, sock: socket.socket) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while len(body) <= ANSWER_MAX:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        else:
            raise ConnectionError("the connection ended early")
    raise ConnectionError(f"an answer of more than {ANSWER_MAX} bytes")


def refused(where: Where, status: int, answer: bytes) -> AskError:
    """What an answer other than a success says."""
    try:
        refusal = msgspec.json.decode(answer, type=ApiError)
    except msgspec.MsgspecError as error:
        return AskError(f"{where}: not an answer of piagent: {error}", status)
    return AskError(f"{where}: {refusal.error}: {refusal.detail}", status)


def explained(where: Where, error: Exception) -> AskError:
    """The error in words for people."""
    if isinstance(error, TimeoutError):
        return AskError(f"{where}: the agent does not answer")
    if isinstance(where, Remote):
        number = (error.errno or 0) if isinstance(error, OSError) else 0
        # asyncio's own text says nothing but the address; a failed look-up has numbers below 0.
        what = os.strerror(number) if number > 0 else str(error)
        cure = " (is [admin] listen set there?)" if number == errno.ECONNREFUSED else ""
        return AskError(f"{where}: {what}{cure}")
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return AskError(f"{where}: the agent is not running here (or uses another socket)")
    if isinstance(error, PermissionError):
        return AskError(f"{where}: not permitted; try as root or in the socket's group")
    return AskError(f"{where}: {error}")
