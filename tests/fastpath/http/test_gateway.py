"""The gateway as a whole: refusals, timeouts, WebSockets, reloads, draining, odd input."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from itertools import pairwise

import h11
import pytest

from fastpath.engine import Listener, Tables
from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Peer,
    Seen,
    Web,
    ok,
    scripted,
    serving,
    tables,
    to,
)
from tests.fastpath.peers import Server, connect, read_exactly, running
from tests.net import free_port
from tests.shared_vectors import load_vectors
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nmore", 405),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 60_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
    ],
)
def test_what_cannot_be_served_is_refused_and_the_connection_closed(
    sent: bytes, status: int
) -> None:
    web = Web()
    with serving(web.backend()) as (engine, port):
        with Client(port) as client:
            client.send(sent)
            got, fields, body = client.response()
            assert (got, fields["connection"]) == (status, "close")
            assert body.startswith(str(status).encode())
            assert client.is_closed()
        assert web.server.n_accepted == 0
        wait_until(lambda: engine.active() == 0)


def test_a_refusal_that_leaves_the_framing_whole_keeps_the_connection() -> None:
    web = Web()
    with serving(web.backend(), routes=(to(path="/a"),)) as (_, port), Client(port) as client:
        assert client.get("/b")[0] == 404
        assert client.get("/a")[0] == 200
        client.send(b"HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response("HEAD")[2] == b""
        assert client.get("/a")[0] == 200
        client.send(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert client.response()[1]["connection"] == "close"
        assert client.is_closed()


def test_routes_go_by_host_and_canonical_path() -> None:
    webs = {name: Web(lambda _peer, _seen, name=name: ok(name)) for name in (b"api", b"www", b"x")}
    port = free_port()
    base = tables(port, *(web.backend() for web in webs.values()))
    services = tuple(
        base.services[0]._replace(name=name.decode(), backends=(web.backend(),))
        for name, web in webs.items()
    )
    routes = (
        to("api", name="api", host="api.demo", path="/v1"),
        to("www", name="www", host="*.demo"),
        to("x", name="www", host="www.other"),
    )
    gateway = base.gateways[0]._replace(routes=routes)
    with running() as engine:
        engine.publish(Tables(base.listeners, services, (gateway,)))
        for host, path, status, body in [
            ("api.demo", "/v1/x", 200, b"api"),
            ("API.demo.:80", "/%761", 200, b"api"),
            ("api.demo", "/v1/../v2", 200, b"www"),
            ("www.other", "/", 200, b"x"),
            ("a.b.demo", "/", 404, None),
            ("demo", "/", 404, None),
        ]:
            with Client(port) as client:
                client.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                got = client.response()
                assert got[0] == status
                assert body in {None, got[2]}


# ---- time ----


def test_a_head_that_takes_too_long_is_refused_however_it_drips() -> None:
    web = Web()
    with serving(web.backend(), header_timeout_ms=300) as (engine, port), Client(port) as client:
        began = time.monotonic()
        got = b""
        client.socket.settimeout(0.02)
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 100:
            try:
                client.send(bytes([byte]))
                got += client.socket.recv(1000)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if got:
                break
        assert got.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 10
        assert engine.stats()["http"]["rejected"]["header-timeout"] == 1


def test_an_idle_connection_is_closed_without_a_word() -> None:
    web = Web()
    with serving(web.backend(), keepalive_timeout_ms=200) as (_, port), Client(port) as client:
        assert client.get()[0] == 200
        assert client.is_closed()


def test_a_body_that_stands_still_is_refused() -> None:
    web = Web()
    with serving(web.backend(), body_idle_timeout_ms=200) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        assert client.response()[0] == 408
        assert client.is_closed()


def test_a_body_that_drips_is_waited_for() -> None:
    web = Web()
    with serving(web.backend(), body_idle_timeout_ms=400) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
        for byte in b"12345678":
            time.sleep(0.1)
            client.send(bytes([byte]))
        assert client.response()[2] == b"12345678"


@pytest.mark.parametrize(
    "change", [{"backend_timeout_ms": 150}, {"request_timeout_ms": 150}], ids=["backend", "total"]
)
def test_a_backend_that_takes_too_long_gives_504(change: dict[str, int]) -> None:
    server = scripted(lambda peer: peer.file.read())
    with serving(server.backend("b"), routes=(to(**change),)) as (engine, port):
        with Client(port) as client:
            assert client.get()[0] == 504
            assert client.get()[0] == 504
        wait_until(lambda: engine.stats()["http"]["requests"]["g"]["r"] == {"GET": {504: 2}})
        wait_until(lambda: engine.stats()["services"]["s"]["b"]["open"] == 0)


def test_an_exchange_that_outlasts_its_time_is_cut() -> None:
    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        peer.file.read()

    server = scripted(talk)
    routes = (to(request_timeout_ms=200),)
    with serving(server.backend("b"), routes=routes) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.rest().endswith(b"hello")


# ---- WebSockets ----


def switching(peer: Peer) -> None:
    """A backend that upgrades and then echoes."""
    seen = peer.head()
    assert seen is not None
    assert seen.all("upgrade") == ["websocket"]
    peer.send(SWITCH, b"early")
    while data := peer.socket.recv(1 << 16):
        peer.send(data)


def switched(client: Client) -> None:
    """Go through the upgrade."""
    client.send(WEBSOCKET)
    got = b""
    while not got.endswith(b"early"):
        got += client.socket.recv(1000)
    assert got.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Upgrade: websocket\r\n" in got


def test_a_websocket_carries_bytes_both_ways_beginning_with_early_ones() -> None:
    server = Server(lambda connection: switching(Unread(connection)))
    data = os.urandom(1 << 20)
    with serving(server.backend("b")) as (engine, port), Client(port) as client:
        client.send(WEBSOCKET, b"sent at once")
        got = b""
        while not got.endswith(b"sent at once"):
            got += client.socket.recv(1000)
        assert b"\r\n\r\nearly" in got
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        assert read_exactly(client.socket, len(data)) == data
        sender.join()
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()
        wait_until(lambda: engine.active() == 0)
        assert engine.stats()["http"]["requests"]["g"]["r"] == {"GET": {101: 1}}
        assert engine.stats()["services"]["s"]["b"]["open"] == 0


class Unread(Peer):
    """Reads heads a byte at a time, so that what follows stays in the socket."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.file = connection.makefile("rb", buffering=0)  # type: ignore[assignment]


