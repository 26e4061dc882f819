"""Pages in place of the gateway's own answers."""

from __future__ import annotations

import pytest

from fastpath.filters import Cors, Filters, Page, RateLimit, Respond
from tests.fastpath.http.gateways import Client, Web, serving, to

HTML = "text/html; charset=utf-8"
CLASS = Page(500, 599, b"<h1>Sorry</h1>", HTML)
BUSY = Page(503, 503, b'{"busy": true}', "application/json")
SHUT = Page(400, 499, b"no", "text/plain")


def shut(*pages: Page) -> Filters:
    return Filters(denied=("0.0.0.0/0",), pages=pages)


@pytest.mark.parametrize(
    ("service", "pages", "status", "page"),
    [
        ("s", (CLASS, BUSY), 503, BUSY),
        ("s", (BUSY, CLASS), 503, BUSY),
        ("s", (CLASS, SHUT), 503, CLASS),
        ("", (CLASS, BUSY), 500, CLASS),
    ],
)
def test_an_answer_has_the_page_of_its_status(
    service: str, pages: tuple[Page, ...], status: int, page: Page
) -> None:
    route = to(service, filters=Filters(pages=pages))
    with serving(routes=(route,)) as (_, port), Client(port) as client:
        for _ in range(2):  # the connection goes on
            found, fields, body = client.get()
            assert (found, body) == (status, page.body)
            assert fields["content-type"] == page.content_type
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        found, fields, body = client.response("HEAD")
        assert (found, body) == (status, b"")
        assert fields["content-length"] == str(len(page.body))


def test_what_a_page_is_not_for_stays_as_it_is() -> None:
    web = Web(lambda _peer, _seen: b"HTTP/1.1 503 X\r\nContent-Length: 3\r\n\r\nown")
    routes = (
        to(name="a", path="/a", filters=shut(CLASS)),
        to(name="b", path="/b", filters=Filters(respond=Respond(503, b"noon"), pages=(CLASS,))),
        to(filters=Filters(pages=(CLASS, SHUT))),
    )
    with serving(web.backend(), routes=routes) as (_, port), Client(port) as client:
        assert client.get("/a")[2] == b"403 not for your address\n"
        assert client.get("/b")[2] == b"noon"
        assert client.get("/")[2] == b"own"  # the backend knows why
        client.send(b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response()[2] == b"400 malformed path\n"  # no route's answer


def test_the_largest_page_arrives_whole_with_all_that_is_said_beside_it() -> None:
    names = tuple(f"x-{i:02}-{'y' * 50}" for i in range(30))
    cors = Cors(("https://*.a.example",), exposed=names, credentials=True)
    page = Page(429, 429, bytes(range(256)) * 64, HTML)
    limit = RateLimit(1, 3_600_000, 1)
    routes = (to(filters=Filters(cors=cors, rate=limit, pages=(page,))),)
    origin = "https://" + "b" * 235 + ".a.example"
    with serving(routes=routes) as (_, port), Client(port) as client:
        assert client.get("/")[0] == 503
        status, fields, body = client.get("/", f"Origin: {origin}")
        assert (status, body) == (429, page.body)
        assert fields["access-control-allow-origin"] == origin
        assert fields["access-control-expose-headers"] == ", ".join(names)
        assert int(fields["retry-after"]) > 3000
