"""The filter forward_auth without an answer, with new tables, and with clients that go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from fastpath.engine import Backend, Retries, Service, Sticky
from fastpath.filters import Filters, ForwardAuth, HeaderEdits, Redirect, Respond
from fastpath.options import Options
from fastpath.requests import RequestRecord
from tests.fastpath.http.asking import (
    ASK,
    NO,
    YES,
    Doubting,
    asking,
    asking_tables,
    rejected,
    saying,
    sends,
)
from tests.fastpath.http.gateways import (
    SWITCH,
    Client,
    Peer,
    Web,
    ok,
    scripted,
    to,
)
from tests.fastpath.peers import Refusing, break_off, reset
from tests.waiting import wait_until

# ---- no answer: the request does not go on ----


def is_silent(peer: Peer) -> None:
    peer.request()
    peer.file.read()


def resets(peer: Peer) -> None:
    peer.request()
    break_off(peer.socket)


def dawdles(*parts: bytes) -> Callable[[Peer], None]:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(*parts)
        peer.file.read()

    return talk


HEAD = b"HTTP/1.1 200 OK\r\n"
BAD: dict[str, tuple[Callable[[Peer], None], int, str]] = {
    "closes": (sends(), 502, "upstream"),
    "resets": (resets, 502, "upstream"),
    "nonsense": (sends(b"nonsense\r\n\r\n"), 502, "upstream"),
    "half a head": (sends(HEAD), 502, "upstream"),
    "two lengths": (sends(HEAD, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), 502,
                    "upstream"),
    "a short body": (sends(HEAD, b"Content-Length: 9\r\n\r\nyes"), 502, "upstream"),
    "a bad chunk": (sends(HEAD, b"Transfer-Encoding: chunked\r\n\r\nx\r\n"), 502, "upstream"),
    "bad trailers": (sends(HEAD, b"Transfer-Encoding: chunked\r\n\r\n0\r\na b\r\n\r\n"), 502,
                     "upstream"),
    "a switch": (sends(SWITCH), 502, "upstream"),
    "no end of hints": (sends(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33, YES), 502, "upstream"),
    "a long head": (sends(HEAD, b"X: " + b"x" * 17000 + b"\r\n\r\n"), 502, "upstream"),
    "silence": (is_silent, 504, "timeout"),
    "half a head, then silence": (dawdles(HEAD), 504, "timeout"),
    "half a body, then silence": (dawdles(HEAD, b"Content-Length: 9\r\n\r\nyes"), 504, "timeout"),
}  # fmt: skip


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_an_answer_nothing_goes_on(how: str, method: str) -> None:
    talk, status, reason = BAD[how]
    web, auth = Web(), scripted(talk)
    # Only silence has to time out; the others must not, however busy this machine is.
    patience = {"backend_timeout_ms": 300} if reason == "timeout" else {}
    options = {"body_idle_timeout_ms": 300} if reason == "timeout" else {}
    with asking(web.backend("b"), auth.backend("a"), options=options, **patience) as (engine, port):
        with Client(port) as client:
            body = "Content-Length: 5\r\n\r\nhello" if method == "POST" else "\r\n"
            client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n{body}".encode())
            assert client.response()[0] == status
            if method == "GET":
                assert client.get("/again")[0] == status
                assert rejected(engine) == {reason: 2}
            else:
                assert client.is_closed()
                assert rejected(engine) == {reason: 1}
        wait_until(lambda: engine.stats()["services"]["auth"]["a"]["open"] == 0)
        assert engine.stats()["services"]["s"]["b"]["connections"] == 0
    assert not web.requests


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [("refuses", 502, "connect"), ("down", 503, "unavailable"), ("none", 503, "unavailable"),
     ("unknown", 500, "no-backend")],
)  # fmt: skip
def test_with_nobody_to_ask_nothing_goes_on(asked: str, status: int, reason: str) -> None:
    web, auth = Web(), Web()
    refusing = Refusing()
    backends = {
        "refuses": (Backend("a", "127.0.0.1", refusing.port, 1, True),),
        "down": (auth.backend(up=False),),
    }.get(asked, ())
    ask = ASK._replace(service="") if asked == "unknown" else ASK
    with asking(web.backend(), *backends, auth=ask) as (engine, port), Client(port) as client:
        assert [client.get()[0] for _ in range(2)] == [status] * 2
        assert rejected(engine) == {reason: 2}
    assert not web.requests
    assert not auth.requests


def test_what_does_not_fit_into_a_head_is_not_left_out() -> None:
    web, auth = Web(), saying(ok(b"", b"X-User: " + b"u" * 12000))
    long = [f"X-{n}: {'x' * 4000}" for n in range(4)]
    with asking(web.backend(), auth.backend()) as (engine, port), Client(port) as client:
        assert client.get()[0] == 200
        assert client.get("/" + "p" * 40, *long[:3])[0] == 200
        filters = Filters(request_headers=HeaderEdits(add=(("x-add", "y" * 4000),)))
        engine.publish(asking_tables(port, web.backend(), auth.backend(), filters=filters))
        assert client.get("/" + "p" * 40, *long)[0] == 502
    assert len(web.requests) == 2


def test_another_one_is_asked_when_one_does_not_answer() -> None:
    web, auth = Web(), saying(YES)
    refusing = Refusing()
    gone = Backend("gone", "127.0.0.1", refusing.port, 1, True)
    with asking(web.backend(), gone, auth.backend("a")) as (_, port), Client(port) as client:
        assert [client.get()[0] for _ in range(16)] == [200] * 16
    assert len(auth.requests) == len(web.requests) == 16


def test_the_retries_of_the_route_are_the_questions_too() -> None:
    answers = iter([HEAD + b"Content-Length: 9\r\nX-User: one\r\n\r\nyes", b"", b"nonsense\r\n\r\n",
                    NO.replace(b"401", b"503"), YES])  # fmt: skip

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(next(answers))

    web, auth = Web(), scripted(talk)
    retries = Retries(4, statuses=(503,), backoff_ms=0)
    with asking(web.backend(), auth.backend("a"), retries=retries) as (engine, port):
        with Client(port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            assert client.response()[2] == b"hello"
        assert engine.stats()["http"]["retries"]["g"]["r"]["begun"] == 4
    assert auth.n_accepted == 5
    assert web.requests[0].all("x-user") == ["u"]


def test_questions_wait_for_a_place_at_their_service() -> None:
    web, auth = Web(), Doubting()
    limit = {"connections_max": 1}
    with (
        asking(web.backend(), auth.backend("a"), of_auth=limit) as (engine, port),
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(port)) for _ in range(2)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: len(auth.requests) == 1)
        wait_until(lambda: engine.stats()["http"]["waiting"] == 1)
        auth.knows.release()
        wait_until(lambda: len(auth.requests) == 2)
        auth.knows.release()
        assert [client.response()[0] for client in clients] == [200] * 2
    assert auth.server.n_accepted == 1


# ---- while the question is under way ----


def test_a_client_that_goes_takes_its_question_along() -> None:
    web, auth = Web(), Doubting()
    with asking(web.backend("b"), auth.backend("a")) as (engine, port):
        client = Client(port)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: auth.requests)
        reset(client.socket)
        wait_until(lambda: engine.stats()["services"]["auth"]["a"]["open"] == 0)
        auth.knows.release()
        assert engine.stats()["services"]["s"]["b"]["connections"] == 0
    assert not web.requests


def test_the_engine_stops_while_a_question_is_under_way() -> None:
    web, auth = Web(), Doubting()
    with asking(web.backend(), auth.backend()) as (_, port):
        client = Client(port)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        wait_until(lambda: auth.requests)
    auth.knows.release()
    client.rest()
    client.socket.close()
    assert not web.requests


@pytest.mark.parametrize("what", ["nothing", "filter", "route", "names", "auth"])
def test_new_tables_do_not_let_a_request_go_on_unasked(what: str) -> None:
    web, auth = Web(), Doubting()
    with asking(web.backend(), auth.backend()) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-User: evil\r\nX-New: evil\r\n\r\n")
        wait_until(lambda: auth.requests)
        before = asking_tables(port, web.backend(), auth.backend())
        (gateway,) = before.gateways
        service = before.services[0]
        if what == "nothing":
            engine.publish(before)
        elif what == "filter":
            engine.publish(before._replace(gateways=(gateway._replace(routes=(to(),)),)))
        elif what == "route":
            engine.publish(before._replace(gateways=(gateway._replace(routes=()),)))
        elif what == "names":
            ask = ForwardAuth("auth", "/", ("x-new",))
            engine.publish(asking_tables(port, web.backend(), auth.backend(), auth=ask))
        else:
            engine.publish(before._replace(
                services=(service,), gateways=(gateway._replace(routes=(to(),)),)
            ))  # fmt: skip
        assert not web.requests
        auth.says = ok(b"", b"X-User: u", b"X-New: n")
        auth.knows.release()
        assert client.response()[0] == 200
    # It goes by the tables that it came under.
    assert web.requests[0].all("x-user") == ["u"]
    assert web.requests[0].all("x-new") == ["evil"]


def test_a_request_whose_service_has_gone_meanwhile_goes_nowhere() -> None:
    web, auth = Web(), Doubting()
    with asking(web.backend(), auth.backend()) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: auth.requests)
        before = asking_tables(port, web.backend(), auth.backend())
        gateway = before.gateways[0]._replace(routes=(to(""),))
        other = Service("other", (web.backend(),))
        engine.publish(before._replace(services=(before.services[1], other), gateways=(gateway,)))
        auth.knows.release()
        assert client.response()[0] == 503
        assert rejected(engine) == {"unavailable": 1}
    assert not web.requests


def test_the_cookie_that_names_a_backend_names_the_requests() -> None:
    web, auth = Web(), saying(YES)
    sticky = Sticky("sid")
    with (
        asking(web.backend("b"), auth.backend("a"), sticky=sticky) as (_, port),
        Client(port) as client,
    ):
        _, fields, _ = client.get()
        cookie = fields["set-cookie"].split(";")[0]
        assert cookie.startswith("sid=")
        _, fields, _ = client.get("/", f"Cookie: {cookie}")
        assert "set-cookie" not in fields
        auth.answer = lambda _peer, _seen: NO
        status, fields, _ = client.get()
        assert status == 401
        assert "set-cookie" not in fields


def test_the_log_has_the_request_and_who_answered_it() -> None:
    web, auth = Web(lambda _peer, _seen: ok(b"fine")), saying(YES)
    options = {"options": Options(logs=True)}
    found: list[RequestRecord] = []
    with asking(web.backend("b"), auth.backend("a"), options=options) as (engine, port):
        with Client(port) as client:
            client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            assert client.response()[0] == 200
            auth.answer = lambda _peer, _seen: NO
            assert client.get("/y")[0] == 401
            auth.answer = lambda _peer, _seen: b"nonsense\r\n\r\n"
            assert client.get("/z")[0] == 502

        def enough() -> bool:
            found.extend(one for one in engine.read_log() if isinstance(one, RequestRecord))
            return len(found) == 3

        wait_until(enough)
    assert [(one.method, one.path, one.status) for one in found] == [
        ("POST", "/x", 200), ("GET", "/y", 401), ("GET", "/z", 502),
    ]  # fmt: skip
    assert [(one.bytes_in, one.bytes_out) for one in found[:2]] == [(5, 4), (0, 2)]
    assert [one.backend for one in found[:2]] == ["b", "a"]


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"auth": ForwardAuth("gone", "/")}, "no service 'gone'"),
        ({"auth": ForwardAuth("auth", "x")}, "begin with a slash"),
        ({"auth": ForwardAuth("auth", "/a b")}, "no target"),
        ({"auth": ForwardAuth("auth", "/", ("host",))}, "for the gateway to write"),
        ({"auth": ForwardAuth("auth", "/", ("a b",))}, "no name of a field"),
        ({"auth": ForwardAuth("auth", "/", tuple(f"x{n:060}" for n in range(17)))}, "size of the"),
        ({"filters": Filters(respond=Respond(200))}, "unasked"),
        ({"filters": Filters(redirect=Redirect("https"))}, "unasked"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    web = Web()
    with pytest.raises(ValueError, match=says), asking(web.backend(), web.backend(), **changes):
        pass


def test_a_route_without_a_backend_leads_to_no_other_one_unasked() -> None:
    web, auth = Web(), saying(YES)
    with asking(web.backend(), auth.backend()) as (engine, port), Client(port) as client:
        before = asking_tables(port, web.backend(), auth.backend())
        (gateway,) = before.gateways
        leads = to("", filters=Filters(forward_auth=ASK, add_prefix="/x"))
        routes = (leads, to(name="x", path="/x"))
        engine.publish(before._replace(gateways=(gateway._replace(routes=routes),)))
        assert client.get()[0] == 500
    assert not web.requests


def test_a_backend_of_the_route_does_not_edit_what_another_service_answers() -> None:
    web, auth = Web(), saying(NO)
    with asking(web.backend(), auth.backend()) as (engine, port), Client(port) as client:
        before = asking_tables(port, web.backend(), auth.backend())
        (gateway,) = before.gateways
        (route,) = gateway.routes
        (target,) = route.targets
        edits = HeaderEdits(set=(("x-share", "s"),))
        target = target._replace(request_headers=edits, response_headers=edits)
        gateway = gateway._replace(routes=(route._replace(targets=(target,)),))
        engine.publish(before._replace(gateways=(gateway,)))
        assert "x-share" not in client.get()[1]
        auth.answer = lambda _peer, _seen: YES
        assert client.get()[1]["x-share"] == "s"
    assert web.requests[0].all("x-share") == ["s"]
