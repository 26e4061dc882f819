"""The filter forward_auth: another service says whether a request goes on."""

from __future__ import annotations

import threading

import pytest

from fastpath.filters import Cors, Filters, HeaderEdits, Page
from fastpath.options import Options
from tests.fastpath.http.asking import (
    NO,
    YES,
    Doubting,
    asking,
    rejected,
    saying,
    sends,
)
from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Peer,
    Web,
    ok,
    scripted,
)
from tests.fastpath.peers import read_exactly
from tests.waiting import wait_until

# ---- what is asked ----


@pytest.mark.parametrize(
    ("line", "body", "fields"),
    [
        ("GET /a/../b%41?q=/../1", b"", ()),
        ("HEAD /", b"", ()),
        ("DELETE /x", b"", ()),
        ("POST /p", b"5\r\nhello\r\n0\r\n\r\n", ("Transfer-Encoding: chunked", "TE: trailers")),
        ("PUT /p", b"hello", ("Content-Length: 5", "Expect: 100-continue")),
    ],
)
def test_the_question_is_the_clients_request_without_its_body(
    line: str, body: bytes, fields: tuple[str, ...]
) -> None:
    web, auth = Web(), saying(YES)
    sent = (
        f"{line} HTTP/1.1", "Host: a.example:80", "Cookie: c=1", "Authorization: Bearer x",
        "Content-Type: text/plain", "Connection: x-hop, keep-alive", "X-Hop: 1", "Upgrade: h2c",
        "If-None-Match: *", "If-Modified-Since: x", "if-match: x", "If-Unmodified-Since: x",
        "If-Range: x", "Range: bytes=0-1", "X-Forwarded-User: evil", "X-Forwarded-Uri: /evil",
        "X_User: evil", "X-User: evil", *fields, "", "",
    )  # fmt: skip
    with asking(web.backend(), auth.backend()) as (_, port), Client(port) as client:
        client.send("\r\n".join(sent).encode(), body)
        assert client.response(line.split(maxsplit=1)[0])[0] == 200
        peer = client.socket.getsockname()[0]
    (question,) = auth.requests
    (request,) = web.requests
    method, target = line.split()
    uri = {"/a/../b%41?q=/../1": "/bA?q=/../1"}.get(target, target)
    assert question.line == "GET /check?by=gateway HTTP/1.1"
    assert request.line == f"{method} {uri} HTTP/1.1"
    ids = request.all("x-request-id")
    assert len(ids) == 1
    assert [(name, value) for name, value in question.fields if name != "Forwarded"] == [
        ("Host", "a.example:80"),
        ("Cookie", "c=1"),
        ("Authorization", "Bearer x"),
        ("Content-Type", "text/plain"),
        ("X-User", "evil"),
        ("X-Forwarded-Method", method),
        ("X-Forwarded-Uri", uri),
        ("X-Forwarded-For", peer),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "a.example:80"),
        ("X-Forwarded-Port", str(port)),
        ("X-Real-Ip", peer),
        ("X-Request-Id", ids[0]),
    ]
    assert request.body == (b"hello" if body else b"")
    # What the question leaves out the backend still gets, but for what is nobody's.
    assert request.all("if-none-match") == ["*"]
    assert request.all("range") == ["bytes=0-1"]
    assert request.all("x-forwarded-method") == request.all("x-hop") == []


def test_the_question_names_the_path_before_it_is_rewritten() -> None:
    web, auth = Web(), saying(YES)
    filters = Filters(strip_prefix="/v1", request_headers=HeaderEdits(set=(("x-more", "m"),)))
    with (
        asking(web.backend(), auth.backend(), filters=filters) as (_, port),
        Client(port) as client,
    ):
        client.get("/v1/a?b")
    assert auth.requests[0].all("x-forwarded-uri") == ["/v1/a?b"]
    assert auth.requests[0].all("x-more") == []
    assert web.requests[0].line == "GET /a?b HTTP/1.1"
    assert web.requests[0].all("x-more") == ["m"]


