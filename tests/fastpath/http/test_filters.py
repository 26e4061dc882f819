"""Filters on real exchanges: who may pass, and what is answered without a backend."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from fastpath.engine import Engine, Route, Service
from fastpath.filters import Filters, Redirect, Respond
from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Peer,
    Web,
    ok,
    scripted,
    serving,
    tables,
    to,
)
from tests.waiting import wait_until


def filtered(**filters: Any) -> tuple[Route, ...]:
    return (to(filters=Filters(**filters)),)


def one_get(path: str = "/", *backends: Any, **filters: Any) -> tuple[int, dict[str, str], bytes]:
    with serving(*backends, routes=filtered(**filters)) as (_, port), Client(port) as client:
        return client.get(path)


# ---- allow_sources, deny_sources ----


@pytest.mark.parametrize(
    ("allowed", "denied", "status"),
    [
        (("127.0.0.0/8",), (), 200),
        (("192.0.2.0/24", "2001:db8::/32"), (), 403),
        ((), ("127.0.0.1/32",), 403),
        ((), ("127.0.0.2/32",), 200),
        (("127.0.0.0/8",), ("127.0.0.1/32",), 403),
    ],
)
def test_sources(allowed: tuple[str, ...], denied: tuple[str, ...], status: int) -> None:
    web = Web()
    assert one_get("/", web.backend(), allowed=allowed, denied=denied)[0] == status
    assert len(web.requests) == (status == 200)


def test_who_is_turned_away_may_ask_for_something_else_on_the_same_connection() -> None:
    web = Web()
    routes = (to(name="a", path="/a", filters=Filters(denied=("127.0.0.1/32",))), to())
    with serving(web.backend(), routes=routes) as (engine, port), Client(port) as client:
        assert client.get("/a")[0] == 403
        assert client.get("/b")[0] == 200
        assert engine.stats()["http"]["rejected"]["source"] == 1


# ---- in_flight ----


class Held:
    """A backend that answers when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.n_asked = 0
        self.server = scripted(self._serve)

    def _serve(self, peer: Peer) -> None:
        while peer.request() is not None:
            self.n_asked += 1
            self.go.wait(10)
            peer.send(ok())


def test_no_more_than_so_many_requests_are_under_way() -> None:
    held = Held()
    with serving(held.server.backend("b"), routes=filtered(in_flight=2), workers=2) as (_, port):
        waiting = [Client(port) for _ in range(2)]
        for client in waiting:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: held.n_asked == 2)
        for _ in range(4):  # workers differ, the count is one
            with Client(port) as another:
                assert another.get()[0] == 503
        held.go.set()
        assert [client.response()[0] for client in waiting] == [200, 200]
        assert waiting[0].get()[0] == 200


def test_other_routes_are_not_counted() -> None:
    held, web = Held(), Web()
    routes = (to(name="a", path="/a", filters=Filters(in_flight=1)), to(service="t"))
    with serving(held.server.backend("b")) as (engine, port):
        first = tables(port, held.server.backend("b"), routes=routes)
        second = Service("t", (web.backend(),))
        engine.publish(first._replace(services=(*first.services, second)))
        with Client(port) as waiting, Client(port) as other:
            waiting.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_until(lambda: held.n_asked == 1)
            assert other.get("/b")[0] == 200
            held.go.set()
            assert waiting.response()[0] == 200


def broken_by_client(client: Client, peer: Peer) -> None:
    client.socket.close()


def broken_by_backend(client: Client, peer: Peer) -> None:
    peer.socket.shutdown(socket.SHUT_RDWR)
    assert client.response()[0] == 502


