"""A record of each connection, for services that ask for it."""

from __future__ import annotations

import select
import socket
import time

from fastpath.engine import Backend, Engine, Listener, LogRecord, Service, Tables
from tests.fastpath.peers import Refusing, Server, connect, read_all, running
from tests.net import free_port
from tests.waiting import wait_until


def tables(port: int, *backends: Backend, logs: bool = True, name: str = "s") -> Tables:
    """One listener with one service."""
    service = Service(name, backends, logs=logs)
    return Tables((Listener("127.0.0.1", port, name, http=False),), (service,), ())


def talk(port: int, data: bytes) -> int:
    """One connection that sends and reads to the end; its port."""
    with connect(port) as client:
        mine: int = client.getsockname()[1]
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == data
        return mine


def wait_for_records(engine: Engine, n: int) -> list[LogRecord]:
    """As many, told by the descriptor."""
    records: list[LogRecord] = []
    end = time.monotonic() + 20
    while len(records) < n and time.monotonic() < end:
        if select.select([engine.log_fd()], [], [], 0.5)[0]:
            records += engine.read_log()
    assert len(records) == n
    return records


def test_a_record_says_who_where_how_long_how_much_and_how_it_ended() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, Server().backend("a")))
        before = time.time()
        mine = talk(port, b"hello")
        (record,) = wait_for_records(engine, 1)
        assert record[:6] == ("s", "a", "127.0.0.1", mine, "127.0.0.1", port)
        assert before - 0.1 <= record.started <= time.time() + 0.1
        assert record.connect_s is not None
        assert 0 <= record.connect_s <= record.duration_s <= time.time() - before + 0.1
        assert (record.bytes_in, record.bytes_out, record.end) == (5, 5, "client")
        assert engine.read_log() == []


def test_one_that_was_turned_away_has_a_record_too() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, Refusing().backend("a")))
        with connect(port) as client:
            assert client.recv(1) == b""
        (record,) = wait_for_records(engine, 1)
        assert (record.backend, record.connect_s, record.end) == (None, None, "connect_failed")


def test_services_that_do_not_ask_have_no_records() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, Server().backend("a"), logs=False))
        talk(port, b"x")
        wait_until(lambda: engine.active() == 0)
        assert engine.read_log() == []
        assert not select.select([engine.log_fd()], [], [], 0)[0]


def test_every_connection_of_several_workers_has_one_record_and_the_reader_is_woken() -> None:
    with running(workers=2) as engine:
        port = free_port()
        engine.publish(tables(port, Server().backend("a")))
        ports = {talk(port, b"x") for _ in range(150)}
        records = wait_for_records(engine, 150)
        assert {record.client_port for record in records} == ports
        assert engine.stats()["log_dropped"] == 0


def test_what_there_is_no_room_for_is_counted() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, Refusing().backend("a")))
        for _ in range(4150):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.recv(1)
        wait_until(lambda: engine.active() == 0)
        assert engine.stats()["log_dropped"] == 4150 - 4096
        assert len(engine.read_log()) == 4096


def test_a_record_keeps_its_names_when_their_owners_are_gone() -> None:
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, Server().backend("a")))
        talk(port, b"x")
        wait_until(lambda: engine.active() == 0)
        for turn in range(4):
            backends = tuple(
                Backend(f"{turn}.{i}", "127.0.0.1", 1 + i, 1, True) for i in range(4000)
            )
            engine.publish(tables(port, *backends, name=f"t{turn}"))
        (record,) = engine.read_log()
        assert (record.service, record.backend) == ("s", "a")


def test_connections_that_the_end_of_the_engine_ends_have_a_record() -> None:
    port = free_port()
    engine = Engine()
    engine.start()
    engine.publish(tables(port, Server().backend("a")))
    with connect(port) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        engine.stop()
        (record,) = engine.read_log()
        assert (record.backend, record.bytes_in, record.end) == ("a", 5, "stopped")
    assert engine.read_log() == []
