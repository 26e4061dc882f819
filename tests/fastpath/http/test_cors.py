"""Whose pages may read what a route answers: preflights, and the responses after them."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath.filters import Cors, Filters, Redirect
from tests.fastpath.http.gateways import Client, Web, ok, serving, to
from tests.waiting import wait_until

NAMED = ("https://a.example", "https://*.b.example:8443")
ALLOW = "access-control-allow-"
Fields = dict[str, list[str]]


def lines(client: Client, method: str, *fields: str, path: str = "/") -> tuple[int, Fields]:
    """Ask; the status and every value of each field of the response."""
    head = "".join(f"{each}\r\n" for each in (f"{method} {path} HTTP/1.1", "Host: a", *fields, ""))
    client.send(head.encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.socket.recv(1 << 16)
    first, *rest = data.split(b"\r\n\r\n")[0].decode().split("\r\n")
    found: Fields = {}
    for each in rest:
        name, _, value = each.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return int(first.split()[1]), found


def ask(method: str, *fields: str, backend: Web | None = None, **cors: Any) -> tuple[int, Fields]:
    web = backend or Web()
    route = to(filters=Filters(cors=Cors(**cors)))
    with serving(web.backend(), routes=(route,)) as (_, port), Client(port) as client:
        return lines(client, method, *fields)


def preflight(origin: str, *fields: str, **cors: Any) -> tuple[int, Fields]:
    """An answer to a preflight; nothing of it may reach the backend."""
    web = Web()
    asked = (f"Origin: {origin}", "Access-Control-Request-Method: PUT", *fields)
    answer = ask("OPTIONS", *asked, backend=web, **cors)
    assert not web.requests
    return answer


def test_a_preflight_is_answered_by_the_gateway() -> None:
    status, fields = preflight(
        "https://a.example",
        origins=NAMED,
        methods=("PUT", "PATCH"),
        headers=("x-one", "x-two"),
        exposed=("x-three",),
        max_age_s=60,
    )
    assert status == 204
    assert fields == {
        f"{ALLOW}origin": ["https://a.example"],
        f"{ALLOW}methods": ["PUT, PATCH"],
        f"{ALLOW}headers": ["x-one, x-two"],
        "access-control-max-age": ["60"],
        "vary": ["Origin"],
    }


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://a.example", True),
        ("https://www.b.example:8443", True),
        ("https://x-1.y.z.b.example:8443", True),
        ("http://a.example", False),
        ("https://a.example:8443", False),
        ("https://a.example.evil", False),
        ("https://a.exampl", False),
        ("https://b.example:8443", False),
        ("https://.b.example:8443", False),
        ("https://evilb.example:8443", False),
        ("https://www.b.example", False),
        ("https://evil/.b.example:8443", False),
        ("https://evil@www.b.example:8443", False),
        ("https://evil:1.b.example:8443", False),
        ("https://a b.example:8443", False),
        ("https://" + "a" * 300 + ".b.example:8443", False),
        ("null", False),
        ("*", False),
        ("", False),
    ],
)
def test_who_may_ask(origin: str, may: bool) -> None:
    status, fields = preflight(origin, origins=NAMED, methods=("PUT",))
    assert status == 204
    assert (f"{ALLOW}origin" in fields) == (f"{ALLOW}methods" in fields) == may
    assert fields["vary"] == ["Origin"]
    status, fields = ask("GET", f"Origin: {origin}", origins=NAMED)
    assert status == 200
    assert fields.get(f"{ALLOW}origin") == ([origin] if may else None)
    assert fields["vary"] == ["Origin"]


def test_every_origin_is_told_the_same_and_caches_may_keep_it() -> None:
    status, fields = preflight("https://x", origins=("*",), methods=("*",), headers=("*",))
    assert status == 204
    assert fields == {
        f"{ALLOW}origin": ["*"],
        f"{ALLOW}methods": ["*"],
        f"{ALLOW}headers": ["*"],
        "access-control-max-age": ["0"],
    }
    assert ask("GET", origins=("*",))[1][f"{ALLOW}origin"] == ["*"]


def test_with_credentials_nobody_is_told_a_star() -> None:
    everything: dict[str, Any] = {
        "origins": ("*",), "methods": ("*",), "headers": ("*",), "credentials": True,
    }  # fmt: skip
    _, fields = preflight(
        "https://x.example", "Access-Control-Request-Headers: x-One, authorization", **everything
    )
    assert fields == {
        f"{ALLOW}origin": ["https://x.example"],
        f"{ALLOW}credentials": ["true"],
        f"{ALLOW}methods": ["PUT"],
        f"{ALLOW}headers": ["x-One, authorization"],
        "access-control-max-age": ["0"],
        "vary": ["Origin"],
    }
    _, fields = ask("GET", "Origin: https://x.example", **everything)
    assert fields[f"{ALLOW}origin"] == ["https://x.example"]
    assert fields[f"{ALLOW}credentials"] == ["true"]
    _, fields = ask("GET", **everything)
    assert f"{ALLOW}origin" not in fields
    assert f"{ALLOW}credentials" not in fields


@pytest.mark.parametrize("asked", ["a: b", 'a", <script>', "é", "a\tb", "x" * 1025])
def test_what_is_said_again_is_a_list_of_names(asked: str) -> None:
    _, fields = preflight(
        "https://x.example",
        f"Access-Control-Request-Headers: {asked}",
        origins=("*",),
        headers=("*",),
        credentials=True,
    )
    assert f"{ALLOW}headers" not in fields
    _, fields = ask(
        "OPTIONS",
        "Origin: https://x.example",
        f"Access-Control-Request-Method: {asked}",
        origins=("*",),
        methods=("*",),
        credentials=True,
    )
    assert f"{ALLOW}methods" not in fields


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("OPTIONS", ("Origin: https://a.example",)),
        ("OPTIONS", ("Access-Control-Request-Method: PUT",)),
        ("GET", ("Origin: https://a.example", "Access-Control-Request-Method: PUT")),
    ],
)
def test_what_is_no_preflight_goes_to_the_backend(method: str, fields: tuple[str, ...]) -> None:
    web = Web()
    assert ask(method, *fields, backend=web, origins=NAMED)[0] == 200
    assert len(web.requests) == 1


def test_a_response_says_what_the_filter_says_and_not_what_the_backend_says() -> None:
    said = (
        b"access-control-allow-origin: https://evil",
        b"Access-Control-Allow-Credentials: true",
        b"Access-Control-Expose-Headers: x-secret",
        b"Access-Control-Allow-Methods: DELETE",
        b"Access-Control-Allow-Headers: x-secret",
        b"Access-Control-Max-Age: 9",
        b"Vary: Accept",
    )
    web = Web(lambda _peer, _seen: ok(b"x", *said))
    _, fields = ask(
        "GET", "Origin: https://a.example", backend=web, origins=NAMED, exposed=("x-a", "x-b")
    )
    assert fields == {
        f"{ALLOW}origin": ["https://a.example"],
        "access-control-expose-headers": ["x-a, x-b"],
        "vary": ["Accept", "Origin"],
        "content-length": ["1"],
    }
    _, fields = ask("GET", "Origin: https://c.example", backend=web, origins=NAMED)
    assert fields == {"vary": ["Accept", "Origin"], "content-length": ["1"]}


def test_a_page_may_read_the_gateways_own_answers_too() -> None:
    cors = Cors(NAMED, credentials=True)
    routes = (
        to(name="shut", path="/shut", filters=Filters(cors=cors, denied=("0.0.0.0/0",))),
        to(name="gone", path="/gone", filters=Filters(cors=cors, redirect=Redirect(host="b"))),
        to(filters=Filters(cors=cors)),
    )
    with serving(routes=routes) as (_, port), Client(port) as client:
        for path, status in (("/shut", 403), ("/gone", 302), ("/", 503)):
            found, fields = lines(client, "HEAD", "Origin: https://a.example", path=path)
            assert found == status
            assert fields[f"{ALLOW}origin"] == ["https://a.example"]
            assert fields[f"{ALLOW}credentials"] == ["true"]
        assert f"{ALLOW}origin" not in lines(client, "HEAD", path="/")[1]
        # A request that comes to no route is nobody's, whatever came before it.
        assert "vary" not in lines(client, "HEAD", "Origin: https://a.example", path="/%00")[1]


def test_who_asked_is_forgotten_with_the_request() -> None:
    web = Web()
    routes = (to(name="a", path="/a", filters=Filters(cors=Cors(NAMED))), to())
    with serving(web.backend(), routes=routes) as (engine, port):
        with Client(port) as client:
            for _ in range(3):
                origin = "Origin: https://a.example"
                assert f"{ALLOW}origin" in lines(client, "GET", origin, path="/a")[1]
                client.send(b"")
            client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nOrigin: https://a.example\r\n\r\n")
            wait_until(lambda: len(web.requests) == 4)
        with Client(port) as client:
            assert "vary" not in lines(client, "GET", "Origin: https://a.example")[1]
        assert engine.stats()["http"]["rejected"]["preflight"] == 0


def test_preflights_are_counted() -> None:
    routes = (to(filters=Filters(cors=Cors(("*",)))),)
    with serving(routes=routes) as (engine, port), Client(port) as client:
        lines(client, "OPTIONS", "Origin: https://x", "Access-Control-Request-Method: PUT")
        assert engine.stats()["http"]["rejected"]["preflight"] == 1
