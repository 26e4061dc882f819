"""Asks an agent on this host through its admin socket; for the CLI."""

from __future__ import annotations

import socket
from typing import TypeVar

import h11
import msgspec

from piagent.admin.status import ApiError

T = TypeVar("T")

TIMEOUT_S = 5.0


class AskError(Exception):
    """No answer, or an answer that says no; one line for people."""


def ask(path: str, target: str, kind: type[T]) -> T:
    """GET `target` from the socket at `path`, decoded as `kind`."""
    status, body = _get(path, target)
    try:
        if status == 200:
            return msgspec.json.decode(body, type=kind)
        refusal = msgspec.json.decode(body, type=ApiError)
    except msgspec.MsgspecError as error:
        raise AskError(f"{path}: not an answer of piagent: {error}") from error
    raise AskError(f"{path}: {refusal.error}: {refusal.detail}")


def _get(path: str, target: str) -> tuple[int, bytes]:
    """Status and body of one GET."""
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method="GET", target=target, headers=[("Host", "piagent"), ("Connection", "close")]
    )
    data = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
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
