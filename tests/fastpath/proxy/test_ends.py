"""How connections ended, how long they took, and who gives way when there is no room."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from fastpath.engine import Engine, Listener, Service, Tables
from tests.fastpath.peers import (
    Refusing,
    Server,
    connect,
    echo,
    read_all,
    read_exactly,
    reset,
    running,
    tcp_tables,
)
from tests.net import free_port
from tests.waiting import wait_until


def ended(engine: Engine) -> dict[str, int]:
    """How connections ended, without zeros."""
    return {how: n for how, n in engine.stats()["ends"]["s"]["ended"].items() if n}


def test_who_ended_first_is_noted() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tcp_tables(port, Server().backend("a")))
        with connect(port) as client:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"x"
        wait_until(lambda: ended(engine) == {"client": 1})
        engine.publish(tcp_tables(port, Server(lambda c: c.sendall(b"y")).backend("a")))
        with connect(port) as client:
            assert read_all(client) == b"y"
        wait_until(lambda: ended(engine) == {"client": 1, "backend": 1})


def test_who_broke_it_off_is_noted() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tcp_tables(port, Server().backend("a")))
        client = connect(port)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        reset(client)
        wait_until(lambda: ended(engine) == {"client_reset": 1})
        engine.publish(tcp_tables(port, Server(reset).backend("a")))
        with pytest.raises(ConnectionResetError), connect(port) as client:
            client.recv(1)
        wait_until(lambda: ended(engine) == {"client_reset": 1, "backend_reset": 1})


def test_silence_a_cut_and_a_drained_backend_are_noted() -> None:
    with running() as engine:
        port = free_port()
        backend = Server().backend("a")
        listener = Listener("127.0.0.1", port, "s", http=False)
        engine.publish(Tables((listener,), (Service("s", (backend,), idle_timeout_ms=100),), ()))
        with connect(port) as client:
            assert client.recv(1) == b""
        wait_until(lambda: ended(engine) == {"idle": 1})
        engine.publish(tcp_tables(port, backend))
        for cut in (lambda: engine.cut("127.0.0.1"), lambda: engine.cut_backends([("s", "a")])):
            with connect(port) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                cut()
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        wait_until(lambda: ended(engine) == {"idle": 1, "cut": 1, "drained": 1})


def test_times_are_kept_in_histograms() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tcp_tables(port, Server(lambda c: time.sleep(0.06)).backend("a")))
        for _ in range(3):
            with connect(port) as client:
                assert client.recv(1) == b""
        wait_until(lambda: sum(ended(engine).values()) == 3)
        counted = engine.stats()["services"]["s"]["a"]
        assert counted["connect_seconds"]["count"] == 3
        assert 0 < counted["connect_seconds"]["sum"] < 3
        session = counted["session_seconds"]
        assert session["count"] == 3
        assert session["sum"] >= 3 * 0.05
        below = dict(session["buckets"])
        assert below[0.04] == 0
        assert below[None] == 3


def test_those_that_were_turned_away_count_for_their_service() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tcp_tables(port, Refusing().backend("a")))
        with connect(port) as client:
            assert client.recv(1) == b""
        wait_until(lambda: engine.stats()["ends"]["s"]["rejected"]["connect_failed"] == 1)
        assert ended(engine) == {}


def test_another_service_in_the_place_of_one_that_is_gone_begins_at_zero() -> None:
    with running() as engine:
        port = free_port()
        server = Server()
        engine.publish(tcp_tables(port, server.backend("a")))
        with connect(port) as client:
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
        wait_until(lambda: sum(ended(engine).values()) == 1 and engine.active() == 0)
        empty = Tables((), (), ())
        for _ in range(3):
            engine.publish(empty)
        listener = Listener("127.0.0.1", port, "t", http=False)
        engine.publish(Tables((listener,), (Service("t", (server.backend("a"),)),), ()))
        assert not any(engine.stats()["ends"]["t"]["ended"].values())
        assert engine.stats()["services"]["t"]["a"]["session_seconds"]["count"] == 0


def test_the_longest_idle_connection_gives_way_and_busy_ones_live_on() -> None:
    with running(connections=8) as engine:
        port = free_port()
        engine.publish(tcp_tables(port, Server().backend("a")))
        clients = [connect(port) for _ in range(8)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        stop = threading.Event()

        def chat(client: socket.socket) -> None:
            while not stop.is_set():
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                time.sleep(0.02)

        busy = [threading.Thread(target=chat, args=(client,)) for client in clients[1:]]
        for each in busy:
            each.start()
        time.sleep(1.2)
        with connect(port) as late:
            late.sendall(b"y")
            assert read_exactly(late, 1) == b"y"
            with pytest.raises(ConnectionResetError):
                clients[0].recv(1)
            stop.set()
            for each in busy:
                each.join()
            assert ended(engine) == {"evicted": 1}
        for client in clients:
            client.close()


def test_a_client_that_never_said_anything_gives_way_before_one_that_did() -> None:
    with running(connections=4) as engine:
        port = free_port()
        engine.publish(tcp_tables(port, Server(echo).backend("a")))
        first = connect(port)
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        silent = [connect(port) for _ in range(3)]
        wait_until(lambda: engine.active() == 4)
        time.sleep(1.2)
        with connect(port) as late:
            late.sendall(b"y")
            assert read_exactly(late, 1) == b"y"
            first.sendall(b"z")
            assert first.recv(1) == b"z"
        for client in (first, *silent):
            client.close()
