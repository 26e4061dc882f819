"""Requests that wait while their service has as many connections as it may have."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from fastpath.engine import Backend, Engine, Listener, Service, Tables
from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Peer,
    Seen,
    Web,
    ok,
    scripted,
    tables,
)
from tests.fastpath.peers import connect, read_exactly, reset, running
from tests.net import free_port
from tests.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HOLD = b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"
LONG_MS = 300_000


class Holding(Web):
    """A backend that holds what asks for /hold until it is told to go on."""

    def __init__(self) -> None:
        self.goes_on = threading.Semaphore(0)
        self.order: list[str] = []
        self.gone_on: list[str] = []
        super().__init__(self._answer)

    def _answer(self, _peer: Peer, seen: Seen) -> bytes:
        self.order.append(seen.line.split()[1])
        if "/hold" in seen.line:
            self.goes_on.acquire(timeout=20)
            self.gone_on.append(seen.line)
        return ok(seen.line.encode())


def limited(port: int, backend: Backend, most: int, wait_ms: int = LONG_MS) -> Tables:
    """Tables whose service takes so many at a time."""
    service = Service("s", (backend,), connections_max=most, connect_timeout_ms=wait_ms)
    return tables(port, backend)._replace(services=(service,))


@contextlib.contextmanager
def limiting(
    backend: Backend, most: int, wait_ms: int = LONG_MS, workers: int = 1
) -> Iterator[tuple[Engine, int]]:
    with running(workers=workers) as engine:
        engine.publish(limited(port := free_port(), backend, most, wait_ms))
        yield engine, port


def wait_for(engine: Engine, n: int) -> None:
    """Until so many wait."""
    wait_until(lambda: engine.stats()["http"]["waiting"] == n)


def rejected(engine: Engine, reason: str) -> int:
    return int(engine.stats()["http"]["rejected"][reason])


def test_requests_wait_in_their_order_and_are_all_served() -> None:
    web = Holding()
    with limiting(web.backend(), 1) as (engine, port), contextlib.ExitStack() as stack:
        first = stack.enter_context(Client(port))
        first.send(HOLD)
        wait_until(lambda: web.order == ["/hold"])
        # The others come after one another: the first fills the queue that is as long as the limit.
        waiting = stack.enter_context(Client(port))
        waiting.send(b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        wait_for(engine, 1)
        turned_away = stack.enter_context(Client(port))
        turned_away.send(GET)
        assert turned_away.response()[0] == 503
        assert rejected(engine, "queue-full") == 1
        assert web.order == ["/hold"]
        web.goes_on.release()
        assert first.response()[0] == waiting.response()[0] == 200
        assert web.order == ["/hold", "/second"]
        assert turned_away.get()[0] == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_never_has_more_than_it_may_and_nobody_is_forgotten(workers: int) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def answer(_peer: Peer, _seen: Seen) -> bytes:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.002)
        with lock:
            now[0] -= 1
        return ok()

    web = Web(answer)
    with (
        limiting(web.backend(), 20, workers=workers) as (engine, port),
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(port)) for _ in range(20)]
        engine.publish(limited(port, web.backend(), 3))
        served = 0
        for _ in range(5):
            for client in clients:
                client.send(GET)
            answers = [client.response()[0] for client in clients]
            assert set(answers) <= {200, 503}
            served += answers.count(200)
        assert served == len(web.requests) >= 5 * 6
        assert rejected(engine, "queue-full") == 100 - served
        assert rejected(engine, "queue-timeout") == 0
    assert 1 < most[0] <= 3


def test_who_waits_for_too_long_is_told_so() -> None:
    web = Holding()
    with (
        limiting(web.backend(), 1, 100) as (engine, port),
        Client(port) as first,
        Client(port) as second,
    ):
        first.send(HOLD)
        wait_until(lambda: web.order == ["/hold"])
        assert second.get()[0] == 503
        assert rejected(engine, "queue-timeout") == 1
        web.goes_on.release()
        assert first.response()[0] == 200
        assert second.get()[0] == 200


@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "end"])
def test_who_leaves_gives_the_place_away(leave: Callable[[socket.socket], None]) -> None:
    web = Holding()
    with limiting(web.backend(), 2) as (engine, port):
        for n in range(1, 4):
            held, waiting = [Client(port) for _ in range(2)], [Client(port) for _ in range(2)]
            for client in held:
                client.send(HOLD)
            wait_until(lambda n=n: web.order.count("/hold") == 2 * n)
            for client in waiting:
                client.send(GET)
            wait_for(engine, 2)
            leave(waiting[0].socket)
            for client in held:
                reset(client.socket)
                web.goes_on.release()
            assert waiting[1].response()[0] == 200
            waiting[1].socket.close()
            wait_until(lambda: engine.active() == 0)
            # Or those who are held next could go on in their stead.
            wait_until(lambda n=n: len(web.gone_on) == 2 * n)


def test_a_websocket_keeps_its_place_as_long_as_it_is_open() -> None:
    def talk(peer: Peer) -> None:
        while (seen := peer.head()) is not None:
            if seen.all("upgrade"):
                peer.send(SWITCH)
                peer.file.read()
                return
            peer.send(ok())

    server = scripted(talk)
    with limiting(server.backend("b"), 1) as (engine, port), Client(port) as second:
        first = Client(port)
        first.send(WEBSOCKET)
        read_exactly(first.socket, len(SWITCH))
        second.send(GET)
        wait_for(engine, 1)
        with Client(port) as third:
            assert third.get()[0] == 503
        first.socket.close()
        assert second.response()[0] == 200


def test_what_a_tcp_connection_of_the_service_leaves_is_found() -> None:
    def talk(peer: Peer) -> None:
        while peer.head() is not None:
            peer.send(ok())

    server = scripted(talk)
    port, direct = free_port(), free_port()
    with running() as engine:
        made = limited(port, server.backend("b"), 1)
        listener = Listener("127.0.0.1", direct, "s", http=False)
        engine.publish(made._replace(listeners=(*made.listeners, listener)))
        with connect(direct) as plain, Client(port) as client:
            wait_until(lambda: server.n_accepted == 1)
            client.send(GET)
            wait_for(engine, 1)
            plain.close()
            assert client.response()[0] == 200


def test_new_tables_count_for_who_waits() -> None:
    web = Holding()
    for change in ("limit", "service", "none"):
        web.order.clear()
        with (
            limiting(web.backend(), 1) as (engine, port),
            Client(port) as first,
            Client(port) as second,
        ):
            first.send(HOLD)
            wait_until(lambda: web.order == ["/hold"])
            second.send(GET)
            wait_for(engine, 1)
            made = limited(port, web.backend(), 0 if change == "none" else 2)
            if change == "service":
                (gateway,) = made.gateways
                made = made._replace(services=(), gateways=(gateway._replace(routes=()),))
            engine.publish(made)
            assert second.response()[0] == (503 if change == "service" else 200)
            web.goes_on.release()
            assert first.response()[0] == 200
