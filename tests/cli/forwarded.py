"""For tests of port-forward: backends that say who they are, an agent's API on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self

from piagent.admin.server import AdminServer
from piagent.admin.status import Tunnel
from piagent.admin.tunnel import way
from piagent.core.model import Backend as ModelBackend
from piagent.core.model import Listen, Protocol, Service, ServicePort, ServiceType
from piagent.dataplane import EngineDataPlane
from tests.admin.test_server import Known
from tests.net import free_port
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef"
PIECE = 1 << 20
PATTERN = bytes(range(251)) * (PIECE // 251 + 2)


def pattern(size: int) -> Iterator[bytes]:
    """`size` bytes in pieces that differ from one another."""
    for number, start in enumerate(range(0, size, PIECE)):
        yield PATTERN[number % 251 :][: min(PIECE, size - start)]


def digest(size: int) -> str:
    """The sha256 of `pattern(size)`."""
    made = hashlib.sha256()
    for piece in pattern(size):
        made.update(piece)
    return made.hexdigest()


class Backend:
    """Does what the first line says: who, sink (all of it, then its sha256), source N, echo."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self._listener = socket.create_server((address, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self.sent = 0
        """Bytes that `source` has got rid of."""
        threading.Thread(target=self._accept, daemon=True).start()

    def kill(self) -> None:
        """Refuse new connections, and reset those that there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in tuple(self._open):
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                each.shutdown(socket.SHUT_RD)
                each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client:
            command, _, rest = _line(client).partition(" ")
            if command == "who":
                client.sendall(self.address.encode())
            elif command == "sink":
                made = hashlib.sha256()
                while data := client.recv(PIECE):
                    made.update(data)
                client.sendall(made.hexdigest().encode())
            elif command == "source":
                for piece in pattern(int(rest)):
                    client.sendall(piece)
                    self.sent += len(piece)
            elif command == "echo":
                while data := client.recv(PIECE):
                    client.sendall(data)
        self._open.discard(client)


def _line(client: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        more = client.recv(1)
        if not more:
            raise ValueError("the client has gone")
        line += more
    return line[:-1].decode()


class Source(Known):
    """One service of two backends, `web`, and one that is UDP."""

    def __init__(self, plane: EngineDataPlane, port: int) -> None:
        self._plane = plane
        self.down: frozenset[tuple[str, str]] = frozenset()
        self.offered = services(port)

    def tunnel(self, service: str, port: str, backend: str) -> Tunnel:
        return way(self.offered, self.down, (service, port, backend))

    def relay(self, client: socket.socket, backend: socket.socket) -> None:
        self._plane.relay(client, backend)

    def tunnels(self) -> int:
        return int(self._plane.stats()["relays"]["active"])


def services(port: int) -> tuple[Service, ...]:
    """`web` has ports 80 (http) and 81 (other); `dns` has UDP and TCP, `ntp` only UDP."""
    backends = tuple(ModelBackend(address=address) for address in ADDRESSES)
    udp = ServicePort(name="dns", port=53, target_port=port, protocol=Protocol.UDP)
    tcp = ServicePort(name="dns-tcp", port=53, target_port=port)
    ports = (
        ServicePort(name="http", port=80, target_port=port),
        ServicePort(name="other", port=81, target_port=port),
    )
    cluster = ServiceType.CLUSTER
    return (
        Service(name="web", type=cluster, ports=ports, backends=backends),
        Service(name="dns", type=cluster, ports=(udp, tcp), backends=backends),
        Service(name="ntp", type=cluster, ports=(udp,), backends=backends),
    )


_BLOCK = os.getpid() % 200 + 20
ADDRESSES = (f"127.{_BLOCK}.0.1", f"127.{_BLOCK}.0.2")
"""Of this test run alone, so that both can have one port."""


class House:
    """Two backends, and the API of an agent in a thread of its own with a real engine."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "admin.sock")
        self.port = free_port()
        first = Backend(ADDRESSES[0], 0)
        self.backends = (first, Backend(ADDRESSES[1], first.port))
        self._plane = EngineDataPlane(1, b"secret")
        self.source = Source(self._plane, first.port)
        listen = Listen(address="127.0.0.1", port=self.port)
        self._server = AdminServer(self.socket, self.source, listen, TOKEN)
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._server.start())
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def end(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()
        self._plane.stop()
        for each in self.backends:
            each.kill()


class Forward:
    """A `piagent port-forward` process; a context manager that waits for its ports."""

    def __init__(self, words: Sequence[str], *, lines: int = 1) -> None:
        self._lines = lines
        self._process = subprocess.Popen(
            [sys.executable, "-m", "piagent.cli", "port-forward", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PIAGENT_TOKEN": TOKEN},
        )
        self.said: list[str] = []
        self.warned: list[str] = []
        pipes = ((self._process.stdout, self.said), (self._process.stderr, self.warned))
        self._readers = [threading.Thread(target=_collect, args=each) for each in pipes]
        for each in self._readers:
            each.start()

    def __enter__(self) -> Self:
        try:
            wait_until(self._listens, lambda: f"{self._lines} lines: {self.said} {self.warned}")
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop(signal.SIGKILL)

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.warned
        return len(self.said) >= self._lines

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ports(self) -> list[int]:
        """Of the mappings, in their order."""
        lines = (re.match(r"Forwarding from .*:(\d+) ->", line) for line in tuple(self.said))
        return [int(found[1]) for found in lines if found]

    def connect(self, mapping: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[mapping]), PATIENCE_S)

    def who(self, mapping: int = 0) -> str:
        """The backend that a new connection gets to; empty: none."""
        with self.connect(mapping) as client:
            try:
                client.sendall(b"who\n")
                return read_all(client).decode()
            except ConnectionError:
                return ""

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code."""
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE_S)
        for each in self._readers:
            each.join(PATIENCE_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code


def _collect(pipe: IO[str], lines: list[str]) -> None:
    with contextlib.suppress(ValueError):
        for line in pipe:
            lines += [line.rstrip("\n")]


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def upload(client: socket.socket, size: int) -> str:
    """Send the pattern and the end; what the backend says its sha256 is."""
    client.sendall(b"sink\n")
    for piece in pattern(size):
        client.sendall(piece)
    client.shutdown(socket.SHUT_WR)
    return read_all(client).decode()


def download(client: socket.socket, size: int) -> tuple[int, str]:
    """How many bytes came, and their sha256."""
    client.sendall(b"source %d\n" % size)
    made, received = hashlib.sha256(), 0
    while data := client.recv(PIECE):
        made.update(data)
        received += len(data)
    return received, made.hexdigest()
