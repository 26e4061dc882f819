"""Backends and clients on loopback, for the tests of the engine."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fastpath.engine import Backend, Engine, Listener, Service, Tables
from tests.waiting import wait_until

Handler = Callable[[socket.socket], None]
PATIENCE_S = 20.0

_opened: list[Server | Datagrams | Refusing | Silent] = []


def close_all() -> None:
    """Close every backend that there is."""
    while _opened:
        _opened.pop().close()


def echo(connection: socket.socket) -> None:
    """Send back what comes, up to its end."""
    while data := connection.recv(1 << 16):
        connection.sendall(data)


class Server:
    """A backend: each connection is served by `handler` in a thread and then closed."""

    def __init__(self, handler: Handler = echo, address: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listening = socket.create_server((address, port), family=family, backlog=128)
        self._handler = handler
        self.address = address
        self.port: int = self._listening.getsockname()[1]
        self.n_accepted = 0
        self.open: list[socket.socket] = []
        _opened.append(self)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.n_accepted += 1
            self.open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._handler(connection)

    def backend(self, name: str, *, weight: int = 1, up: bool = True) -> Backend:
        """As the engine's tables name it."""
        return Backend(name, self.address, self.port, weight, up)

    def close(self) -> None:
        """Refuse new connections, and close those that are open."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Datagrams:
    """A UDP backend: answers each datagram with its name and the datagram."""

    def __init__(self, name: str, address: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._bound = socket.socket(family, socket.SOCK_DGRAM)
        self._bound.bind((address, port))
        self.name = name
        self.address = address
        self.port: int = self._bound.getsockname()[1]
        self.heard: list[tuple[str, bytes]] = []
        """Who sent what: `address:port` of the engine's socket, and the datagram."""
        self.silent = False
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        _opened.append(self)

    def _answer(self) -> None:
        while True:
            try:
                data, sender = self._bound.recvfrom(1 << 16)
            except OSError:
                return
            if data == b"" and sender[1] == self.port:
                return
            self.heard.append((f"{sender[0]}:{sender[1]}", data))
            if not self.silent:
                self.answer(-1)

    def answer(self, index: int) -> None:
        """Send the answer to one that was heard, once more maybe."""
        sender, data = self.heard[index]
        host, _, port = sender.rpartition(":")
        with contextlib.suppress(OSError):  # its own name makes it too long
            self._bound.sendto(self.name.encode() + data, (host, int(port)))

    def backend(self, *, weight: int = 1, up: bool = True) -> Backend:
        """As the engine's tables name it."""
        return Backend(self.name, self.address, self.port, weight, up)

    def close(self) -> None:
        """Nobody listens there any more."""
        if self._thread.is_alive():
            self._bound.sendto(b"", (self.address, self.port))  # recvfrom does not hear a close
            wait_until(lambda: not self._thread.is_alive())
        self._bound.close()


class Refusing:
    """A port that refuses connections, and that nobody else gets."""

    def __init__(self) -> None:
        self._bound = socket.socket()
        self._bound.bind(("127.0.0.1", 0))
        self.port: int = self._bound.getsockname()[1]
        _opened.append(self)

    def listen(self, answer: bytes) -> None:
        """Refuse no more: answer whatever comes first."""
        self._bound.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = self._bound.accept()
                    with connection, contextlib.suppress(OSError):
                        if connection.recv(100):
                            connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        """Nobody listens there any more."""
        with contextlib.suppress(OSError):
            self._bound.shutdown(socket.SHUT_RDWR)
        self._bound.close()

    def backend(self, name: str) -> Backend:
        """As the engine's tables name it."""
        return Backend(name, "127.0.0.1", self.port, 1, up=True)


class Silent:
    """A port that lets nobody finish connecting: its backlog is full."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port: int = self._listening.getsockname()[1]
        self._filling = []
        for _ in range(4):
            filling = socket.socket()
            filling.setblocking(False)
            filling.connect_ex(("127.0.0.1", self.port))
            self._filling.append(filling)
        _opened.append(self)

    def backend(self, name: str) -> Backend:
        """As the engine's tables name it."""
        return Backend(name, "127.0.0.1", self.port, 1, up=True)

    def close(self) -> None:
        """Close all sockets."""
        for each in (*self._filling, self._listening):
            each.close()


def tcp_tables(port: int, *backends: Backend, address: str = "127.0.0.1") -> Tables:
    """One TCP listener with one service named "s"."""
    listener = Listener(address, port, "s", http=False)
    return Tables((listener,), (Service("s", backends),), ())


def udp_tables(port: int, *backends: Backend, address: str = "127.0.0.1") -> Tables:
    """One UDP listener with one service named "s"."""
    listener = Listener(address, port, "s", http=False, udp=True)
    return Tables((listener,), (Service("s", backends),), ())


def connect(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A client that does not wait for ever."""
    return socket.create_connection((address, port), timeout=PATIENCE_S)


def read_all(client: socket.socket) -> bytes:
    """Everything up to the end."""
    parts = []
    while data := client.recv(1 << 18):
        parts.append(data)
    return b"".join(parts)


def read_exactly(client: socket.socket, size: int) -> bytes:
    """That many bytes, fewer only at the end."""
    parts = []
    while size > 0 and (data := client.recv(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def ask(port: int, text: bytes = b"hello") -> bytes:
    """What comes back for `text` and an end."""
    with connect(port) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def reset(connection: socket.socket) -> None:
    """Break it off: its peer gets a RST."""
    break_off(connection)
    connection.close()


def break_off(connection: socket.socket) -> None:
    """Have its close be a RST (socket(7), SO_LINGER)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def pipe_ends() -> int:
    """Ends of pipes that this process has open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(entry).startswith("pipe:")
    return found


def kernel_takes(connections: int) -> int:
    """More bytes than so many connections in a row hold (tcp(7): tcp_rmem, tcp_wmem)."""
    limits = (Path(f"/proc/sys/net/ipv4/tcp_{kind}mem").read_text() for kind in "rw")
    return connections * sum(int(limit.split()[2]) for limit in limits) + (8 << 20)


@contextlib.contextmanager
def running(*, workers: int = 1, connections: int = 256) -> Iterator[Engine]:
    """A started engine."""
    engine = Engine(workers=workers, connections=connections, hash_key=bytes(range(16)))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
