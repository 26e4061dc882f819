"""What a request means, and the heads that go on to backends and clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastpath.http.answers import REFUSAL_TABLE

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")


def request(
    *lines: str, peer: str = "192.0.2.1"
) -> tuple[bytes, bytes, bytes, str, int, bytes, bool]:
    """Read a request of these lines."""
    scan = probe.Scan("request")
    assert scan.feed("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
    return scan.request(peer)


def sent_on(*lines: str, peer: str = "192.0.2.1") -> list[str]:
    """Lines of the head that the backend gets."""
    return request(*lines, peer=peer)[5].decode("latin-1").split("\r\n")[:-2]


def refusal(*lines: str) -> tuple[str, int]:
    with pytest.raises(probe.Refused) as caught:
        request(*lines)
    return caught.value.args  # type: ignore[return-value]


def response(*lines: str, **options: object) -> Any:
    """(status, body, length, head to send on) of a response."""
    scan = probe.Scan("response")
    assert scan.feed("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
    return scan.response(**options)


OURS = [
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Host: a",
    "X-Forwarded-Port: 80",
    "X-Real-Ip: 192.0.2.1",
    'Forwarded: for=192.0.2.1;host="a";proto=http',
]


def test_a_plain_request_goes_on_with_its_fields_and_ours() -> None:
    got = sent_on("GET /x?q=1 HTTP/1.1", "Host: a", "Accept:  text/html ", "Cookie: b=c")
    assert got == ["GET /x?q=1 HTTP/1.1", "Host: a", "Accept: text/html", "Cookie: b=c", *OURS]


def test_the_canonical_path_goes_on_and_the_query_as_it_came() -> None:
    assert sent_on("GET /a/../%62//c?../%41? HTTP/1.1", "Host: a")[0] == "GET /b/c?../%41? HTTP/1.1"


def test_hop_by_hop_fields_end_here() -> None:
    got = sent_on(
        "GET / HTTP/1.1",
        "Host: a",
        "Connection: keep-alive, X-Secret, close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: close",
        "Proxy-Authorization: basic",
        "TE: gzip, trailers",
        "Upgrade: h2c",
        "x-secret: 1",
        "X-Kept: 2",
    )
    assert got == [
        "GET / HTTP/1.1",
        "Host: a",
        "X-Kept: 2",
        "Connection: TE",
        "TE: trailers",
        *OURS,
    ]


def test_nobody_can_forge_where_a_request_comes_from() -> None:
    got = sent_on(
        "GET / HTTP/1.1",
        "Host: a",
        "Connection: X-Forwarded-For, X-Real-Ip, Forwarded",
        "X-Forwarded-For: 6.6.6.6",
        "X-FORWARDED-PROTO: https",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded_Host: evil",
        "X-Forwarded-Prefix: /evil",
        "X-Real-IP: 6.6.6.6",
        "X_Real_Ip: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
    )
    assert got == ["GET / HTTP/1.1", "Host: a", *OURS]


def test_connection_cannot_take_away_what_frames_or_routes_the_message() -> None:
    got = sent_on(
        "POST / HTTP/1.1",
        "Host: a",
        "Connection: host, content-length, expect",
        "Content-Length: 2",
    )
    assert got == ["POST / HTTP/1.1", "Host: a", "Content-Length: 2", *OURS]


def test_an_ipv6_client_is_named_in_brackets_where_the_grammar_wants_them() -> None:
    got = sent_on("GET / HTTP/1.1", "Host: [::1]:8080", peer="2001:db8::1")
    assert "X-Forwarded-For: 2001:db8::1" in got
    assert 'Forwarded: for="[2001:db8::1]";host="[::1]:8080";proto=http' in got


def test_lengths_are_written_by_us() -> None:
    assert "Content-Length: 7" in sent_on(
        "POST / HTTP/1.1", "Host: a", "Content-Length: 007", "Content-Length: 7"
    )
    assert "Content-Length: 0" in sent_on("POST / HTTP/1.1", "Host: a", "Content-Length: 0")
    assert "Transfer-Encoding: chunked" in sent_on(
        "POST / HTTP/1.1", "Host: a", "Transfer-Encoding: CHUNKED"
    )


def test_websocket_is_the_one_upgrade_that_passes() -> None:
    got = sent_on("GET / HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: WebSocket")
    assert got[2:4] == ["Connection: Upgrade", "Upgrade: websocket"]
    assert request("GET / HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket")[6]
    assert not request("GET / HTTP/1.1", "Host: a", "Upgrade: websocket")[6]
    assert not request("POST / HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket")[6]


@pytest.mark.parametrize(
    ("lines", "name", "status"),
    [
        (["CONNECT a:443 HTTP/1.1", "Host: a:443"], "method", 405),
        (["TRACE / HTTP/1.1", "Host: a"], "method", 405),
        (["GET * HTTP/1.1", "Host: a"], "target", 400),
        (["GET x HTTP/1.1", "Host: a"], "target", 400),
        (["GET ?x HTTP/1.1", "Host: a"], "target", 400),
        (["GET a:80 HTTP/1.1", "Host: a"], "target", 400),
        (["GET ftp://a/ HTTP/1.1", "Host: a"], "target", 400),
        (["GET http://u@a/ HTTP/1.1", "Host: a"], "target", 400),
        (["GET http:///x HTTP/1.1", "Host: a"], "target", 400),
        (["GET http://b/ HTTP/1.1", "Host: a"], "host", 400),
        (["GET http://a:81/ HTTP/1.1", "Host: a"], "host", 400),
        (["GET / HTTP/1.1"], "host", 400),
        (["GET / HTTP/1.1", "Host: a", "Host: a"], "host", 400),
        (["GET / HTTP/1.1", "Host: "], "host", 400),
        (["GET / HTTP/1.1", "Host: a b"], "host", 400),
        (["GET / HTTP/1.1", "Host: a/b"], "host", 400),
        (["GET / HTTP/1.1", "Host: a:x"], "host", 400),
        (["GET /%00 HTTP/1.1", "Host: a"], "path", 400),
        (["GET /../x HTTP/1.1", "Host: a"], "path", 400),
        (["GET /%zz HTTP/1.1", "Host: a"], "path", 400),
        (["GET / HTTP/1.1", "Host: a", "Content-Length: "], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Content-Length: 1, 1"], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Content-Length: 9223372036854775808"], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 2"], "framing", 400),
        (["GET / HTTP/1.0", "Transfer-Encoding: chunked"], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Transfer-Encoding: "], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked, chunked"], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked, gzip"], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip"], "framing", 400),
        (["GET / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked"], "coding", 501),
        (["GET / HTTP/1.1", "Host: a", "Transfer-Encoding: pigeons"], "coding", 501),
        (["GET /" + "%22" * 2800 + "?" + "x" * 100 + " HTTP/1.1", "Host: a"], "target-size", 414),
    ],
)
def test_what_is_ambiguous_or_not_ours_is_refused(lines: list[str], name: str, status: int) -> None:
    assert refusal(*lines) == (name, status)


@pytest.mark.parametrize(
    ("start", "name", "status"),
    [
        ("GET / HTTP/2.0", "version", 505),
        ("GET / HTTP/0.9", "version", 505),
        ("GET / HTTP/1", "start-line", 400),
        ("GET / HTTP/1.11", "start-line", 400),
        ("GET / http/1.1", "start-line", 400),
        ("GET  / HTTP/1.1", "start-line", 400),
        ("GET /", "start-line", 400),
        (" GET / HTTP/1.1", "start-line", 400),
        ("G@T / HTTP/1.1", "start-line", 400),
        ("A" * 33 + " / HTTP/1.1", "method-size", 501),
        ("GET /" + "a" * 8192 + " HTTP/1.1", "target-size", 414),
        ("GET /#a HTTP/1.1", "target", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n" + "a: b\r\n" * 100, "head-size", 431),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: " + "a" * 16384, "head-size", 431),
    ],
)
def test_a_start_line_or_size_that_is_wrong_is_refused_while_it_is_read(
    start: str, name: str, status: int
) -> None:
    scan = probe.Scan("request")
    with pytest.raises(probe.Refused) as caught:
        scan.feed(f"{start}\r\n\r\n".encode())
    assert caught.value.args == (name, status)


def test_the_largest_head_that_is_allowed_passes() -> None:
    lines = ["GET /" + "a" * 8191 + " HTTP/1.1", "Host: a", *(["n: v"] * 98)]
    size = sum(len(line) + 2 for line in lines) + 2
    lines.append("x: " + "b" * (16384 - size - 5))
    assert len(sent_on(*lines)) == len(lines) + len(OURS)


def test_absolute_form_is_the_same_request() -> None:
    assert request("GET http://A:80/x HTTP/1.1", "Host: a")[:3] == (b"a", b"/x", b"")
    assert request("GET http://a?q HTTP/1.1", "Host: a")[:3] == (b"a", b"/", b"?q")
    assert sent_on("OPTIONS http://a HTTP/1.1", "Host: a")[0] == "OPTIONS * HTTP/1.1"
    assert request("GET http://b/ HTTP/1.0")[0] == b"b"


def test_asterisk_goes_with_options() -> None:
    assert request("OPTIONS * HTTP/1.1", "Host: a")[1] == b"/"
    assert sent_on("OPTIONS * HTTP/1.1", "Host: a")[0] == "OPTIONS * HTTP/1.1"


def test_an_old_client_may_do_without_host() -> None:
    assert request("GET / HTTP/1.0")[0] == b""
    got = sent_on("GET / HTTP/1.0")
    assert got[:2] == ["GET / HTTP/1.1", "Host: 192.0.2.80:80"]
    assert "X-Forwarded-Host: 192.0.2.80:80" in got
    assert "Host: [2001:db8::80]:80" in sent_on("GET / HTTP/1.0", peer="2001:db8::1")


@pytest.mark.parametrize(
    ("lines", "options", "body"),
    [
        (["HTTP/1.1 200 OK", "Content-Length: 5"], {}, "length"),
        (["HTTP/1.1 200 OK", "Content-Length: 5"], {"is_head": True}, "none"),
        (["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], {}, "chunked"),
        (["HTTP/1.1 200 OK"], {}, "until-close"),
        (["HTTP/1.1 204 No Content"], {}, "none"),
        (["HTTP/1.1 304 Not Modified", "Content-Length: 5"], {}, "none"),
        (["HTTP/1.1 100 Continue"], {}, "none"),
    ],
)
def test_a_responses_body_is_framed_by_the_rules(
    lines: list[str], options: dict[str, object], body: str
) -> None:
    assert response(*lines, **options)[1] == body


def test_a_response_goes_on_without_what_is_hop_by_hop() -> None:
    got = response(
        "HTTP/1.0 200 Fine",
        "Date: today",
        "Server: x",
        "Connection: close, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: 5",
        "Upgrade: h2c",
        "X_Odd: kept",
        "Content-Length: 5",
        "Content-Length: 5",
        ending="keep-1.0",
    )[3]
    assert got == (
        b"HTTP/1.1 200 Fine\r\nDate: today\r\nServer: x\r\nX_Odd: kept\r\nContent-Length: 5\r\n"
        b"Connection: keep-alive\r\n\r\n"
    )


def test_a_response_to_head_keeps_its_length_and_one_without_content_has_none() -> None:
    head = response("HTTP/1.1 200 OK", "Content-Length: 5", is_head=True)[3]
    assert b"Content-Length: 5\r\n" in head
    assert b"Content-Length" not in response("HTTP/1.1 204 No", "Content-Length: 5")[3]


@pytest.mark.parametrize(
    "lines",
    [
        ["HTTP/1.1 200 OK", "Content-Length: 1", "Transfer-Encoding: chunked"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 2"],
        ["HTTP/1.1 200 OK", "Transfer-Encoding: gzip"],
        ["HTTP/1.0 200 OK", "Transfer-Encoding: chunked"],
    ],
)
def test_a_response_that_can_be_read_in_two_ways_is_refused(lines: list[str]) -> None:
    with pytest.raises(probe.Refused) as caught:
        response(*lines)
    assert caught.value.args == ("upstream", 502)


def test_trailers_go_on_but_for_what_could_mislead() -> None:
    scan = probe.Scan("trailers")
    assert scan.feed(
        b"X-Sum: 1\r\nHost: b\r\nContent-Length: 3\r\nX-Forwarded-For: 6.6.6.6\r\nX_a: 1\r\n"
        b"Transfer-Encoding: chunked\r\nAuthorization: x\r\n\r\n"
    )
    assert scan.trailers() == b"0\r\nX-Sum: 1\r\n\r\n"


@pytest.mark.parametrize(
    "stream",
    [
        *(b"1;a=\r\n", b"1;\r\n", b"1;=b\r\n", b'1;a="b\r\n', b'1;a="b"c\r\n', b'1;a=b"c"\r\n'),
        *(b" 1\r\n", b"1 \r\n", b"\r\n", b"1\n", b"1\r\nab", b"1\r\na\n", b"0x1\r\n", b"-1\r\n"),
        *(b"1_0\r\n", b"8000000000000000\r\n", b"1;" + b"a" * 5000),
    ],
)
def test_a_malformed_chunk_is_refused(stream: bytes) -> None:
    with pytest.raises(probe.Refused) as caught:
        probe.Chunks().feed(stream)
    assert caught.value.args == ("chunk", 400)


def test_chunks_are_decoded_with_their_extensions_dropped() -> None:
    stream = b'3;a;b=c;d="e;\\"\r\n'.replace(b"\r\n", b'"\r\n') + b"abc\r\n002\r\nde\r\n000;x\r\n"
    assert probe.Chunks().feed(stream) == (b"abcde", len(stream), True)


def test_our_own_answers_are_whole_messages() -> None:
    got = probe.answer("no-route")
    head, body = got.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"Connection: close" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert probe.answer("no-route", is_head=True, close=False).endswith(b"\r\n\r\n")


def test_an_idle_client_costs_less_than_a_kibibyte() -> None:
    assert probe.CLIENT_SIZE <= 1024


def test_the_reference_names_every_reason_of_a_refusal_with_its_status() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "http.md").read_text()
    for name, status, _, _ in REFUSAL_TABLE[1:]:
        shown = "its own" if name in {"respond", "redirect", "preflight"} else status
        assert f"| `{name}` | {shown} |" in page
