"""Asks an agent on this host through its admin socket; for the CLI."""

from __future__ import annotations

import socket
from typing import TypeVar

import h11
import msgspec

from piagent.admin.status import ApiError

T = TypeVar("T")

TIMEOUT_S = 5.0
ACTION_TIMEOUT_S = 15.0
"""A hand-over is answered when it is done."""


class AskError(Exception):
    """No answer, or an answer that says no; one line for people."""


def ask(path: str, target: str, kind: type[T], body: object = None) -> T:
    """GET `target` from the socket at `path`, or POST `body` to it; decoded as `kind`."""
    status, answer = _talk(path, target, b"" if body is None else msgspec.json.encode(body))
    try:
        if status == 200:
            return msgspec.json.decode(answer, type=kind)
        refusal = msgspec.json.decode(answer, type=ApiError)
    except msgspec.MsgspecError as error:
        raise AskError(f"{path}: not an answer of piagent: {error}") from error
    raise AskError(f"{path}: {refusal.error}: {refusal.detail}")


def _talk(path: str, target: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of one GET, or of one POST with a body."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "piagent"), ("Connection", "close")]
    if body:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    request = h11.Request(method="POST" if body else "GET", target=target, headers=headers)
    data = connection.send(request) or b""
    if body:
        data += connection.send(h11.Data(data=body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ACTION_TIMEOUT_S if body else TIMEOUT_S)
            sock.connect(path)
            sock.sendall(data)
            return _read(connection, sock)
    except (FileNotFoundError, ConnectionRefusedError):
        raise AskError(f"{path}: the agent is not running here (or uses another socket)") from None
    except PermissionError:
        raise AskError(f"{path}: not permitted; try as root or in the socket's group") from None
    except TimeoutError:
        raise AskError(f"{path}: the agent does not answer") from None
    except (OSError, h11.ProtocolError) as error:
        raise AskError(f"{path}: {error}") from error


def _read(connection: h11.Connection, sock: socket.socket) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while True:
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