def test_a_trusted_proxy_says_who_asks_but_not_what_for() -> None:
    web, auth = Web(), saying(YES)
    options = {"options": Options(trusted=("127.0.0.1",))}
    told = ("X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Uri: /evil",
            "X-Forwarded-Method: OPTIONS", "X-Forwarded-Prefix: /p")  # fmt: skip
    with (
        asking(web.backend(), auth.backend(), options=options) as (_, port),
        Client(port) as client,
    ):
        client.get("/x", *told)
    (question,), (request,) = auth.requests, web.requests
    assert question.all("x-forwarded-uri") == ["/x"]
    assert question.all("x-forwarded-method") == ["GET"]
    for seen in (question, request):
        assert seen.all("x-forwarded-for") == ["192.0.2.9, 127.0.0.1"]
        assert seen.all("x-forwarded-proto") == ["https"]
        assert seen.all("x-forwarded-prefix") == ["/p"]
    assert request.all("x-forwarded-uri") == ["/evil"]


# ---- the request goes on ----


def test_only_the_answer_says_what_is_copied() -> None:
    web, auth = Web(), saying(YES)
    keeps = {"options": Options(underscores="keep")}
    spoofed = ("X-User: evil", "x-USER: evil2", "X_User: evil3", "X-Groups: evil", "X-Other: mine")
    with asking(web.backend(), auth.backend(), options=keeps) as (_, port), Client(port) as client:
        assert client.get("/", *spoofed)[0] == 200
        auth.answer = lambda _peer, _seen: ok(b"", b"X-Other: o")
        assert client.get("/", *spoofed)[0] == 200
    first, second = web.requests
    assert first.all("x-user") == ["u"]
    assert first.all("x-groups") == ["a", "b"]
    assert first.all("x-other") == second.all("x-other") == ["mine"]
    assert second.all("x-user") == second.all("x-groups") == []
    assert first.all("x_user") == second.all("x_user") == []


def test_a_trailer_section_adds_nothing_to_what_the_answer_says() -> None:
    heard: list[bytes] = []

    def listen(peer: Peer) -> None:
        peer.head()
        heard.extend(iter(peer.file.readline, b"\r\n"))
        peer.send(ok())

    web, auth = scripted(listen), saying(YES)
    body = b"1\r\nx\r\n0\r\nX-User: evil\r\nX-Fine: 1\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with asking(web.backend("b"), auth.backend()) as (_, port), Client(port) as client:
        client.send(head, body)
        assert client.response()[0] == 200
    assert heard == [b"1\r\n", b"x\r\n", b"0\r\n"]


