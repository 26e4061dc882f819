"""Requests through the running gateway: both bodies, both connections, all the odd ways."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from tests.fastpath.http.gateways import Client, Peer, Seen, Web, ok, scripted, serving, tables, to
from tests.fastpath.peers import (
    Refusing,
    Server,
    Silent,
    break_off,
    running,
)
from tests.net import free_port
from tests.waiting import wait_until

MANY = 64 * 1024 * 1024


def test_connections_are_kept_on_both_sides() -> None:
    web = Web()
    with serving(web.backend()) as (engine, port), Client(port) as client:
        for n in range(20):
            status, fields, body = client.get(f"/{n}")
            assert (status, body) == (200, f"GET /{n} HTTP/1.1".encode())
            assert "connection" not in fields
        assert web.server.n_accepted == 1
        assert engine.active() == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_gets_an_answer() -> None:
    web = Web()
    with serving(web.backend()) as (_, port):
        got = subprocess.run(
            ["curl", "-sS", "--fail", "-d", "abc", f"http://127.0.0.1:{port}/a/../b%41?q"],
            capture_output=True,
            check=True,
            timeout=20,
        )
    assert got.stdout == b"abc"
    assert web.requests[0].line == "POST /bA?q HTTP/1.1"


def test_bodies_of_both_framings_pass_both_ways() -> None:
    web = Web()
    with serving(web.backend()) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert client.response()[2] == b"hello"
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b"3;x=y\r\nabc\r\n", b"2\r", b"\nde\r\n0", b"\r\n", b"X-T: 1\r\n\r\n"):
            client.send(part)
            time.sleep(0.01)
        assert client.response()[2] == b"abcde"
        assert web.requests[1].all("transfer-encoding") == ["chunked"]


def test_chunked_responses_and_their_trailers_pass() -> None:
    def answer(_peer: Peer, _seen: Seen) -> bytes:
        return (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"5\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n"
        )

    web = Web(answer)
    with serving(web.backend()) as (_, port), Client(port) as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
            status, fields, body = client.response()
            assert (status, fields["trailer"], body) == (200, "X-Sum", b"hello!")
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.rest().endswith(b"0\r\nX-Sum: 7\r\n\r\n")
        assert web.server.n_accepted == 1


def test_a_response_up_to_the_connections_end_becomes_chunks() -> None:
    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 50_000)

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        for _ in range(2):
            status, fields, body = client.get()
            assert (status, fields["transfer-encoding"], body) == (200, "chunked", b"x" * 50_000)


def test_an_old_client_gets_what_it_can_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    web = Web(lambda _peer, seen: chunked if "chunked" in seen.line else ok())
    with serving(web.backend()) as (_, port):
        with Client(port) as client:
            client.send(b"GET /chunked HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            head, body = client.rest().split(b"\r\n\r\n")
            assert b"Connection: close" in head
            assert b"Transfer-Encoding" not in head
            assert body == b"abc"
        with Client(port) as client:
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.response()[1]["connection"] == "keep-alive"
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert b"Connection: close" in client.rest()


def test_expectations_and_early_hints_pass_through() -> None:
    def talk(peer: Peer) -> None:
        seen = peer.head()
        assert seen is not None
        assert seen.all("expect") == ["100-continue"]
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = peer.file.read(5)
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ok(body))

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(b"hello")


def test_an_old_client_hears_nothing_of_interim_responses() -> None:
    web = Web(lambda _peer, _seen: b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok())
    with serving(web.backend()) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.rest().startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("method", "answer", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "9"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "9"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        ("DELETE", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "0"),
    ],
)
def test_responses_without_a_body_end_with_their_head(
    method: str, answer: bytes, length: str | None
) -> None:
    web = Web(lambda _peer, _seen: answer)
    with serving(web.backend()) as (_, port), Client(port) as client:
        for _ in range(3):
            client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            _, fields, body = client.response(method)
            assert (fields.get("content-length"), body) == (length, b"")
        assert web.server.n_accepted == 1


def test_pipelined_requests_are_answered_in_order() -> None:
    web = Web()
    with serving(web.backend()) as (_, port), Client(port) as client:
        requests = [
            b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d" % (n, n)
            for n in range(100)
        ]
        client.send(*requests, b"GET /nowhere\r\n\r\n")
        for n in range(100):
            assert client.response()[2] == b"%03d" % n
        assert client.response()[0] == 400
        assert client.is_closed()


def test_a_big_upload_streams_to_a_slow_backend() -> None:
    data = os.urandom(1 << 20) * (MANY >> 20)

    def answer(peer: Peer) -> None:
        seen = peer.head()
        assert seen is not None
        digest = hashlib.sha256()
        for at in range(0, len(data), 1 << 18):
            if at == 1 << 20:
                time.sleep(0.3)
            digest.update(peer.file.read(1 << 18))
        peer.send(ok(digest.hexdigest().encode()))

    server = scripted(answer)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(data), data)
        assert client.response()[2].decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_big_download_streams_to_a_slow_client(chunked: bool) -> None:
    data = os.urandom(1 << 20)

    def answer(peer: Peer) -> None:
        peer.head()
        if chunked:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MANY)
        for _ in range(MANY >> 20):
            peer.send(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
        peer.send(b"0\r\n\r\n" if chunked else b"")

    server = scripted(answer)
    with serving(server.backend("b")) as (_, port):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", "/")
        response = client.getresponse()
        time.sleep(0.3)
        digest, size = hashlib.sha256(), 0
        while part := response.read(1 << 18):
            digest.update(part)
            size += len(part)
        client.close()
    expected = hashlib.sha256()
    for _ in range(MANY >> 20):
        expected.update(data)
    assert (size, digest.digest()) == (MANY, expected.digest())


def test_requests_spread_over_backends_however_few_connections() -> None:
    webs = [Web(), Web(), Web()]
    with serving(*(web.backend(f"b{n}") for n, web in enumerate(webs))) as (_, port):
        with Client(port) as client:
            for _ in range(300):
                assert client.get()[0] == 200
        assert all(60 < len(web.requests) < 140 for web in webs)
        assert sum(web.server.n_accepted for web in webs) == 3


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0x\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_nothing_of_a_request_refused_in_framing_reaches_a_backend(sent: bytes) -> None:
    web = Web()
    with serving(web.backend()) as (_, port), Client(port) as client:
        client.send(sent)
        status, fields, _ = client.response()
        assert (status, fields["connection"]) == (400, "close")
        assert client.is_closed()
        assert web.server.n_accepted == 0


def test_a_chunk_that_goes_wrong_later_leaves_the_backend_without_an_end() -> None:
    got: list[bytes] = []
    server = scripted(lambda peer: got.append(peer.file.read()))
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        wait_until(lambda: server.n_accepted)
        client.send(b"zz\r\n")
        assert client.response()[0] == 400
        wait_until(lambda: got)
        assert got[0].endswith(b"\r\n\r\n3\r\nabc\r\n")


def test_a_body_cut_by_the_backend_is_seen_to_be_cut() -> None:
    def talk(peer: Peer) -> None:
        seen = peer.head()
        assert seen is not None
        if "chunked" in seen.line:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")

    server = scripted(talk)
    with serving(server.backend("b")) as (engine, port):
        for path in ("/length", "/chunked"):
            with Client(port) as client:
                client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                got = client.rest()
                assert got.endswith((b"hello", b"hello\r\n"))
        with Client(port) as client:
            client.send(b"GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                client.until_end()
        assert engine.stats()["http"]["rejected"]["upstream"] == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" * 40,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
    ],
)
def test_a_response_that_is_none_gives_502(answer: bytes) -> None:
    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(answer)

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = client.rest().replace(b"HTTP/1.1 103 Early\r\n\r\n", b"")
        assert got.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


def test_an_early_answer_reaches_a_client_that_is_still_uploading() -> None:
    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")

    server = scripted(talk)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        client.send(b"x" * 100_000)
        status, fields, body = client.response()
        assert (status, fields["connection"], body) == (413, "close", b"no")


def test_a_client_that_vanishes_takes_its_backends_connection_along() -> None:
    ended = threading.Event()

    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        try:
            while True:
                peer.send(b"x" * 100_000)
        finally:
            ended.set()

    server = scripted(talk)
    with serving(server.backend("b")) as (engine, port):
        for _ in range(2):
            ended.clear()
            with Client(port) as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.socket.recv(1000)
            assert ended.wait(20)
        with Client(port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        wait_until(lambda: engine.active() == 0)
        wait_until(lambda: engine.stats()["services"]["s"]["b"]["open"] == 0)


def test_a_client_that_has_said_all_may_close_its_side() -> None:
    web = Web(lambda _peer, _seen: (time.sleep(0.1), ok())[1])
    with serving(web.backend()) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == ok()


def closing_after(n: int) -> Server:
    """A backend that closes a connection upon its n-th request, without a word."""

    def talk(peer: Peer) -> None:
        for _ in range(n - 1):
            if peer.request() is None:
                return
            peer.send(ok())
        peer.request()
        # A reset instead of an orderly end, which the gateway would hear of in time.
        break_off(peer.socket)

    return scripted(talk)


def test_a_kept_connection_that_dies_is_replaced_unseen() -> None:
    server = closing_after(2)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        for _ in range(6):
            assert client.get()[0] == 200
        assert server.n_accepted == 6


def test_a_request_with_a_body_is_never_sent_twice() -> None:
    server = closing_after(2)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        assert client.get()[0] == 200
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        assert client.response()[0] == 502
        assert server.n_accepted == 1


def test_a_new_connection_that_dies_is_not_tried_again() -> None:
    server = closing_after(1)
    with serving(server.backend("b")) as (_, port), Client(port) as client:
        assert client.get()[0] == 502
        assert client.get()[0] == 502
        assert server.n_accepted == 2


def test_the_next_backend_takes_over_when_one_refuses() -> None:
    web = Web()
    refusing = [Refusing().backend(f"r{n}") for n in range(3)]
    with serving(*refusing, web.backend()) as (engine, port), Client(port) as client:
        for _ in range(20):
            assert client.get()[0] == 200
        failures = engine.stats()["services"]["s"]
        assert sum(failures[f"r{n}"]["connect_failures"] for n in range(3)) >= 1


def test_the_next_backend_takes_over_when_one_does_not_answer() -> None:
    web, silent = Web(), Silent()
    backends = silent.backend("x"), web.backend()
    with serving(*backends, connect_timeout_ms=100) as (_, port), Client(port) as client:
        for _ in range(8):
            assert client.get()[0] == 200
    silent.close()


def test_without_a_backend_to_reach_there_is_an_answer() -> None:
    down = Web()
    with running() as engine:
        port = free_port()
        routes = (to("", name="none", path="/none"), to())
        engine.publish(tables(port, down.backend(up=False), routes=routes))
        with Client(port) as client:
            assert client.get()[0] == 503
            assert client.get("/none")[0] == 500
            engine.publish(tables(port, Refusing().backend("x"), Refusing().backend("y")))
            assert client.get()[0] == 502
            engine.publish(tables(port, down.backend(), routes=()))
            assert client.get()[0] == 404
            engine.publish(tables(port, down.backend()))
            assert client.get()[0] == 200


def test_forged_origins_do_not_reach_the_backend() -> None:
    web = Web()
    with serving(web.backend()) as (_, port), Client(port) as client:
        client.get("/", "X-Forwarded-For: 6.6.6.6", "X_Forwarded_For: 6.6.6.6",
                   "Connection: x-forwarded-for", "X-Real-Ip: 6.6.6.6",
                   "Forwarded: for=6.6.6.6")  # fmt: skip
        seen = web.requests[0]
        assert seen.all("x-forwarded-for") == seen.all("x-real-ip") == ["127.0.0.1"]
        assert seen.all("x-forwarded-port") == [str(port)]
        assert seen.all("forwarded") == ['for=127.0.0.1;host="a";proto=http']
        assert "6.6.6.6" not in repr(seen)


def test_what_happened_is_counted() -> None:
    web = Web(
        lambda _peer, seen: (
            ok() if "good" in seen.line else b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
        )
    )
    routes = (to(name="one", path="/one"), to(name="two", path="/two"))
    with serving(web.backend(), routes=routes) as (engine, port):
        with Client(port) as client:
            for path in ("/one/good", "/one/good", "/two/good", "/elsewhere"):
                client.get(path)
            client.send(b"PUT /two HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            client.response()
        # A request is counted when it has ended, which is just after its answer was sent.
        wait_until(lambda: "PUT" in engine.stats()["http"]["requests"]["g"]["two"])
        stats = engine.stats()["http"]
    assert stats["requests"] == {
        "g": {"one": {"GET": {200: 2}}, "two": {"GET": {200: 1}, "PUT": {404: 1}}}
    }
    assert stats["durations"]["g"]["one"]["count"] == 2
    assert stats["rejected"]["no-route"] == 1
    assert stats["others"]["requests"] == stats["others"]["durations"]["count"] == 0
