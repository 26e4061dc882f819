"""What streams: WebSockets over reloads, events without delay, uploads of any size."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from itertools import count
from pathlib import Path

import pytest

from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Peer,
    Web,
    ok,
    scripted,
    serving,
    tables,
    to,
)
from tests.fastpath.peers import kernel_takes, read_exactly, running
from tests.net import free_port
from tests.waiting import wait_until

UPLOAD_MB = int(os.environ.get("PIAGENT_UPLOAD_MB", "96"))
"""5120 by hand."""
GROWTH_MB = 24
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def echoing(peer: Peer) -> None:
    """Upgrade, then echo."""
    peer.head()
    peer.send(SWITCH)
    while data := peer.socket.recv(1 << 16):
        peer.send(data)


def test_no_websocket_is_lost_over_fifty_reloads() -> None:
    server, others = scripted(echoing), [Web() for _ in range(3)]
    with running(workers=2, connections=1024) as engine, contextlib.ExitStack() as stack:
        engine.publish(tables(port := free_port(), server.backend("ws")))
        clients = [stack.enter_context(Client(port)) for _ in range(200)]
        for client in clients:
            client.send(WEBSOCKET)
        for client in clients:
            assert b"101 Switching" in read_exactly(client.socket, len(SWITCH))
        for n in range(50):
            # Other backends, other routes, none at all; the one of the WebSockets comes and goes.
            backends = [web.backend(f"b{n}{i}") for i, web in enumerate(others)][: n % 4]
            backends += [server.backend("ws", weight=n % 2 + 1)] * (n % 3 != 0)
            routes = (to(), to(name="x", path=f"/{n}"), to("", name="y", path="/y"))[: n % 4]
            engine.publish(tables(port, *backends, routes=routes))
            for client in clients[n::50]:
                client.send(b"%05d" % n)
                assert read_exactly(client.socket, 5) == b"%05d" % n
        for n, client in enumerate(clients):
            client.send(b"%05d" % n)
        for n, client in enumerate(clients):
            assert read_exactly(client.socket, 5) == b"%05d" % n
        assert engine.active() == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_an_event_passes_before_there_is_another(chunked: bool) -> None:
    heard = threading.Semaphore(0)

    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(HEAD if chunked else b"HTTP/1.1 200 OK\r\n\r\n")
        for n in range(50):
            event = b"data: %d\n\n" % n
            peer.send(b"%x\r\n%s\r\n" % (len(event), event) if chunked else event)
            if not heard.acquire(timeout=20):
                return
        peer.send(b"0\r\n\r\n" if chunked else b"")

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        got = b""
        for n in range(50):
            while b"data: %d\n\n" % n not in got:
                got += client.socket.recv(1 << 16)
            heard.release()
        while not got.endswith(b"0\r\n\r\n"):
            got += client.socket.recv(1 << 16)


def test_a_piece_of_an_upload_passes_before_there_is_another() -> None:
    heard = threading.Semaphore(0)
    got: list[bytes] = []

    def talk(peer: Peer) -> None:
        peer.head()
        for piece in peer.chunks():
            got.append(piece)
            heard.release()
        peer.send(ok())

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(50):
            client.send(b"3\r\n%03d\r\n" % n)
            assert heard.acquire(timeout=20)
        client.send(b"0\r\n\r\n")
        assert client.response()[0] == 200
    assert got == [b"%03d" % n for n in range(50)]


def test_trailers_of_a_request_pass() -> None:
    trailers: list[bytes] = []

    def talk(peer: Peer) -> None:
        peer.head()
        while (line := peer.file.readline()) != b"0\r\n":
            peer.file.read(int(line, 16) + 2)
        while (line := peer.file.readline()) != b"\r\n":
            trailers.append(line)
        peer.send(ok())

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
        )
        assert client.response()[0] == 200
    assert trailers == [b"X-Sum: 7\r\n"]


def resident_mb() -> float:
    """Of this process, in which the engine is."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_an_upload_of_any_size_takes_no_memory() -> None:
    piece = bytes(1 << 20)

    def talk(peer: Peer) -> None:
        peer.head()
        room = memoryview(bytearray(1 << 20))
        left = UPLOAD_MB << 20
        while left:
            left -= peer.file.readinto(room[: min(left, len(room))])  # type: ignore[attr-defined]
        peer.send(ok())

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (UPLOAD_MB << 20), piece
        )
        before = resident_mb()
        most = before
        for _ in range(UPLOAD_MB - 1):
            client.send(piece)
            most = max(most, resident_mb())
        assert client.response()[0] == 200
    assert most - before < GROWTH_MB


def test_a_slow_reader_slows_its_backend_down() -> None:
    sent = count()
    moved = [0]
    piece = bytes(1 << 16)

    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        while True:
            peer.send(piece)
            moved[0] = next(sent)

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        limit = (kernel_takes(2) + (8 << 20)) // len(piece)
        stands = 0
        while stands < 20:
            before = moved[0]
            assert before < limit
            threading.Event().wait(0.02)
            stands = stands + 1 if moved[0] == before else 0
        stood_at = moved[0]
        read_exactly(client.socket, kernel_takes(2) + (16 << 20))
        wait_until(lambda: moved[0] > stood_at)
