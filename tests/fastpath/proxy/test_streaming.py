"""Bulk: what goes through pipes arrives as it was sent, in every order of events."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.engine import Engine
from tests.fastpath.peers import (
    Server,
    break_off,
    connect,
    pipe_ends,
    read_all,
    read_exactly,
    running,
    tcp_tables,
)
from tests.net import free_port
from tests.waiting import wait_until

MIB = 1 << 20
BROKEN = (ConnectionResetError, BrokenPipeError)


def checked_echo(connection: socket.socket) -> None:
    """Read to the end, then answer with its SHA-256 and everything again."""
    data = read_all(connection)
    connection.sendall(hashlib.sha256(data).digest() + data)


def serve(engine: Engine, server: Server) -> int:
    port = free_port()
    engine.publish(tcp_tables(port, server.backend("a")))
    return port


@pytest.mark.parametrize("size", [1, 16383, 3 * 16384, 3 * 16384 + 1, 65536, MIB + 17, 24 * MIB])
def test_every_byte_arrives_in_order_both_ways(size: int) -> None:
    data = random.Random(size).randbytes(size)
    with running() as engine:
        with connect(serve(engine, Server(checked_echo))) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            back = read_all(client)
        assert back[:32] == hashlib.sha256(data).digest()
        assert back[32:] == data
        wait_until(lambda: engine.active() == 0)
        counted = engine.stats()["services"]["s"]["a"]
        assert (counted["bytes_in"], counted["bytes_out"]) == (size, size + 32)


def test_a_stream_is_spliced_and_its_pipe_is_kept_for_the_next() -> None:
    before = pipe_ends()
    with running() as engine:
        port = serve(engine, Server(checked_echo))
        for _ in range(3):
            with connect(port) as client:
                client.sendall(bytes(8 * MIB))
                client.shutdown(socket.SHUT_WR)
                assert len(read_all(client)) == 8 * MIB + 32
        assert 2 <= pipe_ends() - before <= 8
    assert pipe_ends() == before


def test_small_messages_take_no_pipe() -> None:
    before = pipe_ends()
    with running() as engine, connect(serve(engine, Server())) as client:
        for _ in range(200):
            client.sendall(b"x" * 1000)
            assert read_exactly(client, 1000) == b"x" * 1000
        assert pipe_ends() == before


def test_more_streams_than_there_are_pipes_all_arrive() -> None:
    """Their backends do not read at first, so that every pipe is full and out."""
    release = threading.Event()

    def late(connection: socket.socket) -> None:
        release.wait(20)
        checked_echo(connection)

    data = random.Random(5).randbytes(MIB) * 12
    results: list[bytes] = []

    def one(port: int) -> None:
        with connect(port) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            results.append(read_all(client)[:32])

    with running() as engine:
        port = serve(engine, Server(late))
        threads = [threading.Thread(target=one, args=(port,)) for _ in range(40)]
        for each in threads:
            each.start()
        time.sleep(0.5)
        release.set()
        for each in threads:
            each.join()
    assert results == [hashlib.sha256(data).digest()] * 40


def test_a_stream_that_is_reset_in_the_middle_leaves_no_bytes_to_the_next() -> None:
    def rude(connection: socket.socket) -> None:
        read_exactly(connection, MIB)
        break_off(connection)

    with running() as engine:
        port = serve(engine, Server(rude))
        for _ in range(5):
            with connect(port) as client, pytest.raises(BROKEN):  # noqa: PT012
                for _ in range(64):
                    client.sendall(b"A" * MIB)
                client.recv(1)
        wait_until(lambda: engine.active() == 0)
        good = Server(checked_echo)
        engine.publish(tcp_tables(port, good.backend("b")))
        data = random.Random(1).randbytes(8 * MIB)
        with connect(port) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client)[32:] == data
        assert engine.stats()["ends"]["s"]["ended"]["backend_reset"] == 5


pieces = st.lists(st.tuples(st.integers(1, 200_000), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=15)
@given(pieces, pieces)
def test_any_mix_of_small_and_large_pieces_arrives(
    there: list[tuple[int, bool]], back: list[tuple[int, bool]]
) -> None:
    def talk(connection: socket.socket, mine: list[tuple[int, bool]], expect: int) -> bytes:
        """Send the pieces, with pauses, while reading; what was read."""
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(read_exactly(connection, expect)))
        reader.start()
        for number, (size, pause) in enumerate(mine):
            connection.sendall(bytes([number]) * size)
            if pause:
                time.sleep(0.002)
        reader.join()
        return got[0]

    def whole(mine: list[tuple[int, bool]]) -> bytes:
        return b"".join(bytes([n]) * size for n, (size, _) in enumerate(mine))

    heard: list[bytes] = []
    server = Server(lambda connection: heard.append(talk(connection, back, len(whole(there)))))
    with running() as engine, connect(serve(engine, server)) as client:
        assert talk(client, there, len(whole(back))) == whole(back)
        wait_until(lambda: bool(heard))
        assert heard == [whole(there)]
    server.close()
