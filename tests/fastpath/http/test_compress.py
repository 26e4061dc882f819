"""Which responses are compressed, how, and what their heads say of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.filters import Cors, Filters, HeaderEdits
from fastpath.options import Options
from fastpath.requests import RequestRecord
from tests.fastpath.http.codings import ALL, TEXT, compressing, decoded, words
from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Web,
    ok,
    scripted,
    serving,
    to,
)
from tests.fastpath.peers import read_exactly
from tests.waiting import wait_until

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

BODY = words(20_000)
COMPRESS_FROM = 1024
"""As in http/filters/compress.pxd."""
TAKES = f"Accept-Encoding: {', '.join(ALL)}"
Response = tuple[int, dict[str, str], bytes]


def get(*fields: bytes, body: bytes = BODY, takes: str = TAKES, **options: object) -> Response:
    """The response to a GET, of a backend that answers with that body and those fields."""
    web = Web(lambda _peer, _seen: ok(body, *fields))
    with compressing(web.backend(), **options) as (_, port), Client(port) as client:  # type: ignore[arg-type]
        return client.get("/", takes)


# ---- which coding ----


def model(accept: list[str], names: tuple[str, ...]) -> str | None:
    """RFC 9110, 12.5.3, said simply; of a coding that is there twice the last weight counts."""
    weights: dict[str, float] = {}
    for element in ",".join(accept).split(","):
        coding, *parameters = (part.strip(" \t") for part in element.split(";"))
        weight = "1"
        for parameter in filter(None, parameters):
            found = re.fullmatch(r"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", parameter)
            if found is None:
                break
            weight = found[1]
        else:
            weights[coding.lower().removeprefix("x-")] = float(weight)
    best = max(names, key=lambda name: weights.get(name, weights.get("*", 0)), default=None)
    if best is None or not (most := weights.get(best, weights.get("*", 0))):
        return None
    return best if weights.get("identity", 0) <= most else None


CODINGS = st.sampled_from(["gzip", "GZip", "x-gzip", "br", "zstd", "identity", "*", "deflate", ""])
WEIGHTS = st.sampled_from(
    ["", ";q=0", ";q=1", "; q=0.5", ";Q=0.501", " ;\tq=0.25", ";q=0.001", ";q=0.", ";q=1.000",
     ";q=1.001", ";q=2", ";q=", ";q", ";q=-1", ";q=.5", ";q=0.1234", ";level=3", ";q=a", ";q=0.a"]
)  # fmt: skip


@given(
    accept=st.lists(
        st.lists(st.builds(str.__add__, CODINGS, WEIGHTS), max_size=5).map(", ".join), max_size=3
    ),
    names=st.lists(st.sampled_from(ALL), unique=True).map(tuple),
)
def test_the_coding_is_the_one_that_the_client_likes_best_and_of_equals_the_routes_first(
    accept: list[str], names: tuple[str, ...]
) -> None:
    head = probe.Scan()
    lines = "".join(f"Accept-Encoding: {value}\r\n" for value in accept)
    assert head.feed(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    assert head.wanted(names) == model(accept, names)


@given(junk=st.text("gziprbstd*;=q0.1, \t-", max_size=60), names=st.permutations(ALL).map(tuple))
def test_whatever_a_client_accepts_the_model_says_the_same(
    junk: str, names: tuple[str, ...]
) -> None:
    head = probe.Scan()
    assert head.feed(f"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding:{junk}\r\n\r\n".encode())
    assert head.wanted(names) == model([junk], names)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br", "br"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("*", "zstd"),
        ("*;q=0.5, zstd;q=0", "br"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("gzip;q=0", None),
        ("identity;q=0", None),
        ("deflate", None),
        ("", None),
    ],
)
def test_a_response_has_the_coding_that_was_agreed_on(accept: str, coding: str | None) -> None:
    status, fields, body = get(TEXT, takes=f"Accept-Encoding: {accept}")
    assert status == 200
    assert fields.get("content-encoding") == coding
    assert fields["vary"] == "Accept-Encoding"
    assert (decoded(coding, body) if coding else body) == BODY


def test_a_client_that_says_nothing_gets_the_body_as_it_is() -> None:
    _, fields, body = get(TEXT, takes="X-A: b")
    assert fields == {
        "content-type": "text/plain", "vary": "Accept-Encoding", "content-length": "20000"
    }  # fmt: skip
    assert body == BODY


# ---- which responses ----


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "TEXT/CSS; charset=utf-8",
        "text/plain ;x=y",
        "application/json",
        "application/problem+json",
        "application/javascript",
        "application/xml",
        "application/atom+xml; charset=utf-8",
        "image/svg+xml",
        "application/wasm",
        "font/ttf",
    ],
)
def test_what_is_text_in_some_way_is_compressed(content_type: str) -> None:
    _, fields, body = get(f"Content-Type: {content_type}".encode())
    assert fields["content-encoding"] == "zstd"
    assert fields["content-type"] == content_type
    assert decoded("zstd", body) == BODY


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"Content-Type: image/png",),
        (b"Content-Type: text",),
        (b"Content-Type: text/",),
        (b"Content-Type: application/jsonx",),
        (b"Content-Type: application/octet-stream",),
        (b"Content-Type: text/event-stream",),
        (b"Content-Type: Text/Event-Stream; charset=utf-8",),
        (b"Content-Type: font/woff2",),
        (b"Content-Type: +json",),
        (b"Content-Type: text/plain", b"Content-Type: image/png"),
        (TEXT, b"Content-Encoding: gzip"),
        (TEXT, b"Content-Encoding: br"),
        (TEXT, b"Content-Encoding: identity"),
        (TEXT, b"Cache-Control: max-age=1, No-Transform"),
        (TEXT, b"Content-Range: bytes 0-19999/20000"),
        (TEXT, b"Content-Digest: sha-256=:AAAA:"),
        (TEXT, b"Repr-Digest: sha-256=:AAAA:"),
        (TEXT, b"Digest: x"),
        (TEXT, b"Content-MD5: x"),
        (TEXT, b'ETag: "a"', b'ETag: "b"'),
    ],
)
def test_what_is_not_or_must_not_be_changed_is_left_alone(fields: tuple[bytes, ...]) -> None:
    status, found, body = get(*fields)
    assert (status, body) == (200, BODY)
    assert found["content-length"] == "20000"
    assert "vary" not in found
    assert found.get("content-encoding") in {None, "gzip", "br", "identity"}
    assert found.get("etag", '"a"') in {'"a"', '"b"'}


@pytest.mark.parametrize("size", [0, 1, COMPRESS_FROM - 1, COMPRESS_FROM, COMPRESS_FROM + 1])
def test_a_short_body_is_not_worth_it(size: int) -> None:
    _, fields, body = get(TEXT, body=BODY[:size])
    assert ("content-encoding" in fields) == ("vary" in fields) == (size >= COMPRESS_FROM)
    assert (decoded("zstd", body) if size >= COMPRESS_FROM else body) == BODY[:size]


@pytest.mark.parametrize(
    ("status", "compressed"),
    [
        (b"200 OK", True),
        (b"201 Created", True),
        (b"206 Partial Content", False),
        (b"404 Not Found", True),
        (b"500 Internal Server Error", True),
    ],
)
def test_of_statuses_those_with_a_whole_body(status: bytes, compressed: bool) -> None:
    web = Web(lambda _peer, _seen: ok(BODY, TEXT).replace(b"200 OK", status))
    with compressing(web.backend()) as (_, port), Client(port) as client:
        got, fields, body = client.get("/", TAKES)
    assert got == int(status[:3])
    assert ("content-encoding" in fields) == compressed
    assert (decoded("zstd", body) if compressed else body) == BODY


def test_what_has_no_body_gets_none() -> None:
    answers = [
        b"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Type: text/plain\r\n\r\n" + ok(b"", TEXT),
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
        ok(BODY, TEXT),
    ]
    web = Web(lambda _peer, seen: answers[int(seen.line.split()[1][1:])])
    with compressing(web.backend()) as (_, port), Client(port) as client:
        assert client.get("/0", TAKES) == (204, {"content-type": "text/plain"}, b"")
        client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        hints = answers[1].partition(b"HTTP/1.1 200")[0]
        assert read_exactly(client.socket, len(hints)) == hints
        assert client.response()[0] == 200
        # As of the 200 that it stands for, in case a client has that compressed.
        for takes, etag in ((TAKES, 'W/"x"'), ("X-A: b", '"x"')):
            fields = {"etag": etag, "vary": "Accept-Encoding"}
            assert client.get("/2", takes) == (304, fields, b"")
        assert decoded("zstd", client.get("/3", TAKES)[2]) == BODY


def test_head_has_the_fields_of_get_and_no_body() -> None:
    def answer(_peer: object, _seen: object) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nContent-Length: %d\r\n\r\n"
        return head % next(sizes)

    sizes = iter((5000, 500))
    web = Web(answer)
    with compressing(web.backend()) as (engine, port), Client(port) as client:
        for encoding in ("zstd", None):
            client.send(f"HEAD / HTTP/1.1\r\nHost: a\r\n{TAKES}\r\n\r\n".encode())
            _, fields, body = client.response("HEAD")
            assert body == b""
            assert fields.get("content-encoding") == encoding
            assert fields.get("content-length") == (None if encoding else "500")
        assert engine.stats()["http"]["compressed"]["zstd"]["responses"] == 0


def test_an_old_client_gets_the_body_as_it_is() -> None:
    web = Web(lambda _peer, _seen: ok(BODY, TEXT))
    with compressing(web.backend()) as (_, port), Client(port) as client:
        client.send(f"GET / HTTP/1.0\r\n{TAKES}\r\n\r\n".encode())
        _, fields, body = client.response()
    assert fields["content-length"] == "20000"
    assert fields["vary"] == "Accept-Encoding"
    assert "content-encoding" not in fields
    assert body == BODY


def test_a_request_may_ask_that_nothing_is_changed() -> None:
    _, fields, body = get(TEXT, takes=f"Cache-Control: no-transform\r\n{TAKES}")
    assert "content-encoding" not in fields
    assert body == BODY


# ---- what the head says ----


@pytest.mark.parametrize(
    ("etag", "becomes"),
    [('"a-1"', 'W/"a-1"'), ('W/"a-1"', 'W/"a-1"'), ('""', 'W/""'), ("odd", "odd")],
)
def test_an_etag_becomes_a_weak_one(etag: str, becomes: str) -> None:
    fields = (TEXT, b"ETag: " + etag.encode(), b"Accept-Ranges: bytes")
    _, found, _ = get(*fields)
    assert found["etag"] == becomes
    assert "accept-ranges" not in found
    assert "content-length" not in found
    _, found, _ = get(*fields, takes="Accept-Encoding: br;q=0")
    assert found["etag"] == etag
    assert found["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("vary", "found"),
    [
        (b"Accept-Encoding", "Accept-Encoding"),
        (b"Origin, accept-encoding", "Origin, accept-encoding"),
        (b"*", "*"),
        (b"Origin", "Origin, Accept-Encoding"),
        (b"X-Accept-Encoding", "X-Accept-Encoding, Accept-Encoding"),
    ],
)
def test_vary_is_said_once(vary: bytes, found: str) -> None:
    web = Web(lambda _peer, _seen: ok(BODY, TEXT, b"Vary: " + vary))
    with compressing(web.backend()) as (_, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head = client.rest().partition(b"\r\n\r\n")[0].decode()
    assert ", ".join(re.findall(r"^Vary: (.*)\r$", f"{head}\r", re.MULTILINE)) == found


def test_other_filters_have_their_say_before() -> None:
    edits = HeaderEdits(set=(("content-type", "text/x"), ("x-a", "b")), remove=("cache-control",))
    _, fields, body = get(
        b"Content-Type: image/png", b"Cache-Control: no-transform", response_headers=edits,
        cors=Cors(("https://a.example",)),
    )  # fmt: skip
    assert fields["content-encoding"] == "zstd"
    assert fields["content-type"] == "text/x"
    assert fields["x-a"] == "b"
    assert decoded("zstd", body) == BODY
    for name, text in (("cache-control", "no-transform"), ("content-encoding", "x")):
        _, fields, body = get(TEXT, response_headers=HeaderEdits(set=((name, text),)))
        assert body == BODY
        assert fields[name] == text
        assert "vary" not in fields
    _, fields, body = get(TEXT, response_headers=HeaderEdits(set=(("etag", '"mine"'),)))
    assert (fields["etag"], body) == ('"mine"', BODY)


def test_a_backend_need_not_hear_what_the_client_takes() -> None:
    web = Web(lambda _peer, _seen: ok(BODY, TEXT))
    edits = HeaderEdits(remove=("accept-encoding",))
    with compressing(web.backend(), request_headers=edits) as (_, port), Client(port) as client:
        assert decoded("zstd", client.get("/", TAKES)[2]) == BODY
    assert web.requests[0].all("accept-encoding") == []


def test_a_websocket_passes_untouched() -> None:
    def echo(peer: object) -> None:
        peer.head()  # type: ignore[attr-defined]
        peer.send(SWITCH)  # type: ignore[attr-defined]
        while data := peer.socket.recv(1 << 16):  # type: ignore[attr-defined]
            peer.send(data)  # type: ignore[attr-defined]

    server = scripted(echo)
    with compressing(server.backend("b")) as (_, port), Client(port) as client:
        client.send(WEBSOCKET.replace(b"\r\n\r\n", f"\r\n{TAKES}\r\n\r\n".encode()))
        assert read_exactly(client.socket, len(SWITCH)).endswith(b"\r\n\r\n")
        client.send(BODY)
        assert read_exactly(client.socket, len(BODY)) == BODY


# ---- what is counted ----


def test_what_is_logged_and_counted_is_what_was_sent() -> None:
    web = Web(lambda _peer, _seen: ok(BODY, TEXT))
    with (
        compressing(web.backend(), options=Options(logs=True)) as (engine, port),
        Client(port) as client,
    ):
        client.send(f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{TAKES}\r\n\r\n".encode())
        body = client.rest().partition(b"\r\n\r\n")[2]
        records: list[RequestRecord] = []
        wait_until(lambda: records.extend(engine.read_log()) or records)  # type: ignore[func-returns-value, arg-type]
        assert records[0].bytes_out == len(body) < len(BODY)
        assert records[0].end == "done"
        counted = engine.stats()["http"]["compressed"]["zstd"]
        assert counted["responses"] == 1
        assert counted["bytes_in"] == len(BODY)
        assert len(body) - 100 < counted["bytes_out"] < len(body)


def test_a_route_without_the_filter_changes_nothing() -> None:
    web = Web(lambda _peer, _seen: ok(BODY, TEXT, b'ETag: "x"'))
    routes = (
        to(filters=Filters(compress=ALL), name="c", path="/c"),
        to(filters=Filters(response_headers=HeaderEdits(set=(("x-a", "b"),)))),
    )
    with serving(web.backend(), routes=routes) as (_, port), Client(port) as client:
        assert "content-encoding" in client.get("/c", TAKES)[1]
        _, fields, body = client.get("/d", TAKES)
    assert fields == {
        "content-type": "text/plain", "etag": '"x"', "content-length": "20000", "x-a": "b"
    }  # fmt: skip
    assert body == BODY