def broken_in_body(client: Client, peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    peer.socket.shutdown(socket.SHUT_RDWR)
    assert client.rest().endswith(b"abc")


def done_and_closed(client: Client, peer: Peer) -> None:
    peer.send(ok())
    assert client.response()[0] == 200
    client.socket.close()


def malformed(client: Client, peer: Peer) -> None:
    peer.send(b"nonsense\r\n\r\n")
    assert client.response()[0] == 502


def early_answer(client: Client, peer: Peer) -> None:
    peer.send(ok())
    assert client.response("POST")[0] == 200
    client.socket.close()


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"


@pytest.mark.parametrize(
    ("request_bytes", "end"),
    [
        (GET, broken_by_client),
        (GET, broken_by_backend),
        (GET, broken_in_body),
        (GET, done_and_closed),
        (GET, malformed),
        (POST, early_answer),
        (POST, broken_by_client),
    ],
)
def test_the_place_is_free_again_however_an_exchange_ends(request_bytes: bytes, end: Any) -> None:
    peers: list[Peer] = []
    done = threading.Event()

    def serve(peer: Peer) -> None:
        peer.head()
        peers.append(peer)
        done.wait(10)

    server = scripted(serve)
    with serving(server.backend("b"), routes=filtered(in_flight=1)) as (_, port):
        with Client(port) as client:
            client.send(request_bytes)
            wait_until(lambda: len(peers) == 1)
            end(client, peers[0])
            wait_until(lambda: has_room(port))
        done.set()


def has_room(port: int) -> bool:
    """Whether a request, one that waits for ever, is let in."""
    with Client(port) as client:
        client.send(GET)
        client.socket.settimeout(0.05)
        try:
            return client.socket.recv(1 << 16)[9:12] != b"503"
        except TimeoutError:
            return True


def test_a_websocket_is_under_way_until_it_ends() -> None:
    def serve(peer: Peer) -> None:
        if peer.head() is not None:
            peer.send(SWITCH)
            peer.file.read()

    server = scripted(serve)
    with serving(server.backend("b"), routes=filtered(in_flight=1)) as (_, port):
        with Client(port) as client, Client(port) as other:
            client.send(WEBSOCKET)
            assert client.socket.recv(1 << 16).startswith(b"HTTP/1.1 101")
            assert other.get()[0] == 503
        wait_until(lambda: has_room(port))


# ---- body_limit ----

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_length_over_the_limit_is_refused_at_once_and_reaches_no_backend() -> None:
    web = Web()
    with serving(web.backend(), routes=filtered(body_size=4)) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd")
        assert client.response("POST")[::2] == (200, b"abcd")
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", b"Expect: 100-continue\r\n\r\n"
        )
        assert client.response("POST")[0] == 413
        assert client.is_closed()
    assert len(web.requests) == 1