def later(peer: Peer, *parts: bytes) -> None:
    """Answer questions piece by piece."""
    while peer.request() is not None:
        for part in parts:
            peer.send(part)
            # Whatever comes of it in the meantime: the parts must be several for the gateway.
            threading.Event().wait(0.03)


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nX-User: u\r\nContent-Length: 3\r\n\r\nyes",),
        (b"HTTP/1.1 200 OK\r\nX-User: u\r\nContent-Length: 3\r\n\r\n", b"y", b"es"),
        (b"HTTP/1.1 200 OK\r\nX-User: u\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n",
         b"0\r\nX-Trail: 1", b"\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\nX-User: u\r\n\r\n",),
        (b"HTTP/1.1 103 Early Hints\r\nX-User: evil\r\n\r\nHTTP/1.1 100 Continue\r\n", b"\r\n",
         b"HTTP/1.1 299 Whatever\r\nX-User: u\r\nContent-Length: 0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-User: u\r\nContent-Length: 60000\r\n\r\n", b"y" * 60000),
    ],
)  # fmt: skip
def test_the_connection_to_who_is_asked_is_kept(parts: tuple[bytes, ...]) -> None:
    web, auth = Web(), scripted(lambda peer: later(peer, *parts))
    with asking(web.backend(), auth.backend("a")) as (engine, port), Client(port) as client:
        for n in range(3):
            assert client.get(f"/{n}")[0] == 200
        assert rejected(engine) == {}
    assert [seen.all("x-user") for seen in web.requests] == [["u"]] * 3
    assert auth.n_accepted == web.server.n_accepted == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nX-User: u\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-User: u\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-User: u\r\n\r\nup to the end",
        b"HTTP/1.1 200 OK\r\nX-User: u\r\nContent-Length: 0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nX-User: u\r\nContent-Length: 70000\r\n\r\n" + b"y" * 69999,
    ],
)
def test_a_connection_that_cannot_be_kept_is_not(answer: bytes) -> None:
    def once(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    web, auth = Web(), scripted(once)
    with asking(web.backend(), auth.backend("a")) as (engine, port), Client(port) as client:
        for _ in range(3):
            assert client.get()[0] == 200
        wait_until(lambda: engine.stats()["services"]["auth"]["a"]["open"] == 0)
    assert [seen.all("x-user") for seen in web.requests] == [["u"]] * 3
    assert auth.n_accepted == 3


def test_an_idle_connection_that_has_died_is_replaced() -> None:
    def one_answer(peer: Peer) -> None:
        peer.request()
        peer.send(ok())
        peer.head()  # the next question, which it does not answer

    web, auth = Web(), scripted(one_answer)
    with asking(web.backend(), auth.backend("a")) as (_, port), Client(port) as client:
        assert [client.get()[0] for _ in range(4)] == [200] * 4
    assert auth.n_accepted == 4


def test_pipelined_requests_are_asked_about_one_by_one() -> None:
    web, auth = Web(), Web()
    auth.answer = lambda _peer, seen: ok(b"", f"X-User: {seen.all('x-n')[0]}".encode())
    one = "POST /{n} HTTP/1.1\r\nHost: a\r\nX-N: {n}\r\nContent-Length: 1\r\n\r\n{n}"
    with asking(web.backend(), auth.backend()) as (_, port), Client(port) as client:
        client.send("".join(one.format(n=n) for n in range(8)).encode())
        assert [client.response()[2] for _ in range(8)] == [b"%d" % n for n in range(8)]
    assert [seen.all("x-user") for seen in web.requests] == [[str(n)] for n in range(8)]


def test_nothing_of_a_body_goes_anywhere_before_the_answer() -> None:
    web, auth = Web(lambda _peer, seen: ok(b"%d" % len(seen.body))), Doubting()
    size = 3_000_000
    with asking(web.backend(), auth.backend()) as (engine, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sending = threading.Thread(target=client.send, args=(b"x" * size,))
        sending.start()
        wait_until(lambda: auth.requests)
        assert engine.stats()["services"]["s"]["b"]["connections"] == 0
        auth.knows.release()
        assert client.response()[2] == b"%d" % size
        sending.join()
    assert auth.requests[0].body == b""


def test_a_client_that_waits_for_100_gets_it_from_the_backend_after_the_answer() -> None:
    def takes(peer: Peer) -> None:
        assert peer.head() is not None
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.send(ok(peer.file.read(5)))

    auth, web = Doubting(), scripted(takes)
    with asking(web.backend("b"), auth.backend()) as (_, port), Client(port) as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
                    b"Expect: 100-continue\r\n\r\n")  # fmt: skip
        wait_until(lambda: auth.requests)
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(20)
        auth.knows.release()
        assert read_exactly(client.socket, 25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert client.response()[2] == b"hello"


def test_a_websocket_is_asked_about_like_any_request() -> None:
    def tunnel(peer: Peer) -> None:
        assert peer.head() is not None
        peer.send(SWITCH)
        peer.send(peer.file.read(4))

    auth, web = Doubting(), scripted(tunnel)
    with asking(web.backend("b"), auth.backend()) as (_, port), Client(port) as client:
        client.send(WEBSOCKET, b"ping")
        wait_until(lambda: auth.requests)
        assert auth.requests[0].all("upgrade") == auth.requests[0].all("connection") == []
        auth.knows.release()
        assert b"101 Switching" in read_exactly(client.socket, len(SWITCH))
        assert read_exactly(client.socket, 4) == b"ping"
    with asking(web.backend("b"), saying(NO).backend()) as (_, port), Client(port) as client:
        client.send(WEBSOCKET)
        assert client.response()[0] == 401
    assert web.n_accepted == 1


def test_http_1_0_is_asked_about_too() -> None:
    web, auth = Web(), saying(YES)
    with asking(web.backend(), auth.backend()) as (_, port), Client(port) as client:
        client.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert client.response()[0] == 200
        assert client.is_closed()
    assert auth.requests[0].all("host") == [f"127.0.0.1:{port}"]


# ---- the answer is for the client ----


@pytest.mark.parametrize("status", [300, 302, 304, 307, 401, 403, 404, 429, 500, 503])
def test_any_other_answer_is_passed_on(status: int) -> None:
    body = b"" if status == 304 else b"look"
    web, auth = Web(), saying(
        b"HTTP/1.1 %d Whatever\r\nLocation: https://login.example/?rd=1\r\nSet-Cookie: a=1\r\n"
        b"Set-Cookie: b=2\r\nWWW-Authenticate: Basic\r\nX-User: u\r\nKeep-Alive: 1\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (status, len(body), body)
    )  # fmt: skip
    with asking(web.backend("b"), auth.backend("a")) as (engine, port), Client(port) as client:
        for _ in range(2):
            client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_exactly(client.socket, 12) == b"HTTP/1.1 %d" % status
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += read_exactly(client.socket, 1)
            assert read_exactly(client.socket, len(body)) == body
            assert head.decode().split("\r\n")[:-2] == [
                " Whatever",
                "Location: https://login.example/?rd=1",
                "Set-Cookie: a=1",
                "Set-Cookie: b=2",
                "WWW-Authenticate: Basic",
                "X-User: u",
                f"Content-Length: {len(body)}",
            ]
        # A request is counted when it has ended, which is just after its answer was sent.
        wait_until(lambda: engine.stats()["http"]["requests"]["g"]["r"]["GET"] == {status: 2})
        assert rejected(engine) == {}
    assert not web.requests
    assert auth.server.n_accepted == 1


@pytest.mark.parametrize("size", [0, 3, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_an_answer_is_streamed_however_it_is_framed(framing: str, size: int) -> None:
    body = b"n" * size
    head = b"HTTP/1.1 403 Forbidden\r\n"
    if framing == "length":
        answer = head + b"Content-Length: %d\r\n\r\n" % size + body
    elif framing == "chunked":
        chunk = b"%x\r\n%s\r\n" % (size, body) if size else b""
        answer = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
    else:
        answer = head + b"\r\n" + body

    def talk(peer: Peer) -> None:
        while peer.request():
            peer.send(answer)
            if framing == "close":
                return

    auth = scripted(talk)
    with asking(Web().backend(), auth.backend("a")) as (_, port), Client(port) as client:
        for _ in range(2):
            status, _, got = client.get()
            assert (status, got) == (403, body)


def test_an_answer_that_breaks_off_is_seen_to_be_incomplete() -> None:
    auth = scripted(sends(NO[:-1]))
    with asking(Web().backend(), auth.backend("a")) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.rest().endswith(b"\r\n\r\nn")
        assert rejected(engine) == {"upstream": 1}


def test_a_head_request_gets_the_answers_head_alone() -> None:
    auth = saying(NO)
    web = Web(lambda _peer, _seen: ok())
    with asking(web.backend(), auth.backend()) as (_, port), Client(port) as client:
        for _ in range(3):
            client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, fields, body = client.response("HEAD")
            assert (status, fields["content-length"], body) == (401, "2", b"")
            # Nobody may take the body, which comes in its time, for the next answer.
            status, _, body = client.get()
            assert (status, body) == (401, b"no")


def test_the_body_of_an_answer_to_a_head_request_is_waited_for_by_nobody() -> None:
    later: list[object] = []

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(NO[:-2])
        later.append(peer.head())  # a next question would get the body for an answer

    auth = scripted(talk)
    with asking(Web().backend(), auth.backend("a")) as (_, port), Client(port) as client:
        for n in range(2):
            client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.response("HEAD")[0] == 401
            wait_until(lambda n=n: len(later) == n + 1)  # type: ignore[misc]
    assert later == [None, None]


def test_a_body_that_nobody_will_get_ends_the_connection() -> None:
    web, auth = Web(), saying(NO)
    with asking(web.backend(), auth.backend()) as (_, port), Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        status, fields, body = client.response()
        assert (status, fields["connection"], body) == (401, "close", b"no")
        assert client.is_closed()
    assert not web.requests


def test_filters_of_the_route_and_answers_that_are_passed_on() -> None:
    filters = Filters(
        cors=Cors(("https://x",), methods=("PUT",)),
        response_headers=HeaderEdits(set=(("x-frame-options", "DENY"),)),
        pages=(Page(400, 599, b"page", "text/html"),),
    )
    web, auth = Web(), saying(NO)
    origin = "Origin: https://x"
    with (
        asking(web.backend(), auth.backend(), filters=filters) as (_, port),
        Client(port) as client,
    ):
        client.send(
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: https://x\r\n"
            b"Access-Control-Request-Method: PUT\r\n\r\n"
        )
        assert client.response()[0] == 204
        assert not auth.requests
        status, fields, body = client.get("/", origin)
        assert (status, body) == (401, b"no")
        assert fields["access-control-allow-origin"] == "https://x"
        assert fields["x-frame-options"] == "DENY"
        auth.answer = lambda _peer, _seen: b"nonsense\r\n\r\n"
        status, fields, body = client.get("/", origin)
        assert (status, body) == (502, b"page")
        assert fields["access-control-allow-origin"] == "https://x"
    assert not web.requests
