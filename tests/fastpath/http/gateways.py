"""Gateways, HTTP backends and clients on loopback, for the tests of real exchanges."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any, Self

from fastpath.engine import Backend, Engine, Gateway, Listener, Route, Service, Tables, Target
from tests.fastpath.peers import Server, connect, running
from tests.net import free_port

WEBSOCKET = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@dataclass
class Seen:
    """A request as a backend got it."""

    line: str
    fields: list[tuple[str, str]]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]


class Peer:
    """A backend's end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.file = connection.makefile("rb")

    def head(self) -> Seen | None:
        """The next request's head; None at the end."""
        line = self.file.readline()
        if not line:
            return None
        fields = []
        while (text := self.file.readline().decode("latin-1").strip("\r\n")) != "":
            name, _, value = text.partition(": ")
            fields.append((name, value))
        return Seen(line.decode("latin-1").rstrip("\r\n"), fields)

    def chunks(self) -> Iterator[bytes]:
        """A chunked body, trailers left out."""
        while size := int(self.file.readline().strip(), 16):
            yield self.file.read(size)
            assert self.file.readline() == b"\r\n"
        while self.file.readline() not in {b"\r\n", b""}:
            pass

    def request(self) -> Seen | None:
        """The next request with its body."""
        seen = self.head()
        if seen is None:
            return None
        if seen.all("transfer-encoding"):
            seen.body = b"".join(self.chunks())
        elif length := seen.all("content-length"):
            seen.body = self.file.read(int(length[0]))
        return seen

    def send(self, *parts: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(b"".join(parts))


def ok(body: bytes = b"hello", *fields: bytes) -> bytes:
    """A response with a length."""
    extra = b"".join(line + b"\r\n" for line in fields)
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (extra, len(body), body)


Answer = Callable[[Peer, Seen], bytes]


@dataclass
class Web:
    """A backend that answers requests with what `answer` makes of them."""

    answer: Answer = lambda _peer, seen: ok(seen.body or seen.line.encode())
    requests: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = Server(self._serve)

    def _serve(self, connection: socket.socket) -> None:
        peer = Peer(connection)
        while (seen := peer.request()) is not None:
            self.requests.append(seen)
            peer.send(self.answer(peer, seen))

    def backend(self, name: str = "b", *, up: bool = True) -> Backend:
        """As the engine's tables name it."""
        return self.server.backend(name, up=up)


def scripted(handler: Callable[[Peer], None]) -> Server:
    """A backend whose connections run `handler`."""
    return Server(lambda connection: handler(Peer(connection)))


def to(service: str = "s", **changes: Any) -> Route:
    """A route for every request, changed as asked."""
    targets = (Target(service),) if service else ()
    return Route("r", "", "/", exact=False, targets=targets, request_timeout_ms=0,
                 backend_timeout_ms=10_000)._replace(**changes)  # fmt: skip


def tables(
    port: int, *backends: Backend, routes: tuple[Route, ...] = (to(),), **timeouts: int
) -> Tables:
    """One HTTP listener, one gateway "g", one service "s"."""
    return Tables(
        (Listener("127.0.0.1", port, "g", http=True),),
        (Service("s", backends, connect_timeout_ms=timeouts.pop("connect_timeout_ms", 3000)),),
        (Gateway("g", False, routes, **timeouts),),
    )


@contextlib.contextmanager
def serving(*backends: Backend, workers: int = 1, **options: Any) -> Iterator[tuple[Engine, int]]:
    """A running gateway and its port."""
    with running(workers=workers) as engine:
        port = free_port()
        engine.publish(tables(port, *backends, **options))
        yield engine, port


class Client:
    """A client's connection."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.socket = connect(port, address)
        self.heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(b"".join(parts))

    def response(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """The next response: status, fields in lower case, body."""
        # HTTPResponse reads ahead into its own buffer, which would swallow a next response.
        unbuffered = _Unbuffered(self.socket)
        response = HTTPResponse(unbuffered, method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, body

    def get(self, path: str = "/", *fields: str) -> tuple[int, dict[str, str], bytes]:
        """One GET and its response."""
        lines = "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: a", *fields, ""))
        self.send(lines.encode())
        return self.response()

    def until_end(self) -> None:
        """Read up to an orderly end."""
        while data := self.socket.recv(1 << 16):
            self.heard += data

    def rest(self) -> bytes:
        """Everything up to the end, whatever that is."""
        self.heard = b""
        with contextlib.suppress(ConnectionResetError):
            self.until_end()
        return self.heard

    def is_closed(self) -> bool:
        """Wait for the end; whether nothing came before it."""
        return self.rest() == b""


class _Unbuffered:
    """What HTTPResponse wants of a socket, without a buffer of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb", buffering=0)

    def makefile(self, _mode: str) -> Any:
        """The file to read from: single reads of lines, exact reads of bodies."""
        return _Exact(self._file)


class _Exact:
    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def readline(self, limit: int = -1) -> bytes:
        line = b""
        while not line.endswith(b"\n") and (limit < 0 or len(line) < limit):
            byte = self._raw.read(1)
            if not byte:
                break
            line += byte
        return line

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size != 0:
            part = self._raw.read(size if size > 0 else 1 << 16)
            if not part:
                break
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