def test_chunks_that_pass_the_limit_at_once_reach_no_backend() -> None:
    web = Web()
    with serving(web.backend(), routes=filtered(body_size=4)) as (_, port), Client(port) as client:
        client.send(CHUNKED, b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")
        assert client.response("POST")[0] == 413
        assert client.is_closed()
    assert not web.requests


def test_a_body_is_cut_where_its_chunks_pass_the_limit() -> None:
    got: list[bytes] = []
    begun, ended = threading.Event(), threading.Event()

    def serve(peer: Peer) -> None:
        peer.head()
        got.append(peer.file.read(7))
        begun.set()
        got.append(peer.file.read())
        ended.set()

    server = scripted(serve)
    with serving(server.backend("b"), routes=filtered(body_size=4)) as (_, port):
        with Client(port) as client:
            client.send(CHUNKED, b"2\r\nab\r\n")
            assert begun.wait(10)
            client.send(b"3\r\ncde\r\n0\r\n\r\n")
            assert client.response("POST")[0] == 413
            assert client.is_closed()
        assert ended.wait(10)
    assert got == [b"2\r\nab\r\n", b""]


def test_chunks_up_to_the_limit_pass() -> None:
    web = Web()
    with serving(web.backend(), routes=filtered(body_size=4)) as (_, port), Client(port) as client:
        client.send(CHUNKED, b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
        assert client.response("POST")[::2] == (200, b"abcd")


# ---- respond ----


def test_a_route_answers_by_itself() -> None:
    page = Respond(503, b"<h1>Back at noon</h1>", "text/html")
    status, fields, body = one_get("/", respond=page)
    assert (status, body) == (503, b"<h1>Back at noon</h1>")
    assert (fields["content-type"], fields["content-length"]) == ("text/html", "21")
    assert "connection" not in fields


def test_an_answer_to_head_and_one_without_a_body() -> None:
    page = Respond(200, b"abc")
    with serving(routes=filtered(respond=page)) as (_, port), Client(port) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields, body = client.response("HEAD")
        assert (status, fields["content-length"], body) == (200, "3", b"")
        assert client.get()[2] == b"abc"
    assert one_get("/", respond=Respond(204))[1] == {}


def test_the_largest_answer_arrives_whole() -> None:
    page = Respond(200, bytes(range(256)) * 64, "application/octet-stream")
    assert one_get("/", respond=page)[2] == page.body


# ---- redirect ----


@pytest.mark.parametrize(
    ("redirect", "path", "location"),
    [
        (Redirect(scheme="https"), "/x/y?a=b", "https://a/x/y?a=b"),
        (Redirect(scheme="https", port=8443), "/x", "https://a:8443/x"),
        (Redirect(scheme="https", port=443), "/x", "https://a/x"),
        (Redirect(scheme="http"), "/x", "http://a/x"),
        (Redirect(scheme="http", port=443), "/x", "http://a:443/x"),
        (Redirect(host="b.example"), "/x", "http://b.example:{port}/x"),
        (Redirect(host="b.example", port=80), "/x", "http://b.example/x"),
        (Redirect(port=8080), "/", "http://a:8080/"),
        (Redirect(scheme="https", path="/new"), "/x/y?a=b", "https://a/new?a=b"),
        (Redirect(scheme="https", path="/"), "/x/y", "https://a/"),
        (Redirect(scheme="https", path="/new", by_prefix=True), "/x/y?q", "https://a/new/x/y?q"),
    ],
)
def test_where_a_redirect_leads(redirect: Redirect, path: str, location: str) -> None:
    with serving(routes=filtered(redirect=redirect)) as (_, port), Client(port) as client:
        status, fields, _ = client.get(path)
        assert (status, fields["location"]) == (302, location.format(port=port))
        assert client.get(path)[0] == 302  # the connection goes on


@pytest.mark.parametrize(
    ("prefix", "new", "path", "result"),
    [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
        ("/", "/", "/foo", "/foo"),
        ("/", "/xyz", "/", "/xyz/"),
    ],
)
def test_a_prefix_is_replaced(prefix: str, new: str, path: str, result: str) -> None:
    redirect = Redirect(scheme="https", path=new, by_prefix=True, status=308)
    routes = (to(path=prefix, filters=Filters(redirect=redirect)),)
    with serving(routes=routes) as (_, port), Client(port) as client:
        status, fields, _ = client.get(path)
        assert (status, fields["location"]) == (308, f"https://a{result}")


def test_a_redirect_without_a_host_is_to_where_the_client_connected() -> None:
    there = Redirect(scheme="https")
    with serving(routes=filtered(redirect=there)) as (_, port), Client(port) as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert client.response()[1]["location"] == "https://127.0.0.1/x"


def test_a_new_target_that_is_too_long_is_refused() -> None:
    redirect = Redirect(scheme="https", path="/" + "n" * 1000, by_prefix=True)
    assert one_get("/" + "x" * 8000, redirect=redirect)[0] == 414
    status, fields, _ = one_get("/" + "x" * 7100, redirect=redirect)
    assert (status, len(fields["location"])) == (302, len("https://a") + 8102)


# ---- tables ----


def check_refused(engine: Engine, match: str, **filters: Any) -> None:
    with pytest.raises(ValueError, match=match):
        engine.publish(tables(1, routes=filtered(**filters)))


def test_tables_with_filters_that_cannot_be_are_refused() -> None:
    with serving() as (engine, _):
        check_refused(engine, "does not appear to be", allowed=("a",))
        check_refused(engine, "in_flight -1", in_flight=-1)
        check_refused(engine, "status 199", respond=Respond(199))
        check_refused(engine, "printable", respond=Respond(200, b"", "a/b\r\nX: y"))
        check_refused(engine, "size of the body", respond=Respond(200, bytes(16385)))
        check_refused(engine, "scheme 'ftp'", redirect=Redirect(scheme="ftp"))
        check_refused(engine, "printable", redirect=Redirect(host="a\r\nb"))
        check_refused(engine, "slash", redirect=Redirect(path="a"))
