"""The admin API's listeners: a Unix socket for whoever may write to it, and TCP for who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h11

from piagent.admin import tunnel
from piagent.admin.access import Access
from piagent.admin.answer import Answer, Refused, json_answer, not_allowed, problem
from piagent.admin.api import READS, TUNNEL, Source, answer, path_of, takes_body
from piagent.admin.connection import MAX_BODY, WRITE_S, Connection, offers
from piagent.core.model import Listen, host_port
from piagent.core.plan import is_loopback

log = logging.getLogger(__name__)

MODE: Final = 0o660
"""Owner and group may ask; nobody else."""
MAX_LOCAL = 32
"""Connections on the Unix socket at a time."""
MAX_REMOTE = 128
"""Connections by TCP at a time, apart from those: the LAN cannot lock this host's people out."""
ACCEPT_GAP_S: Final = 0.002
"""Between one connection and the next: a flood of them leaves the agent time for its leases."""
ACCEPT_RETRY_S: Final = 0.5
"""After a failure, of too many open files perhaps."""
BACKLOG: Final = 128
KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""Seconds, and probes without an answer: a tunnel whose client lost its power ends in 2 minutes."""


class AdminError(Exception):
    """A place cannot be served; says where, why, and what to do."""


class AdminServer:
    """Serves one source until stopped. No request, however malformed, ends it."""

    def __init__(
        self, path: str, source: Source, listen: Listen | None = None, token: str | None = None
    ) -> None:
        """`path`: where the socket appears; its folder is made when missing.

        `listen`: serve there by TCP, too; `token`: what that asks for (`admin.access`).
        """
        self._path = path
        self._source = source
        self._listen = listen
        self._access = Access(token)
        self._doors: list[Door] = []
        self._inode: int | None = None

    async def start(self) -> None:
        """Listen; raises AdminError when another process serves a place or it cannot be used."""
        local = Door(bind(self._path), MAX_LOCAL, self._source, None)
        self._inode = _inode(self._path)
        self._doors = [local]
        local.open()
        if self._listen is None:
            return
        try:
            remote = bind_tcp(self._listen, token=self._access.token)
        except AdminError:
            await self.stop()
            raise
        self._doors.append(Door(remote, MAX_REMOTE, self._source, self._access))
        self._doors[-1].open()

    def set_token(self, token: str | None) -> None:
        """Ask for another token from now on."""
        self._access.token = token

    async def stop(self) -> None:
        """Close everything but tunnels; the socket's file goes away unless it is another's."""
        doors, self._doors = self._doors, []
        for door in doors:
            await door.close()
        if doors and _inode(self._path) == self._inode:
            _remove(self._path)


class Door:
    """One listening socket, and the connections that came in by it.

    When there are too many, the one that keeps the agent waiting the longest makes room: to open
    many and say nothing, or to read no answer, shuts nobody out. When the agent itself is what all
    of them wait for, newcomers wait in the kernel's queue.
    """

    def __init__(
        self, listener: socket.socket, limit: int, source: Source, access: Access | None
    ) -> None:
        """`access`: None lets everybody do everything."""
        self._listener = listener
        self._limit = limit
        self._source = source
        self._access = access
        self._accepting: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Task[Any] | None, None] = {}
        """Those whose client's turn it is, the longest first."""
        self.open_connections: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Accept from now on."""
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Accept no more, and end what there is."""
        tasks = [task for task in (self._accepting, *self.open_connections) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("admin: cannot accept: %s", error.strerror or error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            task = loop.create_task(self._serve(sock))
            self.open_connections.add(task)
            task.add_done_callback(self.open_connections.discard)
            await asyncio.sleep(ACCEPT_GAP_S)
            await self._make_room()

    async def _make_room(self) -> None:
        while len(self.open_connections) >= self._limit:
            longest = next(iter(self._waiting), None)
            if longest is not None:
                longest.cancel()
            await asyncio.wait(self.open_connections, return_when=asyncio.FIRST_COMPLETED)

    @contextmanager
    def _kept_waiting(self) -> Iterator[None]:
        task = asyncio.current_task()
        self._waiting[task] = None
        try:
            yield
        finally:
            del self._waiting[task]

    async def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock, self._kept_waiting)
        try:
            await self._converse(connection)
            await connection.end()
        except h11.RemoteProtocolError as error:
            with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
                await connection.refuse(error)
                await connection.end()
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # the client's trouble: gone, slow, or not speaking HTTP
        except Exception:
            log.exception("admin: a request failed")
        finally:
            connection.abort()

    async def _converse(self, connection: Connection) -> None:
        """Requests and answers until either side is done with it."""
        while True:
            await asyncio.sleep(0)  # many requests at once: the agent's own work comes in between
            request = await connection.request()
            if request is None:
                return
            reply = await self._reply(connection, request)
            if reply is None:
                return
            known = self._access is None or self._access.is_bearer(dict(request.headers))
            head_only = request.method == b"HEAD"
            if not await connection.answer(reply, head_only=head_only, last=not known):
                return

    async def _reply(self, connection: Connection, request: h11.Request) -> Answer | None:
        """The answer to a request; None: it has become a tunnel."""
        method, target = request.method.decode("ascii"), request.target.decode("latin-1")
        path = path_of(target)
        if self._access is not None:
            refusal = self._access.refusal(method, path, dict(request.headers))
            if refusal is not None:
                return refusal
        if path == TUNNEL:
            return await self._tunnel(connection, request, target)
        body = await connection.body() if takes_body(method, target) else b""
        if body is None:
            return problem(413, "too large", f"a body has at most {MAX_BODY} bytes")
        return await answer(self._source, method, target, body)

    async def _tunnel(
        self, connection: Connection, request: h11.Request, target: str
    ) -> Answer | None:
        """Make a tunnel and give it to the data plane, or say where one would lead, or why not."""
        if request.method != b"GET":
            return not_allowed(request.method.decode("ascii"), READS[0])
        if await connection.body():
            return problem(400, "bad request", "this request has no body")
        try:
            way = tunnel.asked(self._source, target)
            if not offers(request, tunnel.PROTOCOL):
                return json_answer(way)
            place, backend = await tunnel.connect(way)
        except Refused as refused:
            return refused.answer
        with contextlib.ExitStack() as stack:
            stack.callback(backend.close)
            early = await connection.switch(tunnel.PROTOCOL, (tunnel.BACKEND_HEADER, place))
            if early:
                async with asyncio.timeout(WRITE_S):
                    await asyncio.get_running_loop().sock_sendall(backend, early)
            stack.pop_all()
        client = connection.release()
        try:
            self._source.relay(client, backend)
        except OSError as error:
            log.error("admin: a tunnel to %s could not be kept: %s", place, error)
            client.close()
            backend.close()
        return None


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
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise AdminError(f"admin socket {path}: {error.strerror or error}") from error
    except AdminError:
        listener.close()
        raise
    return listener


_CURES: Final = {
    errno.EADDRINUSE: "another program listens there; `ss -ltnp` shows which",
    errno.EADDRNOTAVAIL: "this host does not have the address; `ip address` shows which it has",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
}


def bind_tcp(listen: Listen, *, token: str | None) -> socket.socket:
    """A listening TCP socket; `[::]` takes IPv4, too. Others than this host need a token."""
    place = host_port(listen.address, listen.port)
    if token is None and not is_loopback(listen.address):
        raise AdminError(f"admin API on {place}: give [admin] a token_file, or listen on 127.0.0.1")
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Linux hands all but the mode on to what is accepted.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in KEEPALIVE.items():
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        if family == socket.AF_INET6:
            only = listen.address != "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        listener.bind((listen.address, listen.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        cure = _CURES.get(error.errno or 0, "set [admin] listen")
        raise AdminError(f"admin API on {place}: {error.strerror or error} ({cure})") from error
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