def test_an_upgrade_that_the_backend_declines_is_a_plain_exchange() -> None:
    web = Web()
    with serving(web.backend()) as (_, port), Client(port) as client:
        client.send(WEBSOCKET)
        assert client.response()[0] == 200
        assert client.get()[0] == 200


def test_a_silent_tunnel_is_closed() -> None:
    server = Server(lambda connection: switching(Unread(connection)))
    with serving(server.backend("b"), tunnel_idle_timeout_ms=200) as (engine, port):
        with Client(port) as client:
            switched(client)
            assert client.is_closed()
        wait_until(lambda: engine.active() == 0)


# ---- reloads ----


def test_a_reload_keeps_connections_and_counts_from_the_next_request() -> None:
    old, new = Web(), Web()
    tunnel = Server(lambda connection: switching(Unread(connection)))
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, tunnel.backend("t")))
        with Client(port) as socket_client, Client(port) as client:
            switched(socket_client)
            engine.publish(tables(port, old.backend("old")))
            assert client.get()[0] == 200
            engine.publish(tables(port, new.backend("new")))
            assert client.get("/after")[0] == 200
            assert new.requests[0].line == "GET /after HTTP/1.1"
            engine.publish(tables(port, new.backend("new"), routes=()))
            assert client.get()[0] == 404
            socket_client.send(b"still here")
            assert read_exactly(socket_client.socket, 10) == b"still here"


