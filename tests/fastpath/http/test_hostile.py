"""Backends that do not keep to the protocol, and clients that vanish."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import pytest

from fastpath.engine import Engine
from tests.fastpath.http.gateways import Client, Peer, Seen, Web, ok, scripted, serving, tables, to
from tests.fastpath.peers import Silent, break_off, reset, running
from tests.net import free_port
from tests.waiting import wait_until

STRAY = ok(b"stolen")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ENDING = GET[:-2] + b"Connection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


# ---- what comes on an idle connection ----


@pytest.mark.parametrize("request_", [GET, POST])
@pytest.mark.parametrize("more", [STRAY, b"x", b"", None])
def test_nothing_that_comes_unasked_reaches_the_next_client(
    request_: bytes, more: bytes | None
) -> None:
    """`more`: what the backend sends after its response; nothing: the end; None: a reset."""
    for _ in range(4):
        sends, sent = threading.Event(), threading.Event()

        def talk(peer: Peer, sends: threading.Event = sends, sent: threading.Event = sent) -> None:
            peer.request()
            peer.send(ok(b"mine"))
            sends.wait(20)
            if more:
                peer.send(more)
            elif more is None:
                break_off(peer.socket)
                peer.file.close()
                peer.socket.close()
            else:
                peer.socket.shutdown(socket.SHUT_WR)
            sent.set()
            if more is not None and peer.request() is not None:
                peer.send(ok(b"of the first"))

        server = scripted(talk)
        with (
            serving(server.backend("b")) as (_, port),
            Client(port) as first,
            Client(port) as second,
        ):
            first.send(request_)
            assert first.response()[2] == b"mine"
            sends.set()
            assert sent.wait(20)
            second.send(request_)
            assert second.response()[2] == b"mine"
        assert server.n_accepted == 2


@pytest.mark.parametrize("size", [16384, 16383, 16385, 40])
def test_what_comes_behind_a_response_goes_to_nobody(size: int) -> None:
    """However the responses lie in the buffer, which has 16384 bytes."""
    head = len(ok(b"x" * 16300)) - 16300
    body = b"x" * (size - head)
    web = Web(lambda *_: ok(body) + STRAY)
    with serving(web.backend()) as (_, port), Client(port) as client:
        client.send(GET * 10)
        for _ in range(10):
            assert client.response()[2] == body
        assert web.server.n_accepted == 10


def test_a_response_that_comes_too_late_goes_to_nobody() -> None:
    goes_on = threading.Event()

    def answer(_peer: Peer, seen: Seen) -> bytes:
        if "/slow" in seen.line:
            goes_on.wait(20)
        return ok(seen.line.encode())

    web = Web(answer)
    route = to(backend_timeout_ms=50)
    with serving(web.backend(), routes=(route,)) as (_, port), Client(port) as client:
        assert client.get("/slow")[0] == 504
        goes_on.set()
        for _ in range(5):
            assert client.get("/fast")[2] == b"GET /fast HTTP/1.1"


def test_a_response_before_the_body_is_through_spoils_the_connection_for_others() -> None:
    """The rest of the body must not become the head of the next request."""

    def talk(peer: Peer) -> None:
        seen = peer.head()
        assert seen is not None
        if seen.line.startswith("POST"):
            peer.send(ok(b"early"))
            peer.file.read()
        peer.send(ok(seen.line.encode()))

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhi")
        status, fields, body = client.response()
        assert (status, fields["connection"], body) == (200, "close", b"early")
        with Client(port) as other:
            assert other.get()[2] == b"GET / HTTP/1.1"


# ---- what comes for ever ----


@pytest.mark.parametrize(
    ("begin", "piece", "statuses"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", {502}),
        (b"HTTP/1.1 200 OK\r\nA: ", b"b", {502}),
        (b"HTTP/1.1 200 ", b"O", {502}),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n", {502}),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", {502}),
        (CHUNKED, b"0", {200, 502}),
        (CHUNKED + b"1;", b"a", {200, 502}),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"A: b\r\n", {200, 502}),
        (CHUNKED + b"1\r\na\r\n0\r\nA: ", b"b", {200, 502}),
    ],
)
def test_what_would_take_a_hundred_megabytes_is_cut_off_in_time(
    begin: bytes, piece: bytes, statuses: set[int]
) -> None:
    """A head that was good has been passed on by then, or not."""
    sent = []
    over = threading.Event()

    def talk(peer: Peer) -> None:
        peer.request()
        many = piece * (65536 // len(piece))
        try:
            peer.send(begin)
            while sum(sent) < 100 << 20:
                sent.append(peer.socket.send(many))
        except OSError:
            over.set()

    server = scripted(talk)
    with serving(server.backend("b")) as (engine, port), Client(port) as client:
        client.send(ENDING)
        got = client.rest()
        while got.startswith(b"HTTP/1.1 10"):
            got = got[got.index(b"\r\n\r\n") + 4 :]
        assert int(got[9:12]) in statuses
        assert not got.endswith(b"0\r\n\r\n")
        assert over.wait(20)
        assert sum(sent) < 50 << 20
        client.socket.close()
        wait_until(lambda: engine.active() == 0)


# ---- what breaks off ----


@pytest.mark.parametrize("response", [
    ok(b"0123456789"), CHUNKED + b"5\r\n01234\r\n5\r\n56789\r\n0\r\nA: b\r\n\r\n",
])  # fmt: skip
@pytest.mark.parametrize("end", [lambda _: None, break_off], ids=["end", "reset"])
def test_a_response_cut_at_any_byte_is_never_taken_for_whole(
    response: bytes, end: Callable[[socket.socket], None]
) -> None:
    at = iter(range(len(response)))
    lock = threading.Lock()

    def talk(peer: Peer) -> None:
        peer.request()
        with lock:
            part = response[: next(at)]
        peer.send(part)
        end(peer.socket)

    server = scripted(talk)
    with serving(server.backend("b")) as (engine, port):
        for _ in response:
            with Client(port) as client:
                client.send(ENDING)
                got = client.rest()
            if got.startswith(b"HTTP/1.1 502"):
                continue
            assert got.startswith(b"HTTP/1.1 200")
            head, _, body = got.partition(b"\r\n\r\n")
            if b"chunked" in head:
                assert not body.endswith(b"\r\n\r\n")
            else:
                assert len(body) < 10
        wait_until(lambda: engine.active() == 0)


# ---- clients ----


def clients_are_served(port: int, n: int) -> None:
    """As many at a time as there may be: nothing has leaked."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(n)]
        for _ in range(2):
            for client in clients:
                client.send(POST)
            assert [client.response()[0] for client in clients] == [200] * n


