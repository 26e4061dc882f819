"""The filter mirror: another service gets copies of requests, and nobody notices."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastpath.engine import Backend, Engine, Gateway, Listener, Service, Tables
from fastpath.filters import Filters, HeaderEdits, Mirror
from tests.fastpath.http.asking import ASK, NO, YES, Doubting, saying, sends
from tests.fastpath.http.gateways import SWITCH, WEBSOCKET, Client, Peer, Web, ok, scripted, to
from tests.fastpath.peers import Refusing, Silent, break_off, reset, running
from tests.net import free_port
from tests.waiting import wait_until

LIMIT = 16384
"""Bytes of a body that are copied at most."""
AT_ONCE = 64
MIRROR = Mirror("m")


def mirror_tables(
    port: int,
    web: Backend,
    *mirrors: Backend,
    filters: Filters | None = None,
    of_mirror: dict[str, Any] | None = None,
    more: tuple[Service, ...] = (),
    **changes: Any,
) -> Tables:
    """One route for every request, to `web`, with copies to "m"."""
    route = to(filters=filters or Filters(mirror=MIRROR), **changes)
    return Tables(
        (Listener("127.0.0.1", port, "g", http=True),),
        (Service("s", (web,)), Service("m", mirrors, **(of_mirror or {})), *more),
        (Gateway("g", False, (route,)),),
    )


@contextlib.contextmanager
def mirroring(web: Backend, *mirrors: Backend, **changes: Any) -> Iterator[tuple[Engine, int]]:
    with running() as engine:
        engine.publish(mirror_tables(port := free_port(), web, *mirrors, **changes))
        yield engine, port


def mirrored(engine: Engine) -> dict[str, int]:
    return {how: n for how, n in engine.stats()["http"]["mirrored"].items() if n}


def settled(engine: Engine, n: int) -> dict[str, int]:
    """What became of the copies, once so many are over."""
    wait_until(lambda: sum(mirrored(engine).values()) == n, lambda: str(mirrored(engine)))
    return mirrored(engine)


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        ("GET", (), b""),
        ("HEAD", (), b""),
        ("POST", ("Content-Length: 5",), b"hello"),
        ("POST", ("Content-Length: 0",), b""),
        ("PUT", ("Transfer-Encoding: chunked",), b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        ("PUT", ("Transfer-Encoding: chunked",), b"0\r\n\r\n"),
        ("POST", (f"Content-Length: {LIMIT}",), b"x" * LIMIT),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_copy_is_what_the_backend_gets(
    method: str, fields: tuple[str, ...], body: bytes, pieces: int
) -> None:
    web, other = Web(), Web()
    filters = Filters(
        mirror=MIRROR,
        strip_prefix="/v1",
        request_headers=HeaderEdits(set=(("x-set", "1"),), remove=("cookie",)),
    )
    with mirroring(web.backend("b"), other.backend("c"), filters=filters) as (engine, port):
        with Client(port) as client:
            head = "".join(f"{one}\r\n" for one in (f"{method} /v1/a?b HTTP/1.1", "Host: a",
                                                    "Cookie: c", *fields, ""))  # fmt: skip
            client.send(head.encode())
            for i in range(pieces):
                if pieces > 1:
                    threading.Event().wait(0.02)  # so that the body comes in several
                part = len(body) // pieces
                client.send(body[i * part : (i + 1) * part if i < pieces - 1 else None])
            assert client.response(method)[0] == 200
        assert settled(engine, 1) == {"answered": 1}
    (one,), (copy,) = web.requests, other.requests
    assert copy == one
    assert one.line == f"{method} /a?b HTTP/1.1"


def test_connections_to_the_other_service_are_kept() -> None:
    web, other = Web(), Web()
    with mirroring(web.backend(), other.backend()) as (engine, port), Client(port) as client:
        for n in range(20):
            client.get(f"/{n}")
            settled(engine, n + 1)
    assert [seen.line for seen in other.requests] == [seen.line for seen in web.requests]
    assert other.server.n_accepted == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_is_too_long_is_not_copied(framing: str) -> None:
    web, other = Web(lambda _peer, seen: ok(b"%d" % len(seen.body))), Web()
    size = LIMIT + 1
    with mirroring(web.backend(), other.backend()) as (engine, port), Client(port) as client:
        if framing == "length":
            field, body = f"Content-Length: {size}", b"x" * size
        else:
            field, body = (
                "Transfer-Encoding: chunked",
                b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size),
            )
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n".encode(), body)
        assert client.response()[2] == b"%d" % size
        assert settled(engine, 1) == {"too-long": 1}
        assert client.get()[0] == 200
        assert settled(engine, 2) == {"too-long": 1, "answered": 1}
    assert [seen.line for seen in other.requests] == ["GET / HTTP/1.1"]


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99, 100])
def test_a_share_of_the_requests_is_copied(percent: int) -> None:
    n = 1000
    share = percent / 100
    deviation = 5 * math.sqrt(n * share * (1 - share))
    web, other = Web(), Web()
    filters = Filters(mirror=Mirror("m", percent))
    with mirroring(web.backend(), other.backend(), filters=filters) as (engine, port):
        with Client(port) as client:
            for _ in range(n):
                client.get()
        wait_until(lambda: abs(sum(mirrored(engine).values()) - n * share) <= deviation)
        wait_until(lambda: engine.stats()["services"]["m"]["b"]["active"] == 0)
        drawn = sum(mirrored(engine).values())
    assert abs(drawn - n * share) <= deviation
    assert len(other.requests) <= drawn


def is_silent(peer: Peer) -> None:
    peer.request()
    peer.file.read()


def resets_at_once(peer: Peer) -> None:
    break_off(peer.socket)


def floods(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        peer.send(b"x" * 65536)


HEAD = b"HTTP/1.1 200 OK\r\n"
BAD: dict[str, Callable[[Peer], None]] = {
    "resets_at_once": resets_at_once,
    "closes": sends(),
    "nonsense": sends(b"nonsense\r\n\r\n"),
    "half a head": sends(HEAD),
    "a short body": sends(HEAD, b"Content-Length: 9\r\n\r\nyes"),
    "a bad chunk": sends(HEAD, b"Transfer-Encoding: chunked\r\n\r\nx\r\n"),
    "a switch": sends(SWITCH),
    "no end of hints": sends(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33, ok()),
    "a long head": sends(HEAD, b"X: " + b"x" * 17000 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_that_becomes_of_a_copy_changes_the_answer(how: str, method: str) -> None:
    web, other = Web(), scripted(BAD[how])
    with mirroring(web.backend(), other.backend("c")) as (engine, port), Client(port) as client:
        for n in range(3):
            body = "Content-Length: 5\r\n\r\nhello" if method == "POST" else "\r\n"
            client.send(f"{method} /{n} HTTP/1.1\r\nHost: a\r\n{body}".encode())
            status, _, got = client.response()
            assert status == 200
            assert got == (b"hello" if method == "POST" else b"GET /%d HTTP/1.1" % n)
        assert settled(engine, 3) == {"failed": 3}
        assert not any(engine.stats()["http"]["rejected"].values())
        wait_until(lambda: engine.stats()["services"]["m"]["c"]["open"] == 0)


@pytest.mark.parametrize("there", ["refuses", "down", "none", "unknown", "told"])
def test_without_anybody_who_takes_copies_nothing_changes(there: str) -> None:
    web, other = Web(), Web()
    refusing = Refusing()
    backends = {
        "refuses": (Backend("c", "127.0.0.1", refusing.port, 1, True),),
        "down": (other.backend(up=False),),
        "told": (other.backend(),),
    }.get(there, ())
    filters = Filters(mirror=Mirror("" if there == "unknown" else "m"))
    how = {"proxy_header": 2} if there == "told" else {}
    with mirroring(web.backend(), *backends, filters=filters, of_mirror=how) as (engine, port):
        with Client(port) as client:
            assert [client.get()[0] for _ in range(4)] == [200] * 4
        assert settled(engine, 4) == {"failed": 4}
    assert not other.requests


def test_any_answer_will_do() -> None:
    web = Web()
    answers = iter([NO, b"HTTP/1.1 304 Not Modified\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\nto the end"])

    def talk(peer: Peer) -> None:
        while peer.request():
            peer.send(answer := next(answers))
            if b"end" in answer:
                return

    other = scripted(talk)
    with mirroring(web.backend(), other.backend("c")) as (engine, port), Client(port) as client:
        for n in range(3):
            assert client.get()[0] == 200
            settled(engine, n + 1)
        assert mirrored(engine) == {"answered": 3}
    assert other.n_accepted == 1


def test_an_answer_without_an_end_is_not_read_for_ever() -> None:
    web, other = Web(), scripted(floods)
    with mirroring(web.backend(), other.backend("c")) as (engine, port), Client(port) as client:
        assert client.get()[0] == 200
        assert settled(engine, 1) == {"answered": 1}
        wait_until(lambda: engine.stats()["services"]["m"]["c"]["open"] == 0)


@pytest.mark.parametrize("kind", ["silent", "connecting"])
def test_so_many_copies_are_under_way_and_no_more(kind: str) -> None:
    web, silent = Web(), scripted(is_silent)
    backlog = Silent()
    backend = silent.backend("c")
    if kind == "connecting":
        backend = Backend("c", "127.0.0.1", backlog.port, 1, True)
    patience = {"connect_timeout_ms": 600_000}
    with mirroring(web.backend(), backend, backend_timeout_ms=600_000, of_mirror=patience) as (
        engine, port,
    ), Client(port) as client:  # fmt: skip
        assert [client.get()[0] for _ in range(AT_ONCE + 20)] == [200] * (AT_ONCE + 20)
        assert settled(engine, 20) == {"too-many": 20}
        wait_until(lambda: engine.stats()["services"]["m"]["c"]["open"] == AT_ONCE)
        # The engine ends with all of them under way.


def test_an_answer_that_does_not_come_is_given_up() -> None:
    web, other = Web(), scripted(is_silent)
    with mirroring(web.backend(), other.backend("c"), backend_timeout_ms=300) as (engine, port):
        with Client(port) as client:
            assert client.get()[0] == 200
        assert settled(engine, 1) == {"failed": 1}


def test_a_copy_does_not_wait_for_a_place() -> None:
    web, other = Web(), Doubting()
    limit = {"connections_max": 1}
    with (
        mirroring(web.backend(), other.backend(), of_mirror=limit) as (engine, port),
        Client(port) as client,
    ):
        assert client.get("/1")[0] == 200
        wait_until(lambda: other.requests)
        assert client.get("/2")[0] == 200
        assert settled(engine, 1) == {"failed": 1}
        other.knows.release()
        assert settled(engine, 2) == {"failed": 1, "answered": 1}
        assert client.get("/3")[0] == 200
        other.knows.release()
        assert settled(engine, 3) == {"failed": 1, "answered": 2}


def test_a_request_that_does_not_go_completely_is_not_copied() -> None:
    web, other = scripted(is_silent), Web()
    with mirroring(web.backend("b"), other.backend()) as (engine, port):
        client = Client(port)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        wait_until(lambda: web.n_accepted)
        reset(client.socket)
        assert settled(engine, 1) == {"unsent": 1}
        refusing = Refusing()
        gone = Backend("b", "127.0.0.1", refusing.port, 1, True)
        engine.publish(mirror_tables(port, gone, other.backend()))
        with Client(port) as second:
            assert second.get()[0] == 502
        assert settled(engine, 2) == {"unsent": 2}
    assert not other.requests


def test_a_websocket_is_not_copied() -> None:
    web, other = scripted(lambda peer: peer.send(SWITCH) if peer.head() else None), Web()
    with mirroring(web.backend("b"), other.backend()) as (engine, port), Client(port) as client:
        client.send(WEBSOCKET)
        assert client.rest().startswith(b"HTTP/1.1 101")
        assert mirrored(engine) == {}
    assert not other.requests


def test_a_request_that_is_asked_about_is_copied_when_it_goes() -> None:
    web, other, auth = Web(), Web(), saying(YES)
    filters = Filters(mirror=MIRROR, forward_auth=ASK)
    more = (Service("auth", (auth.backend(),)),)
    with (
        mirroring(web.backend(), other.backend(), filters=filters, more=more) as (engine, port),
        Client(port) as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert client.response()[0] == 200
        assert settled(engine, 1) == {"answered": 1}
        auth.answer = lambda _peer, _seen: NO
        assert client.get()[0] == 401
        assert mirrored(engine) == {"answered": 1}
    assert other.requests == web.requests
    assert other.requests[0].all("x-user") == ["u"]


@pytest.mark.parametrize("what", ["service", "backend"])
def test_new_tables_end_what_they_have_no_place_for(what: str) -> None:
    web, other = Web(), Doubting()
    with mirroring(web.backend(), other.backend("c")) as (engine, port), Client(port) as client:
        assert client.get()[0] == 200
        wait_until(lambda: other.requests)
        if what == "service":
            before = mirror_tables(port, web.backend())
            (gateway,) = before.gateways
            gateway = gateway._replace(routes=(to(),))
            engine.publish(before._replace(services=before.services[:1], gateways=(gateway,)))
            other.knows.release()
            assert settled(engine, 1) == {"answered": 1}
        else:
            engine.cut_backends([("m", "c")])
            assert settled(engine, 1) == {"failed": 1}
            other.knows.release()
        assert client.get()[0] == 200


def test_what_cannot_be_is_refused() -> None:
    web = Web()
    for filters, says in (
        (Filters(mirror=Mirror("gone")), "no service 'gone'"),
        (Filters(mirror=Mirror("m", 101)), "percent 101"),
    ):
        with pytest.raises(ValueError, match=says), mirroring(web.backend(), filters=filters):
            pass
