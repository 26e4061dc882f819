"""Two sockets that Python hands over: relayed like those that the engine accepted itself."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from fastpath.engine import Engine, Tables
from tests.fastpath.peers import (
    PATIENCE_S,
    Server,
    ask,
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
NOTHING = Tables((), (), ())


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running() as started:
        yield started


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A connection on loopback, both ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    for each in (one, other):
        each.settimeout(PATIENCE_S)
    return one, other


def relayed(engine: Engine, idle_timeout_ms: int = 60_000) -> tuple[socket.socket, socket.socket]:
    """A client and a backend with the engine in between."""
    client, front = tcp_pair()
    back, backend = tcp_pair()
    engine.relay(front.detach(), back.detach(), idle_timeout_ms)
    return client, backend


def both_ways(ends: tuple[socket.socket, socket.socket]) -> Iterator[tuple[socket.socket, ...]]:
    yield ends
    yield ends[::-1]


def test_bytes_go_both_ways_and_are_counted(engine: Engine) -> None:
    ends = relayed(engine)
    for near, far in both_ways(ends):
        for text in (b"one", b"x" * 100_000):
            near.sendall(text)
            assert read_exactly(far, len(text)) == text
    assert engine.active() == 1
    ends[0].sendall(b"more")
    assert read_exactly(ends[1], 4) == b"more"
    counted = {"total": 1, "active": 1, "bytes_in": 100_007, "bytes_out": 100_003}
    wait_until(lambda: engine.stats()["relays"] == counted)  # counted after it was written
    for end in ends:
        end.close()
    wait_until(lambda: engine.active() == 0)
    assert engine.stats()["relays"]["active"] == 0
    assert engine.stats()["workers"][0]["active"] == 0


def test_what_was_there_before_the_hand_over_is_not_lost(engine: Engine) -> None:
    client, front = tcp_pair()
    back, backend = tcp_pair()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    backend.sendall(b"greeting")
    engine.relay(front.detach(), back.detach())
    assert read_all(backend) == b"request"
    assert read_exactly(client, 8) == b"greeting"
    backend.close()
    assert read_all(client) == b""


def test_an_end_is_passed_on_and_the_other_direction_goes_on(engine: Engine) -> None:
    for turn in range(2):
        ends = relayed(engine)
        near, far = ends if turn == 0 else ends[::-1]
        near.sendall(b"that is all")
        near.shutdown(socket.SHUT_WR)
        assert read_all(far) == b"that is all"
        far.sendall(b"x" * MIB)
        far.close()
        assert len(read_all(near)) == MIB
        near.close()
    wait_until(lambda: engine.active() == 0)


def test_a_reset_is_passed_on(engine: Engine) -> None:
    for turn in range(2):
        ends = relayed(engine)
        near, far = ends if turn == 0 else ends[::-1]
        near.sendall(b"x")
        assert read_exactly(far, 1) == b"x"
        reset(near)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
        far.close()


def test_nothing_is_read_ahead_of_a_backend_that_does_not_read(engine: Engine) -> None:
    client, backend = relayed(engine)
    block = random.Random(3).randbytes(MIB) * (kernel_takes(2) // MIB)
    sender = threading.Thread(target=lambda: client.sendall(block))
    sender.start()
    sender.join(0.5)
    assert sender.is_alive(), "the kernel's buffers took it all"
    received = hashlib.sha256(read_exactly(backend, len(block)))
    sender.join()
    assert received.digest() == hashlib.sha256(block).digest()
    client.close()
    backend.close()


def test_silence_ends_it(engine: Engine) -> None:
    client, backend = relayed(engine, idle_timeout_ms=100)
    assert client.recv(1) == b""
    assert backend.recv(1) == b""


def test_many_are_spread_over_the_workers() -> None:
    with running(workers=3) as engine:
        pairs = [relayed(engine) for _ in range(60)]
        for turn, (client, backend) in enumerate(pairs):
            client.sendall(b"%02d" % turn)
            assert read_exactly(backend, 2) == b"%02d" % turn
        assert [each["active"] for each in engine.stats()["workers"]] == [20, 20, 20]
        for ends in pairs:
            for end in ends:
                end.close()
        wait_until(lambda: engine.active() == 0)


def test_new_tables_a_cut_and_a_drain_leave_them_alone_and_the_end_does_not() -> None:
    port = free_port()
    engine = Engine(connections=16)
    engine.start()
    engine.publish(tcp_tables(port, Server().backend("a")))
    client, backend = relayed(engine)
    assert ask(port) == b"hello"
    for change in (
        lambda: engine.publish(NOTHING),
        lambda: engine.cut("127.0.0.1"),
        engine.drain,
    ):
        change()
        client.sendall(b"alive")
        assert read_exactly(backend, 5) == b"alive"
    wait_until(lambda: engine.active() == 1)
    engine.stop()
    assert read_all(client) == read_all(backend) == b""


def other_kinds() -> Iterator[tuple[socket.socket, type[Exception]]]:
    yield socket.socket(type=socket.SOCK_DGRAM), ValueError
    yield socket.socketpair(type=socket.SOCK_SEQPACKET)[0], ValueError
    yield socket.socket(), OSError


def test_a_client_on_a_unix_socket_is_served_as_one_of_tcp_is(engine: Engine) -> None:
    client, front = socket.socketpair()
    back, backend = tcp_pair()
    client.settimeout(PATIENCE_S)
    engine.relay(front.detach(), back.detach())
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(backend) == b"question"
    backend.sendall(b"answer")
    backend.close()
    assert read_all(client) == b"answer"
    wait_until(lambda: engine.active() == 0)


def test_what_is_no_connected_stream_is_refused_and_left_open(engine: Engine) -> None:
    _, good = tcp_pair()
    for bad, error in other_kinds():
        for places in ((bad, good), (good, bad)):
            with pytest.raises(error):
                engine.relay(*(each.fileno() for each in places))
            for each in places:
                os.fstat(each.fileno())
        bad.close()
    with pytest.raises(ValueError, match="both sides"):
        engine.relay(good.fileno(), good.fileno())
    with pytest.raises(ValueError, match="idle timeout of -1 ms"):
        engine.relay(good.fileno(), good.fileno() + 1, -1)
    with open(os.devnull) as no_socket, pytest.raises(OSError, match="non-socket"):
        engine.relay(good.fileno(), no_socket.fileno())
    assert engine.active() == 0
    good.close()


def refusal(hand_over: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller checks the number
        hand_over()
    return caught.value.errno


def test_one_too_many_is_refused_and_left_open() -> None:
    with running(connections=2) as engine:
        first, second = relayed(engine), relayed(engine)
        client, front = tcp_pair()
        back, backend = tcp_pair()
        assert refusal(lambda: engine.relay(front.fileno(), back.fileno())) == errno.EAGAIN
        assert engine.active() == 2
        for end in (*first, *second):
            end.close()
        wait_until(lambda: engine.active() == 0)
        engine.relay(front.detach(), back.detach())
        client.sendall(b"now")
        assert read_exactly(backend, 3) == b"now"
        engine.drain()
        _, front = tcp_pair()
        assert refusal(lambda: engine.relay(front.fileno(), backend.fileno())) == errno.ESHUTDOWN
        for end in (client, front, backend):
            end.close()


def test_what_is_handed_over_before_the_start_waits_in_a_box_that_can_be_full() -> None:
    engine = Engine(connections=256)
    with contextlib.ExitStack() as ends:
        pairs = [relayed(engine) for _ in range(64)]
        client, front = tcp_pair()
        back, backend = tcp_pair()
        for end in (client, front, back, backend, *(end for pair in pairs for end in pair)):
            ends.enter_context(end)
        assert refusal(lambda: engine.relay(front.fileno(), back.fileno())) == errno.EAGAIN
        assert engine.active() == 64
        engine.start()
        for near, far in pairs:
            near.sendall(b"x")
            assert read_exactly(far, 1) == b"x"
        engine.stop()


def test_what_nobody_took_is_closed_at_the_end() -> None:
    engine = Engine(connections=16)
    client, backend = relayed(engine)
    engine.stop()
    assert read_all(client) == read_all(backend) == b""


def test_a_duplicate_that_somebody_kept_does_no_harm(engine: Engine) -> None:
    """Its socket would stay in epoll with a pointer to what is another relay's by then."""
    client, front = tcp_pair()
    back, backend = tcp_pair()
    kept = os.dup(front.fileno())
    engine.relay(front.detach(), back.detach(), 100)
    assert backend.recv(1) == b""
    wait_until(lambda: engine.active() == 0)
    before = engine.stats()["workers"][0]["turns"]
    for _ in range(20):
        client.sendall(b"x")
    os.set_blocking(kept, True)
    received = b""
    while len(received) < 20:
        received += os.read(kept, 20)
    assert engine.stats()["workers"][0]["turns"] == before
    os.close(kept)
    client.close()
    backend.close()