def nothing_is_left(engine: Engine, n_clients: int) -> None:
    """Of so many clients in all."""
    wait_until(
        lambda: sum(one["accepted"] for one in engine.stats()["listeners"].values()) == n_clients
    )
    wait_until(lambda: engine.active() == 0)
    wait_until(lambda: engine.stats()["services"]["s"]["b"]["active"] == 0)


@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "end"])
def test_a_client_may_vanish_at_any_byte(leave: Callable[[socket.socket], None]) -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"
    )
    request = (
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: B\r\n\r\n"
        b"4\r\nwxyz\r\n0\r\nB: c\r\n\r\n"
    )

    def talk(peer: Peer) -> None:
        with contextlib.suppress(ValueError):  # the end in the middle of a chunk
            while (seen := peer.request()) is not None:
                peer.send(ok() if seen.body == b"hi" else answer)

    server = scripted(talk)
    port = free_port()
    with running(connections=16) as engine:
        engine.publish(tables(port, server.backend("b"), body_idle_timeout_ms=200))
        for size in range(len(request) + 1):
            client = Client(port)
            client.send(request[:size])
            leave(client.socket)
        nothing_is_left(engine, len(request) + 1)
        # What goes out ends with the tables' dates taken off: as it came.
        for size in range(len(answer)):
            client = Client(port)
            client.send(request)
            client.socket.makefile("rb", buffering=0).read(size)
            leave(client.socket)
        nothing_is_left(engine, len(request) + 1 + len(answer))
        clients_are_served(port, 16)


def test_a_client_may_vanish_while_its_backend_is_being_connected_to() -> None:
    silent, web = Silent(), Web()
    port = free_port()
    with running(connections=16) as engine:
        for n in range(3):
            engine.publish(tables(port, silent.backend("b"), connect_timeout_ms=200))
            for _ in range(16):
                client = Client(port)
                client.send(POST)
                reset(client.socket)
            nothing_is_left(engine, 32 * n + 16)
            engine.publish(tables(port, web.backend()))
            clients_are_served(port, 16)
    silent.close()
