"""Whole exchanges through a running gateway, with mutated bytes on both sides.

A client sends requests, in pieces, and ends its side; backends answer each with a response and end
theirs when it is mutated. What reaches a backend must read the same for h11, which knows nothing of
us, and be framed once; what reaches a client who asked properly must be a response or be cut.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

import h11

from fastpath.engine import Backend, Engine
from tests.fastpath.http.gateways import tables
from tests.net import free_port

LOCAL = "127.0.0.1"
PATIENCE_S = 20.0
BYTES = b'\r\n \t:;,="/\\%._-+#?*@\x00\x7f\x80\xff0123aAfFgGxX'
LENGTH = b"POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"
PLAIN = b"GET /p?q HTTP/1.1\r\nHost: a\r\n\r\n"
REQUESTS = (
    PLAIN,
    LENGTH,
    (
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n"
        b"0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n"
    ),
    (
        b"GET /a//b/./c/../d%2f%41 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n"
        b"Connection: X-Drop, keep-alive\r\nX-Drop: 1\r\nX_Under: 1\r\n\r\n"
    ),
    b"GET http://a/abs HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    b"PUT /big HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 200000\r\n\r\n"
    + b"b" * 200000,
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
    b"HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close, X-Drop\r\nX-Drop: 1\r\nContent-Length: 100000\r\n\r\n"
    + b"x" * 100000,
    b"HTTP/1.0 200 OK\r\n\r\nup to the end",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes",
)
LASTING = 4
"""The first so many responses leave the connection as it is."""


class Finding(AssertionError):
    """Something that must not be."""


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Some bytes changed, put in, taken out or doubled; mostly near the beginning, in the head."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(changed), 200) + 1)
        size = chance.choice((1, 1, 2, 30))
        what = chance.randrange(4)
        if what == 0:
            changed[at : at + 1] = bytes([chance.choice(BYTES)])
        elif what == 1:
            del changed[at : at + size]
        elif what == 2:
            changed[at:at] = bytes(chance.choices(BYTES, k=min(size, 2)))
        else:
            changed[at:at] = changed[at : at + size]
    return bytes(changed)


class Upstream:
    """A backend's end of a connection: reads strictly, answers each head."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        connection.settimeout(PATIENCE_S)
        self.socket = connection
        self.reader = h11.Connection(h11.SERVER)
        self.heard = b""
        self.is_over = False

    def read(self, answer: Callable[[], tuple[bytes, bool]]) -> bool:
        """Take what has come; False at the end."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            return False
        if not data:
            return False
        self.heard = self.heard[-4096:] + data
        if self.is_over:
            return True
        try:
            self.reader.receive_data(data)
            while self._event(answer):
                pass
        except h11.RemoteProtocolError as error:
            raise Finding(f"a backend got {self.heard[-600:]!r}: {error}") from error
        except OSError:
            self.is_over = True  # the gateway has given it up already
        return True

    def _event(self, answer: Callable[[], tuple[bytes, bool]]) -> bool:
        event = self.reader.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return False
        if isinstance(event, h11.Request):
            self._look_at(event)
        if isinstance(event, h11.EndOfMessage):
            self.reader.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            self.reader.send(h11.EndOfMessage())
            self.reader.start_next_cycle()
            response, goes_on = answer()
            self.socket.sendall(response)
            if not goes_on:
                self.socket.shutdown(socket.SHUT_WR)
                self.is_over = True
                return False
        return True

    def _look_at(self, request: h11.Request) -> None:
        def values(name: bytes) -> list[bytes]:
            return [value for key, value in request.headers if key == name]

        path = request.target.partition(b"?")[0]
        good = (
            len(values(b"host")) == 1
            and len(values(b"content-length")) + len(values(b"transfer-encoding")) <= 1
            and values(b"x-forwarded-for") == [LOCAL.encode()]
            and values(b"x-real-ip") == [LOCAL.encode()]
            and not [key for key, _ in request.headers if b"_" in key]
            and values(b"connection") in ([], [b"TE"], [b"Upgrade"])
            and (path == b"*" or path.startswith(b"/"))
            and not {b"//", b"/./", b"/../"}
            & {path[i : i + n] for i in range(9) for n in (2, 3, 4)}
        )
        if not good:
            raise Finding(f"a backend got {self.heard[-600:]!r}")


class Exchanges:
    """A gateway, its backend and its clients, in one thread but for the gateway's worker."""

    def __init__(self, choice: int) -> None:
        self.chance = random.Random(choice)
        self.selector = selectors.DefaultSelector()
        self.listening = socket.create_server((LOCAL, 0), backlog=128)
        self.listening.setblocking(False)
        self.selector.register(self.listening, selectors.EVENT_READ)
        self.engine = Engine(workers=1, connections=64)
        self.engine.start()
        self.port = free_port()
        backend = Backend("b", LOCAL, self.listening.getsockname()[1], 1, True)
        self.engine.publish(tables(self.port, backend))
        self.said: list[bytes] = []
        """By backends in the exchange under way."""
        self.answered = 0

    def close(self) -> None:
        """End all; the engine, when it is built to look, finds whether anything is left."""
        self.engine.stop()
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self.selector.close()

    def run_one(self) -> None:
        """One connection of a client, up to its end."""
        requests = [self.chance.choice(REQUESTS) for _ in range(self.chance.choice((1, 1, 2, 3)))]
        is_proper = self.chance.randrange(3) == 0
        if is_proper:
            requests = [PLAIN]
        sent = b"".join(requests)
        sent = sent if is_proper else mutated(self.chance, sent)
        self.said.clear()
        try:
            heard = self._exchange(sent, is_proper)
        except Finding as finding:
            raise Finding(f"a client sent {sent[:600]!r}\n{finding}") from finding
        if heard.startswith(b"HTTP/1.1 200"):
            self.answered += 1
        if is_proper:
            self._look_at(heard, self.said)

    def _answer(self, is_proper: bool) -> tuple[bytes, bool]:
        """A response, and whether the connection goes on after it."""
        number = self.chance.randrange(len(RESPONSES))
        response = RESPONSES[number]
        if is_proper or self.chance.randrange(4) == 0:
            response = mutated(self.chance, response)
            number = LASTING
        self.said.append(response)
        return response, number < LASTING

    def _exchange(self, sent: bytes, is_proper: bool) -> bytes:
        heard = b""
        with socket.create_connection((LOCAL, self.port), PATIENCE_S) as client:
            self.selector.register(client, selectors.EVENT_READ)
            cuts = sorted(self.chance.randrange(len(sent) + 1) for _ in range(3))
            pieces = [sent[a:b] for a, b in zip((0, *cuts), (*cuts, len(sent)), strict=True)]
            end = time.monotonic() + PATIENCE_S
            try:
                while True:
                    if pieces and self._send(client, pieces):
                        pieces = []
                    for key, _ in self.selector.select(0 if pieces else 0.5):
                        if key.fileobj is client:
                            data = client.recv(1 << 18)
                            if not data:
                                return heard
                            heard += data
                        else:
                            self._serve(key, lambda: self._answer(is_proper))
                    if time.monotonic() > end:
                        raise Finding(f"no end after {heard[:500]!r}")
            except (ConnectionResetError, BrokenPipeError):
                return heard
            finally:
                self.selector.unregister(client)

    @staticmethod
    def _send(client: socket.socket, pieces: list[bytes]) -> bool:
        """Send the next piece, as much as goes; whether that was all."""
        client.setblocking(False)
        try:
            n = client.send(pieces[0]) if pieces[0] else 0
            pieces[0] = pieces[0][n:]
        except BlockingIOError:
            return False
        finally:
            client.settimeout(PATIENCE_S)
        if not pieces[0]:
            del pieces[0]
        if not pieces:
            with contextlib.suppress(OSError):  # the gateway may have ended it
                client.shutdown(socket.SHUT_WR)
        return not pieces

    def _serve(self, key: Any, answer: Callable[[], tuple[bytes, bool]]) -> None:
        if key.data is None:
            connection, _ = self.listening.accept()
            self.selector.register(connection, selectors.EVENT_READ, Upstream(connection))
        elif not key.data.read(answer):
            self.selector.unregister(key.fileobj)
            key.fileobj.close()

    @staticmethod
    def _look_at(heard: bytes, said: list[bytes]) -> None:
        """Who sent PLAIN got a response, or one that is seen to be cut, or nothing more."""
        if heard.startswith(b"HTTP/1.1 101"):
            raise Finding(f"nobody asked for {heard[:500]!r}")
        answers = f"a client got {heard[:600]!r} for {[one[:600] for one in said]!r}"
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        try:
            reader.receive_data(heard)
            reader.receive_data(b"")
            while not isinstance(reader.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
                pass
        except h11.RemoteProtocolError as error:
            if "peer" not in str(error):  # closed the connection in the midst of it
                raise Finding(f"{answers}: {error}") from error


def exchange(n: int, *, choice: int, progress: Callable[[int], None] = lambda _: None) -> None:
    """So many exchanges; raises Finding, or AssertionError for what is left behind."""
    exchanges = Exchanges(choice)
    try:
        for number in range(n):
            exchanges.run_one()
            progress(number + 1)
        assert n < 100 or exchanges.answered > n / 20, "hardly anything was answered"
        end = time.monotonic() + PATIENCE_S
        while exchanges.engine.active():
            assert time.monotonic() < end, "a connection is left"
            time.sleep(0.01)
    finally:
        exchanges.close()
