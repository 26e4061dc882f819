"""Tables that were replaced are freed when every worker has gone over to newer ones, not before."""

from __future__ import annotations

import gc
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastpath.snapshot import Snapshot

from fastpath.engine import Engine
from tests.fastpath.peers import Server, ask, running, tcp_tables
from tests.net import free_port
from tests.waiting import wait_until

LATE_S = 30


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return client, listening.accept()[0]


def n_snapshots() -> int:
    """How many tables there are, of other engines too."""
    gc.collect()
    return sum(isinstance(each, Snapshot) for each in gc.get_objects())


def is_stuck(engine: Engine) -> bool:
    """Whether there is a worker that did not turn though it had reason and time to."""
    before = engine.turns()
    time.sleep(0.5)
    return any(now == then for now, then in zip(engine.turns(), before, strict=True))


@contextmanager
def one_worker_late(engine: Engine) -> Iterator[None]:
    """A worker does nothing inside: it closes a socket that waits for its data to be taken."""
    client, inside = tcp_pair()
    backend, outside = tcp_pair()
    with client, backend:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it will not take all
        inside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LATE_S))
        engine.relay(inside.detach(), outside.detach(), idle_timeout_ms=50)
        backend.setblocking(False)
        try:
            while True:
                backend.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        wait_until(lambda: is_stuck(engine))
        yield
    wait_until(lambda: engine.active() == 0)


def test_tables_are_freed_when_the_last_worker_has_left_them() -> None:
    server = Server()
    port, other = free_port(), free_port()
    with running(workers=3) as engine:
        engine.publish(tcp_tables(port, server.backend("a")))
        before = n_snapshots()
        engine.publish(tcp_tables(port, server.backend("b")))
        assert n_snapshots() == before
        with one_worker_late(engine):
            for name in ("c", "d", "e"):
                engine.publish(tcp_tables(port, server.backend(name)))
            assert n_snapshots() == before + 3
        engine.publish(tcp_tables(other, server.backend("f")))
        assert n_snapshots() == before
        assert ask(other) == b"hello"
