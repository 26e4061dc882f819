"""Long bodies go through pipes: they arrive as they were sent, in every order of events."""

from __future__ import annotations

import random
import socket
import threading
import time

import pytest

from tests.fastpath.http.gateways import Client, Peer, Web, ok, scripted, serving
from tests.fastpath.peers import break_off, pipe_ends
from tests.waiting import wait_until

MIB = 1 << 20
SPLICE_FROM = 4 * 16384
PIPES_MAX = 32
SIZES = [1, SPLICE_FROM - 1, SPLICE_FROM, SPLICE_FROM + 16384, MIB + 17, 12 * MIB]
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def random_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_bodies_of_every_size_pass_both_ways_on_one_connection_and_are_counted() -> None:
    web = Web(lambda _peer, seen: ok(seen.body[::-1]))
    with serving(web.backend()) as (engine, port), Client(port) as client:

        def moved() -> int:
            counted: dict[str, int] = engine.stats()["services"]["s"]["b"]
            return counted["bytes_in"] + counted["bytes_out"]

        n_bytes = 0
        for size in SIZES:
            data = random_bytes(size)
            sending = threading.Thread(target=client.send, args=(POST % size, data))
            sending.start()
            assert client.response()[2] == data[::-1]
            sending.join()
            n_bytes += 2 * size
            wait_until(lambda n=n_bytes: n < moved())
        assert moved() < n_bytes + 1000 * len(SIZES)
        assert client.get()[0] == 200
        assert web.server.n_accepted == 1


def test_a_long_body_takes_a_pipe_that_others_take_after_it_and_a_short_one_none() -> None:
    before = pipe_ends()
    web = Web(lambda _peer, seen: ok(bytes(int(seen.line.split()[1][1:]))))
    with serving(web.backend()) as (_, port):
        for _ in range(3):
            with Client(port) as client:
                client.get("/1000")
        assert pipe_ends() == before
        for _ in range(5):
            with Client(port) as client:
                assert len(client.get(f"/{8 * MIB}")[2]) == 8 * MIB
        assert pipe_ends() - before == 2
    assert pipe_ends() == before


def test_more_long_bodies_than_there_are_pipes_all_arrive() -> None:
    """Their clients do not read at first, so that every pipe is full and out."""
    data = random_bytes(6 * MIB)
    web = Web(lambda _peer, _seen: ok(data))
    before = pipe_ends()
    with serving(web.backend()) as (_, port):
        clients = [Client(port) for _ in range(PIPES_MAX + 8)]
        for client in clients:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: pipe_ends() - before == 2 * PIPES_MAX)
        for client in clients:
            assert client.response()[2] == data
            client.socket.close()


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
def test_a_long_body_that_the_backend_cuts_is_seen_to_be_cut(reset: bool) -> None:
    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (8 * MIB), bytes(3 * MIB))
        if reset:
            gate.wait(20)
            break_off(peer.socket)

    gate = threading.Event()
    server = scripted(talk)
    with serving(server.backend("b")) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        got = len(client.socket.recv(1000))
        while got < 3 * MIB:
            got += len(client.socket.recv(MIB))
        gate.set()
        rest = client.rest()
        assert 3 * MIB < got + len(rest) < 3 * MIB + 1000
        wait_until(lambda: engine.stats()["http"]["rejected"]["upstream"] == 1)
        wait_until(lambda: engine.active() == 0)


def test_a_client_that_vanishes_in_a_long_body_leaves_no_bytes_to_the_next() -> None:
    web = Web(lambda _peer, seen: ok(seen.line.split()[1].encode() * (4 * MIB)))
    with serving(web.backend()) as (engine, port):
        for _ in range(4):
            with Client(port) as client:
                client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.socket.recv(1000)
                break_off(client.socket)
        wait_until(lambda: engine.active() == 0)
        with Client(port) as client:
            assert client.get("/b")[2] == b"/b" * (4 * MIB)


def test_an_old_client_gets_a_long_body_up_to_the_end() -> None:
    data = random_bytes(5 * MIB)
    server = scripted(
        lambda peer: peer.send(b"HTTP/1.1 200 OK\r\n\r\n", data) if peer.head() else None
    )
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert client.rest().partition(b"\r\n\r\n")[2] == data


def test_a_long_body_that_comes_in_pieces_large_and_small_arrives() -> None:
    pieces = [b"a" * 100, b"b" * 300_000, b"c", b"d" * 20_000, b"e" * 5000, b"f" * 700_000, b"g"]
    data = b"".join(pieces)

    def talk(peer: Peer) -> None:
        while peer.head():
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
            for piece in pieces:
                time.sleep(0.005)
                peer.send(piece)

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        for _ in range(5):
            assert client.get()[2] == data


def test_what_follows_a_long_body_is_the_next_request() -> None:
    web = Web()
    data = random_bytes(MIB)
    with serving(web.backend()) as (_, port), Client(port) as client:
        sending = threading.Thread(
            target=client.send, args=(POST % MIB, data, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        )
        sending.start()
        assert client.response()[2] == data
        assert client.response()[2] == b"GET /next HTTP/1.1"
        sending.join()
