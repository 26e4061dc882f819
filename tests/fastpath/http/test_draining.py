"""One listener drains and loses no request; in the end what is left of it is cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fastpath.engine import Engine, Listener, Tables
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
    to,
)
from tests.fastpath.peers import read_exactly, running
from tests.net import free_port
from tests.waiting import wait_until

STAYS, MOVES = "127.0.0.1", "127.0.0.2"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Site:
    """A gateway on two addresses, of which one drains now and then."""

    engine: Engine
    port: int
    made: Tables

    def drain(self, *addresses: str) -> None:
        """Let exactly these drain."""
        listeners = tuple(
            Listener(each, self.port, "g", http=True, draining=each in addresses)
            for each in (STAYS, MOVES)
        )
        self.engine.publish(self.made._replace(listeners=listeners))

    def client(self, address: str = MOVES) -> Client:
        return Client(self.port, address)


@contextlib.contextmanager
def site(web: Web, workers: int = 1, **options: object) -> Iterator[Site]:
    with running(workers=workers) as engine:
        port = free_port()
        made = Site(engine, port, tables(port, web.backend(), **options))  # type: ignore[arg-type]
        made.drain()
        yield made


def on_command(body: bytes = b"hello") -> tuple[Web, threading.Event]:
    """A backend whose first answer waits for the event."""
    go = threading.Event()

    def answer(_peer: Peer, _seen: Seen) -> bytes:
        assert go.wait(20)
        return ok(body)

    return Web(answer), go


def ends(client: Client) -> bool:
    """Wait for the end; whether it is an orderly one, with nothing before it."""
    client.until_end()
    return client.heard == b""


def test_an_exchange_under_way_is_completed_and_ends_its_connection() -> None:
    web, go = on_command(b"x" * 1_000_000)
    with site(web) as its, its.client() as client:
        client.send(GET)
        wait_until(lambda: web.requests)
        its.drain(MOVES)
        go.set()
        status, fields, body = client.response()
        assert (status, fields["connection"], body) == (200, "close", b"x" * 1_000_000)
        assert ends(client)
        client.socket.close()
        wait_until(lambda: its.engine.active() == 0)


def test_an_idle_connection_stays_for_one_request_more() -> None:
    with site(Web()) as its, its.client() as used, its.client() as fresh:
        assert "connection" not in used.get()[1]
        its.drain(MOVES)
        for client in (used, fresh):
            client.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
            client.socket.settimeout(20)
            status, fields, _ = client.get()
            assert (status, fields["connection"]) == (200, "close")
            assert ends(client)


def test_new_connections_are_accepted_and_served() -> None:
    with site(Web()) as its:
        its.drain(MOVES)
        for _ in range(3):
            with its.client() as client:
                status, fields, _ = client.get()
                assert (status, fields["connection"]) == (200, "close")
                assert ends(client)


def test_the_other_address_goes_on_as_ever() -> None:
    with site(Web()) as its, its.client(STAYS) as client:
        for draining in ((), (MOVES,), ()):
            its.drain(*draining)
            status, fields, _ = client.get()
            assert status == 200
            assert "connection" not in fields


def test_draining_that_is_called_off_leaves_connections_open() -> None:
    with site(Web()) as its, its.client() as client:
        its.drain(MOVES)
        its.drain()
        for _ in range(3):
            status, fields, _ = client.get()
            assert status == 200
            assert "connection" not in fields


def test_draining_that_begins_after_a_head_ends_the_connection_one_response_later() -> None:
    go = threading.Event()

    def answer(peer: Peer, _seen: Seen) -> bytes:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert go.wait(20)
        return b"world"

    with site(Web(answer)) as its, its.client() as client:
        client.send(GET)
        head = client.socket.recv(1000)
        assert b"Connection" not in head
        its.drain(MOVES)
        go.set()
        heard = head
        while not heard.endswith(b"helloworld"):
            heard += client.socket.recv(1000)
        assert client.get()[1]["connection"] == "close"
        assert ends(client)


def test_http_1_0_is_told_to_close_although_it_asked_to_keep() -> None:
    with site(Web()) as its, its.client() as client:
        keep = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        client.send(keep)
        assert client.response()[1]["connection"] == "keep-alive"
        its.drain(MOVES)
        client.send(keep)
        status, fields, _ = client.response()
        assert (status, fields["connection"]) == (200, "close")
        assert ends(client)


def test_an_answer_of_the_gateways_own_says_close_too() -> None:
    with site(Web(), routes=(to(path="/a"),)) as its, its.client() as client:
        assert "connection" not in client.get("/b")[1]
        its.drain(MOVES)
        status, fields, _ = client.get("/b")
        assert (status, fields["connection"]) == (404, "close")
        assert ends(client)


def test_pipelined_requests_behind_the_last_response_are_not_answered() -> None:
    web, go = on_command(b"x" * 300_000)
    with site(web) as its, its.client() as client:
        client.send(GET, GET, GET)
        wait_until(lambda: web.requests)
        its.drain(MOVES)
        go.set()
        status, fields, body = client.response()
        assert (status, fields["connection"], len(body)) == (200, "close", 300_000)
        assert ends(client)
    assert len(web.requests) == 1


def test_a_request_that_comes_after_the_last_response_takes_nothing_of_it_away() -> None:
    body = b"x" * 200_000
    with site(Web(lambda _peer, _seen: ok(body))) as its, its.client() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        its.drain(MOVES)
        client.send(GET)
        # Written to the kernel, which has to keep most of it for now.
        wait_until(lambda: its.engine.stats()["http"]["requests"]["g"]["r"].get("GET") == {200: 1})
        time.sleep(0.05)  # so that the connection is closed by now, if it is
        client.send(GET)
        time.sleep(0.05)
        _, fields, heard = client.response()
        assert (fields["connection"], heard == body) == ("close", True)
        assert ends(client)


def test_no_request_is_lost_while_an_address_drains_and_comes_back() -> None:
    failures: list[object] = []
    stop = threading.Event()
    n_answered = [0] * 6
    n_closed = [0] * 6

    def hammer(its: Site, number: int) -> None:
        client = its.client()
        try:
            while not stop.is_set():
                status, fields, body = client.get(f"/{number}")
                if status != 200 or body != b"GET /%d HTTP/1.1" % number:
                    failures.append((status, body))
                n_answered[number] += 1
                if fields.get("connection") == "close":
                    n_closed[number] += 1
                    assert ends(client)
                    client.socket.close()
                    client = its.client()
        except BaseException as error:  # noqa: BLE001 - it must reach the main thread
            failures.append(error)
        client.socket.close()

    with site(Web(), workers=2) as its:
        threads = [threading.Thread(target=hammer, args=(its, n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(40):
            before = list(n_answered)
            its.drain(MOVES)
            wait_until(lambda: failures or all(map(int.__gt__, n_answered, before)))  # noqa: B023
            its.drain()
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert all(n_closed)
        wait_until(lambda: its.engine.active() == 0)


# ---- the end ----


def tunnel(peer: Peer) -> None:
    peer.head()
    peer.send(SWITCH)
    while data := peer.socket.recv(1000):
        peer.send(data)


def must_be_reset(client: Client) -> None:
    with pytest.raises(ConnectionResetError):
        client.socket.recv(1)


def test_a_websocket_lives_through_draining_until_it_is_cut() -> None:
    server = scripted(tunnel)
    with running() as engine:
        port = free_port()
        its = Site(engine, port, tables(port, server.backend("b")))
        its.drain()
        with its.client() as client:
            client.send(WEBSOCKET)
            assert client.socket.recv(1000).startswith(b"HTTP/1.1 101")
            its.drain(MOVES)
            client.send(b"still here")
            assert read_exactly(client.socket, 10) == b"still here"
            assert engine.cut(MOVES) == 1
            must_be_reset(client)
        assert engine.active() == 0
        assert engine.stats()["services"]["s"]["b"]["open"] == 0


def begin_head(client: Client) -> None:
    client.send(b"GET / HT")


def begin_body(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")


def begin_exchange(client: Client) -> None:
    client.send(GET)


def stay_idle(_client: Client) -> None:
    pass


@pytest.mark.parametrize("begin", [stay_idle, begin_head, begin_body, begin_exchange])
def test_cutting_resets_the_connections_of_that_address_in_any_state(
    begin: Callable[[Client], None],
) -> None:
    web, go = on_command()
    with site(web, workers=2) as its, contextlib.ExitStack() as clients:
        cut = [clients.enter_context(its.client(MOVES)) for _ in range(20)]
        kept = [clients.enter_context(its.client(STAYS)) for _ in range(5)]
        wait_until(lambda: its.engine.active_on(MOVES) == 20)
        for client in cut:
            begin(client)
        for client in kept:
            client.send(GET)
        wait_until(lambda: len(web.requests) >= 5 + 20 * (begin is begin_exchange))
        assert its.engine.cut(MOVES) == 20
        for client in cut:
            must_be_reset(client)
        assert its.engine.active_on(MOVES) == 0
        assert its.engine.active() == its.engine.active_on(STAYS) == 5
        go.set()
        assert [client.response()[0] for client in kept] == [200] * 5
        assert its.engine.cut(MOVES) == 0


def test_what_connects_after_the_cut_is_served_and_lives() -> None:
    with site(Web()) as its:
        its.engine.cut(MOVES)
        with its.client() as client:
            for _ in range(3):
                its.drain()
                assert client.get()[0] == 200
            assert its.engine.active_on(MOVES) == 1


def test_connections_of_a_listener_that_is_gone_are_counted_and_cut() -> None:
    with site(Web()) as its, its.client() as client, its.client() as other:
        assert client.get()[0] == other.get()[0] == 200
        its.engine.publish(its.made)
        assert its.engine.active_on(MOVES) == 2
        status, fields, _ = other.get()
        assert (status, fields["connection"]) == (503, "close")
        other.socket.close()
        wait_until(lambda: its.engine.active_on(MOVES) == 1)
        assert its.engine.cut(MOVES) == 1
        must_be_reset(client)
        assert its.engine.active() == 0


def test_an_exchange_under_way_when_its_listener_goes_says_close() -> None:
    web, go = on_command()
    with site(web) as its, its.client() as client:
        client.send(GET)
        wait_until(lambda: web.requests)
        its.engine.publish(its.made)
        go.set()
        status, fields, _ = client.response()
        assert (status, fields["connection"]) == (200, "close")
        assert ends(client)