def test_a_reload_in_the_middle_of_an_exchange_does_not_touch_it() -> None:
    go = threading.Event()

    def answer(_peer: Peer, _seen: Seen) -> bytes:
        assert go.wait(20)
        return ok(b"x" * 100_000)

    web, other = Web(answer), Web()
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, web.backend("old")))
        with Client(port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_until(lambda: web.requests)
            engine.publish(tables(port, other.backend("new")))
            go.set()
            assert client.response()[2] == b"x" * 100_000
            assert client.get()[2] == b"GET / HTTP/1.1"
            wait_until(lambda: not any(s.fileno() >= 0 and is_open(s) for s in web.server.open))


def is_open(connection: socket.socket) -> bool:
    """Whether the peer has not closed it."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_a_backend_that_went_down_gets_no_request_over_kept_connections() -> None:
    first, second = Web(), Web()
    with running() as engine:
        port = free_port()
        engine.publish(tables(port, first.backend("one"), second.backend("two")))
        with Client(port) as client:
            for _ in range(20):
                client.get()
            engine.publish(tables(port, first.backend("one", up=False), second.backend("two")))
            before = len(first.requests)
            for _ in range(20):
                assert client.get()[0] == 200
            assert len(first.requests) == before


def test_reloads_under_traffic_lose_no_request() -> None:
    webs = [Web(), Web()]
    failures: list[object] = []
    stop = threading.Event()

    def hammer(port: int) -> None:
        with Client(port) as client:
            while not stop.is_set():
                got = client.get()[0]
                if got != 200:
                    failures.append(got)

    with running(workers=2) as engine:
        port = free_port()
        backends = [web.backend(f"b{n}") for n, web in enumerate(webs)]
        engine.publish(tables(port, *backends))
        threads = [threading.Thread(target=hammer, args=(port,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for n in range(40):
            engine.publish(tables(port, *backends[: 1 + n % 2]))
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_draining_closes_idle_connections_and_ends_the_others_with_their_exchange() -> None:
    go = threading.Event()

    def answer(_peer: Peer, _seen: Seen) -> bytes:
        assert go.wait(20)
        return ok()

    web = Web(answer)
    with serving(web.backend()) as (engine, port), Client(port) as idle, Client(port) as busy:
        busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: web.requests and engine.active() == 2)
        engine.drain()
        assert idle.is_closed()
        go.set()
        assert busy.response()[1]["connection"] == "close"
        assert busy.is_closed()
        wait_until(lambda: engine.active() == 0)
        with pytest.raises(ConnectionRefusedError):
            connect(port)


def test_draining_in_the_middle_of_a_body_closes_after_it() -> None:
    go = threading.Event()

    def talk(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            assert go.wait(20)
            peer.send(b"world")

    server = scripted(talk)
    with serving(server.backend("b")) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = client.socket.recv(1000)
        assert b"Connection" not in head
        engine.drain()
        go.set()
        assert client.rest().endswith(b"world")
        wait_until(lambda: engine.active() == 0)


def test_a_listener_taken_away_leaves_its_connections_their_exchange() -> None:
    web = Web()
    with running() as engine:
        port, other = free_port(), free_port()
        both = tables(port, web.backend())
        engine.publish(
            both._replace(listeners=(*both.listeners, Listener("127.0.0.1", other, "g", http=True)))
        )
        with Client(other) as client:
            assert client.get()[0] == 200
            engine.publish(both)
            status, fields, _ = client.get()
            assert (status, fields["connection"]) == (503, "close")


# ---- odd input ----


class Strict:
    """A backend that reads with h11 and notes what it cannot read."""

    def __init__(self) -> None:
        self.server = Server(self._serve)
        self.n_requests = 0
        self.errors: list[Exception] = []

    def _serve(self, connection: socket.socket) -> None:
        peer = h11.Connection(h11.SERVER)
        while data := connection.recv(1 << 16):
            try:
                peer.receive_data(data)
                while not isinstance(event := peer.next_event(), type):
                    if isinstance(event, h11.EndOfMessage):
                        self.n_requests += 1
                        head = h11.Response(status_code=200, headers=[("Content-Length", "0")])
                        connection.sendall(peer.send(head) or b"")
                        peer.send(h11.EndOfMessage())
                        peer.start_next_cycle()
            except h11.ProtocolError as error:
                self.errors.append(error)
                return


def test_what_reaches_a_backend_of_each_smuggling_payload_is_whole_messages() -> None:
    strict = Strict()
    bugs = load_vectors("http_garden_payloads.json")["bugs"]
    payloads = [bytes.fromhex(each["hex"]) for bug in bugs for each in bug["payloads"]]
    with serving(strict.server.backend("b"), body_idle_timeout_ms=500) as (engine, port):
        for payload in payloads:
            with Client(port) as client:
                client.send(payload)
                client.socket.shutdown(socket.SHUT_WR)
                client.rest()
        wait_until(lambda: engine.active() == 0)
        rejected = engine.stats()["http"]["rejected"]
    assert not strict.errors
    assert strict.n_requests == 5
    assert sum(rejected.values()) > 60


def test_random_pieces_of_requests_never_stop_the_gateway() -> None:
    web = Web()
    chance = random.Random(7)
    alphabet = [
        b"GET ",
        b"/",
        b" HTTP/1.1",
        b"\r\n",
        b"Host: a",
        b": ",
        b"Content-Length: 3",
        b"abc",
    ]
    alphabet += [b"Transfer-Encoding: chunked", b"3\r\n", b"0\r\n\r\n", b"\x00", b"POST ", b"\n"]
    with serving(web.backend(), header_timeout_ms=500) as (engine, port):
        for _ in range(300):
            with Client(port) as client:
                client.send(b"".join(chance.choices(alphabet, k=12)))
                if chance.random() < 0.5:
                    client.socket.shutdown(socket.SHUT_WR)
                if chance.random() < 0.1:
                    client.rest()
        with Client(port) as client:
            assert client.get()[0] == 200
        wait_until(lambda: engine.active() == 0)


def test_an_exchange_comes_out_the_same_however_both_sides_are_cut() -> None:
    response = (
        b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    )
    request = (
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n"
    )
    chance = random.Random(11)

    def pieces(data: bytes) -> list[bytes]:
        cuts = sorted(chance.sample(range(1, len(data)), 5))
        return [data[a:b] for a, b in pairwise([0, *cuts, len(data)])]

    def answer(peer: Peer, seen: Seen) -> bytes:
        assert seen.body == b"wxyz"
        *first, last = pieces(response)
        for piece in first:
            peer.send(piece)
            time.sleep(0.002)
        return last

    web = Web(answer)
    with serving(web.backend()) as (_, port), Client(port) as client:
        for _ in range(25):
            for piece in pieces(request):
                client.send(piece)
                time.sleep(0.002)
            status, _, body = client.response()
            assert status == 103 or (status, body) == (200, b"abcde")
            if status == 103:
                assert client.response()[2] == b"abcde"
    assert len(web.requests) == 25


def test_ten_thousand_requests_leave_no_memory_taken() -> None:
    web = Web()
    with serving(web.backend()) as (engine, port):
        for _ in range(50):
            with Client(port) as client:
                client.send(*[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] * 200)
                for _ in range(200):
                    assert client.response()[0] == 200
        wait_until(lambda: engine.active() == 0)
        assert engine.stats()["services"]["s"]["b"]["active"] == 0
