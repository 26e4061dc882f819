"""The admin API's server: HTTP/1.1 (h11) on a Unix socket, for whoever may write to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from pathlib import Path

import h11

from piagent.admin.api import Answer, Source, answer, problem, takes_body

log = logging.getLogger(__name__)

MODE = 0o660
"""Owner and group may ask; nobody else."""
REQUEST_S = 30.0
"""For a request to arrive, the wait for it included."""
WRITE_S = 10.0
MAX_CONNECTIONS = 32
MAX_HEAD = 16 * 1024
MAX_BODY = 16 * 1024


class AdminError(Exception):
    """The socket cannot be served; says where, why, and what to do."""


class AdminServer:
    """Serves one source until stopped. No request, however malformed, ends it."""

    def __init__(self, path: str, source: Source) -> None:
        """`path`: where the socket appears; its folder is made when missing."""
        self._path = path
        self._source = source
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._inode: int | None = None

    async def start(self) -> None:
        """Listen; raises AdminError when another process serves the path or it cannot be used."""
        listener = bind(self._path)
        self._inode = _inode(self._path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def stop(self) -> None:
        """Close everything; the socket's file goes away unless it is another's by now."""
        if self._server is None:
            return
        self._server.close()
        for writer in tuple(self._open):
            writer.close()
        self._server = None
        if _inode(self._path) == self._inode:
            _remove(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open.add(writer)
        try:
            await _converse(reader, writer, self._source)
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # the client's trouble: gone, slow, or not speaking HTTP
        except Exception:
            log.exception("admin: a request failed")
        finally:
            # Not before all has been written: a client that reads nothing would keep its place
            # in the process without one in the count.
            await _close(writer)
            self._open.discard(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close when the client has taken everything, or after a while without that."""
    try:
        writer.close()
        async with asyncio.timeout(WRITE_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


def _inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def bind(path: str) -> socket.socket:
    """A listening Unix socket at `path` with MODE; replaces what a dead process left there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(Path(path))
        before = os.umask(0o777 & ~MODE)  # the mode must hold from the first moment on
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise AdminError(f"admin socket {path}: {error.strerror or error}") from error
    except AdminError:
        listener.close()
        raise
    return listener


def _clear(place: Path) -> None:
    """Make room for a socket at `place`; raises AdminError when that would hurt somebody."""
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        kind = place.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise AdminError(f"admin socket {place}: a file is there that is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)  # a full backlog is a living process too
        try:
            trial.connect(str(place))
        except (ConnectionRefusedError, FileNotFoundError):
            place.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise AdminError(
        f"admin socket {place}: another agent is running there; stop it or set [admin] socket"
    )


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: Source
) -> None:
    """Requests and answers on one connection until either side is done with it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    while True:
        try:
            async with asyncio.timeout(REQUEST_S):
                request = await _request(connection, reader)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                refusal = problem(error.error_status_hint, "bad request", str(error)[:200])
                await _respond(connection, writer, refusal)
            return
        if request is None:
            return
        method, target = request.method.decode("ascii"), request.target.decode("latin-1")
        try:
            async with asyncio.timeout(REQUEST_S):
                takes = takes_body(method, target)
                body = await _body(connection, reader) if takes else b""
        except h11.RemoteProtocolError as error:
            refusal = problem(error.error_status_hint, "bad request", str(error)[:200])
            await _respond(connection, writer, refusal)
            return
        if body is None:
            refusal = problem(413, "too large", f"a body has at most {MAX_BODY} bytes")
            await _respond(connection, writer, refusal)
            return
        reply = await answer(source, method, target, body)
        await _respond(connection, writer, reply, head_only=method == "HEAD")
        if not _reusable(connection):
            return
        connection.start_next_cycle()


def _reusable(connection: h11.Connection) -> bool:
    """Whether another request may follow; after one with a body it may not: we read none."""
    if connection.their_state is h11.SEND_BODY:
        connection.next_event()  # the end of the request, when it has no body
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request's head; None when the client has gone."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(4096))


async def _body(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes | None:
    """All of a request's body; None when it is too large."""
    body = bytearray()
    while len(body) <= MAX_BODY:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(4096))
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        else:
            raise h11.RemoteProtocolError("the request ended early")
    return None


async def _respond(
    connection: h11.Connection,
    writer: asyncio.StreamWriter,
    reply: Answer,
    *,
    head_only: bool = False,
) -> None:
    headers = [
        ("Content-Type", reply.content_type),
        ("Content-Length", str(len(reply.body))),
        ("Cache-Control", "no-store"),
    ]
    if reply.allow is not None:
        headers.append(("Allow", reply.allow))
    data = connection.send(h11.Response(status_code=reply.status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=reply.body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    writer.write(data)
    async with asyncio.timeout(WRITE_S):
        await writer.drain()
