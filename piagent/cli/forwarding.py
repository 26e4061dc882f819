"""The work of `piagent port-forward`: each local connection gets a tunnel of its own.

Bytes are moved in large pieces; a side that takes none stops the other one from being read; the
end of one direction is passed on and leaves the other open; a reset is passed on as a reset, so
that nobody takes half of something for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import struct
from typing import Final

from piagent.admin.client import AskError, Where, ask
from piagent.admin.status import Tunnel
from piagent.admin.tunnel_client import open_tunnel, tunnel_target
from piagent.cli.output import Failure, say, warn
from piagent.core.model import host_port
from piagent.core.text import printable

PIECE: Final = 256 * 1024
"""Bytes to read at once; nothing is held while there is nothing to read."""
ACCEPT_RETRY_S: Final = 0.2
"""After a failure, of too many open files perhaps."""
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""
NOT_YET: Final = (502, 503)
"""What an agent answers while no backend is there, which may come."""
_CURES: Final = {
    errno.EADDRINUSE: "another program listens there: name another port, or :PORT for a free one",
    errno.EACCES: "ports below 1024 are root's: name a local port, as in 8080:80",
    errno.EADDRNOTAVAIL: "this host does not have the address",
}


class Forwarder:
    """Forwards local ports to one service."""

    def __init__(self, where: Where, service: str, backend: str, *, quiet: bool) -> None:
        """`where`: the agent; `backend`: the only one to use, empty for any."""
        self._where = where
        self._service = service
        self._backend = backend
        self._quiet = quiet
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, mappings: list[tuple[int | None, str]], addresses: tuple[str, ...]) -> None:
        """Listen for all mappings, then forward until SIGINT or SIGTERM; Failure: it cannot be."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        with contextlib.ExitStack() as listeners:
            accepting = []
            for local, port in mappings:
                service_port = await asyncio.to_thread(self._look, port)
                for address in addresses:
                    listener = listeners.enter_context(_listen(address, local, port, service_port))
                    here = listener.getsockname()[1]
                    target = f"{self._service}:{service_port or port or '?'}"
                    say(f"Forwarding from {host_port(address, here)} -> {target}")
                    accepting.append(self._accept(listener, here, port))
            tasks = [loop.create_task(each) for each in accepting]
            await stopped.wait()
            for task in (*tasks, *self._connections):
                task.cancel()
            await asyncio.gather(*tasks, *self._connections, return_exceptions=True)

    def _look(self, port: str) -> int | None:
        """The number of the service's port; None, with a warning, when nobody can say it now."""
        try:
            way = ask(self._where, tunnel_target(self._service, port, self._backend), Tunnel)
        except AskError as error:
            if error.status not in NOT_YET:
                raise Failure(printable(str(error))) from None
            warn(f"warning: {error}")
            return int(port) if port.isdecimal() else None
        return way.port

    async def _accept(self, listener: socket.socket, here: int, port: str) -> None:
        loop = asyncio.get_running_loop()
        target = tunnel_target(self._service, port, self._backend)
        while True:
            try:
                client, peer = await loop.sock_accept(listener)
            except OSError as error:
                warn(f"{here}: cannot accept: {error.strerror or error}")
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            origin = f"{here}: connection from {host_port(*peer[:2])}"
            task = loop.create_task(self._forward(client, origin, target))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _forward(self, client: socket.socket, origin: str, target: str) -> None:
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                tunnel = await open_tunnel(self._where, target)
            except AskError as error:
                warn(f"{origin}: {error}")
                return
            with tunnel.sock as far:
                if not self._quiet:
                    say(f"{origin} -> {tunnel.backend}")
                await join(client, far, tunnel.early)


async def join(near: socket.socket, far: socket.socket, early: bytes) -> None:
    """Move bytes both ways until both have ended, or one has failed; `early` goes to near first."""
    there = asyncio.ensure_future(_move(near, far))
    back = asyncio.ensure_future(_move(far, near, early))
    try:
        await asyncio.gather(there, back)
    except OSError:
        for sock in (near, far):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    finally:
        for each in (there, back):
            each.cancel()
        await asyncio.gather(there, back, return_exceptions=True)


async def _move(source: socket.socket, target: socket.socket, first: bytes = b"") -> None:
    loop = asyncio.get_running_loop()
    if first:
        await loop.sock_sendall(target, first)
    while data := await loop.sock_recv(source, PIECE):
        await loop.sock_sendall(target, data)
    with contextlib.suppress(OSError):  # it may have gone meanwhile
        target.shutdown(socket.SHUT_WR)


def _listen(address: str, local: int | None, port: str, number: int | None) -> socket.socket:
    wanted = number if local is None else local
    if wanted is None:
        raise Failure(f"which local port for {port or 'it'}? Name one, or :PORT for a free one")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, wanted), family=family, backlog=1024)
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "name another port or address")
        place = host_port(address, wanted)
        raise Failure(f"cannot listen on {place}: {error.strerror} ({cure})") from None
    listener.setblocking(False)
    return listener
