"""TCP through the engine, with real sockets on both sides."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from fastpath.engine import Engine, Listener, Service
from tests.fastpath.peers import (
    Refusing,
    Server,
    Silent,
    ask,
    connect,
    echo,
    kernel_takes,
    read_all,
    read_exactly,
    reset,
    running,
    tcp_tables,
)
from tests.net import free_port
from tests.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running() as started:
        yield started


@pytest.fixture
def port() -> int:
    return free_port()


def test_bytes_go_both_ways(engine: Engine, port: int) -> None:
    engine.publish(tcp_tables(port, Server().backend("a")))
    with connect(port) as client:
        for text in (b"one", b"two", b"x" * 100_000):
            client.sendall(text)
            assert read_exactly(client, len(text)) == text


def test_a_backend_that_speaks_first_is_heard(engine: Engine, port: int) -> None:
    engine.publish(tcp_tables(port, Server(lambda c: c.sendall(b"220 ready")).backend("a")))
    with connect(port) as client:
        assert read_all(client) == b"220 ready"


def test_64_mib_arrive_unchanged_at_a_client_that_reads_slowly(engine: Engine, port: int) -> None:
    engine.publish(tcp_tables(port, Server().backend("a")))
    block = random.Random(1).randbytes(4 * MIB)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send(client: socket.socket) -> None:
        for turn in range(16):
            part = block[turn:] + block[:turn]
            sent.update(part)
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)

    with connect(port) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sender = threading.Thread(target=send, args=(client,))
        sender.start()
        n_bytes = 0
        while data := client.recv(1 << 17):
            received.update(data)
            n_bytes += len(data)
            if n_bytes < 8 * MIB:
                time.sleep(0.005)
        sender.join()
    assert n_bytes == 64 * MIB
    assert received.digest() == sent.digest()
    counters = engine.stats()["services"]["s"]["a"]
    assert counters["bytes_in"] == counters["bytes_out"] == 64 * MIB


def test_nothing_is_read_ahead_of_a_backend_that_does_not_read(engine: Engine, port: int) -> None:
    go_on = threading.Event()

    def late(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        go_on.wait(20)
        connection.sendall(hashlib.sha256(read_all(connection)).digest())

    engine.publish(tcp_tables(port, Server(late).backend("a")))
    block = random.Random(2).randbytes(MIB) * (kernel_takes(2) // MIB)
    with connect(port) as client:
        sender = threading.Thread(target=lambda: client.sendall(block))
        sender.start()
        sender.join(0.5)
        assert sender.is_alive(), "the kernel's buffers took it all"
        go_on.set()
        sender.join()
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == hashlib.sha256(block).digest()


def test_a_client_that_ends_first_still_gets_the_answer(engine: Engine, port: int) -> None:
    def answer_at_the_end(connection: socket.socket) -> None:
        connection.sendall(b"got " + read_all(connection))

    engine.publish(tcp_tables(port, Server(answer_at_the_end).backend("a")))
    assert ask(port, b"all of it") == b"got all of it"
    wait_until(lambda: engine.active() == 0)


def test_a_backend_that_ends_first_still_gets_the_rest(engine: Engine, port: int) -> None:
    heard: list[bytes] = []

    def end_first(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        heard.append(read_all(connection))

    engine.publish(tcp_tables(port, Server(end_first).backend("a")))
    with connect(port) as client:
        assert read_all(client) == b"bye"
        client.sendall(b"one more thing")
    wait_until(lambda: heard == [b"one more thing"])
    wait_until(lambda: engine.active() == 0)


def test_an_answer_arrives_although_the_backend_closed_on_unread_bytes(
    engine: Engine, port: int
) -> None:
    def answer_early(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"too much")
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.05)

    engine.publish(tcp_tables(port, Server(answer_early).backend("a")))
    with connect(port) as client:
        stop = threading.Event()

        def pour() -> None:
            try:
                while not stop.is_set():
                    client.sendall(b"y" * 10_000)
            except OSError:
                pass

        pourer = threading.Thread(target=pour)
        pourer.start()
        assert read_all(client) == b"too much"
        stop.set()
        pourer.join()


def test_a_reset_by_the_client_reaches_the_backend(engine: Engine, port: int) -> None:
    errors: list[type[Exception]] = []

    def note(connection: socket.socket) -> None:
        connection.sendall(b"hi")
        try:
            connection.recv(10)
        except OSError as error:
            errors.append(type(error))

    engine.publish(tcp_tables(port, Server(note).backend("a")))
    client = connect(port)
    assert client.recv(2) == b"hi"
    reset(client)
    wait_until(lambda: errors == [ConnectionResetError])
    wait_until(lambda: engine.active() == 0)


def test_a_reset_by_the_backend_reaches_the_client(engine: Engine, port: int) -> None:
    def rude(connection: socket.socket) -> None:
        connection.recv(10)
        reset(connection)

    engine.publish(tcp_tables(port, Server(rude).backend("a")))
    with connect(port) as client:
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_the_next_choice_serves_when_the_first_refuses(engine: Engine, port: int) -> None:
    refusing = [Refusing() for _ in range(3)]
    backends = [each.backend(f"bad{i}") for i, each in enumerate(refusing)]
    engine.publish(tcp_tables(port, *backends, Server().backend("good")))
    for i in range(40):
        assert ask(port, b"%d" % i) == b"%d" % i
    counters = engine.stats()["services"]["s"]
    assert counters["good"]["connections"] == 40
    assert all(counters[f"bad{i}"]["connect_failures"] > 0 for i in range(3))
    assert all(counters[f"bad{i}"]["active"] == 0 for i in range(3))


def test_the_next_choice_serves_when_the_first_does_not_answer(engine: Engine, port: int) -> None:
    silent = Silent()
    tables = tcp_tables(port, silent.backend("silent"), Server().backend("good"))
    service = Service("s", tables.services[0].backends, connect_timeout_ms=50)
    engine.publish(tables._replace(services=(service,)))
    for _ in range(20):
        assert ask(port) == b"hello"
    assert engine.stats()["services"]["s"]["silent"]["connect_failures"] > 0
    silent.close()


def test_a_client_is_sent_away_when_every_backend_refuses(engine: Engine, port: int) -> None:
    refusing = [Refusing(), Refusing()]
    backends = [each.backend(f"bad{i}") for i, each in enumerate(refusing)]
    engine.publish(tcp_tables(port, *backends))
    with connect(port) as client:
        assert client.recv(10) == b""
    wait_until(lambda: engine.stats()["rejected"]["connect_failed"] == 1)
    wait_until(lambda: engine.active() == 0)


def test_the_next_choice_is_never_a_backend_that_is_down_or_weighs_nothing(
    engine: Engine, port: int
) -> None:
    down, weightless = Server(), Server()
    backends = (down.backend("down", up=False), weightless.backend("none", weight=0))
    engine.publish(tcp_tables(port, Refusing().backend("bad"), *backends))
    for _ in range(8):
        with connect(port) as client:
            assert client.recv(10) == b""
    assert down.n_accepted == weightless.n_accepted == 0


def test_a_client_is_sent_away_when_no_backend_is_usable(engine: Engine, port: int) -> None:
    server = Server()
    down, weightless = server.backend("down", up=False), server.backend("weightless", weight=0)
    for backends in ((), (down,), (down, weightless)):
        engine.publish(tcp_tables(port, *backends))
        with connect(port) as client:
            assert client.recv(10) == b""
    wait_until(lambda: engine.stats()["rejected"]["no_backend"] == 3)
    assert server.n_accepted == 0


def test_a_silent_connection_is_closed_after_the_idle_time(engine: Engine, port: int) -> None:
    tables = tcp_tables(port, Server().backend("a"))
    service = Service("s", tables.services[0].backends, idle_timeout_ms=300)
    engine.publish(tables._replace(services=(service,)))
    with connect(port) as client:
        begin = time.monotonic()
        for _ in range(4):
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            time.sleep(0.1)
        assert client.recv(1) == b""
        assert time.monotonic() - begin > 0.55, "it counts from the last byte"
    wait_until(lambda: engine.active() == 0)


def test_every_backend_gets_its_share_by_weight(engine: Engine, port: int) -> None:
    servers = [Server() for _ in range(3)]
    weights = (1, 1, 2)
    backends = [
        server.backend(f"b{i}", weight=weight)
        for i, (server, weight) in enumerate(zip(servers, weights, strict=True))
    ]
    engine.publish(tcp_tables(port, *backends))
    for _ in range(200):
        assert ask(port, b"x") == b"x"
    shares = [server.n_accepted for server in servers]
    assert sum(shares) == 200
    assert all(
        20 * weight < share < 80 * weight for share, weight in zip(shares, weights, strict=True)
    )


def test_a_draining_listener_accepts_and_its_streams_live_until_they_are_cut(
    engine: Engine, port: int
) -> None:
    errors: list[type[Exception]] = []

    def note(connection: socket.socket) -> None:
        try:
            echo(connection)
        except OSError as error:
            errors.append(type(error))

    tables = tcp_tables(port, Server(note).backend("a"))
    stays, moves = (Listener(each, port, "s", http=False) for each in ("127.0.0.1", "127.0.0.2"))
    engine.publish(tables._replace(listeners=(stays, moves)))
    with connect(port) as elsewhere, connect(port, "127.0.0.2") as before:
        before.sendall(b"1")
        assert before.recv(1) == b"1"
        engine.publish(tables._replace(listeners=(stays, moves._replace(draining=True))))
        with connect(port, "127.0.0.2") as after:
            for client in (elsewhere, before, after):
                client.sendall(b"x" * 100_000)
                assert read_exactly(client, 100_000) == b"x" * 100_000
            assert engine.cut("127.0.0.2") == 2
            for client in (before, after):
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        wait_until(lambda: errors == [ConnectionResetError] * 2)
        assert engine.active() == 1
        elsewhere.sendall(b"alive")
        assert read_exactly(elsewhere, 5) == b"alive"
    wait_until(lambda: engine.active() == 0)


def test_a_stream_that_is_being_connected_is_cut(engine: Engine, port: int) -> None:
    silent = Silent()
    engine.publish(tcp_tables(port, silent.backend("silent")))
    with connect(port) as client:
        wait_until(lambda: engine.active_on("127.0.0.1") == 1)
        assert engine.cut("127.0.0.1") == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    counters = engine.stats()["services"]["s"]["silent"]
    assert counters["active"] == counters["open"] == engine.active() == 0
    silent.close()


def test_ipv6_is_served_and_reached() -> None:
    with running() as engine:
        port = free_port("::1")
        engine.publish(tcp_tables(port, Server(address="::1").backend("a"), address="::1"))
        with connect(port, "::1") as client:
            client.sendall(b"six")
            assert read_exactly(client, 3) == b"six"
        assert engine.stats()["listeners"][f"[::1]:{port}"] == {"accepted": 1}
