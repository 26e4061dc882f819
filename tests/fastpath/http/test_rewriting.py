"""Filters that change requests and responses on their way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.engine import Engine, Route
from fastpath.filters import Filters, HeaderEdits, Redirect, Respond, Rewrite
from piagent.core import filters as model
from piagent.core.routing import canonical_path
from piagent.dataplane.filters import engine_filters
from tests.fastpath.http.gateways import Client, Seen, Web, ok, serving, tables, to
from tests.waiting import wait_until


def filtered(**filters: Any) -> Route:
    return to(filters=Filters(**filters))


def sent_on(client: Client, web: Web, target: str, *fields: str) -> Seen:
    """What the backend got of a GET."""
    assert client.get(target, *fields)[0] == 200
    return web.requests[-1]


# ---- rewrite, strip_prefix, add_prefix ----


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
        ("/", "/xyz", "/bar", "/xyz/bar"),
    ],
)
def test_a_prefix_is_rewritten_and_the_query_stays(
    prefix: str, new: str, path: str, result: str
) -> None:
    web = Web()
    route = to(path=prefix, filters=Filters(rewrite=Rewrite(path=new, by_prefix=True)))
    with serving(web.backend(), routes=(route,)) as (_, port), Client(port) as client:
        assert sent_on(client, web, f"{path}?q=/foo").line == f"GET {result}?q=/foo HTTP/1.1"


@pytest.mark.parametrize(
    ("filters", "path", "result"),
    [
        ({"rewrite": Rewrite(path="/all")}, "/a/b", "/all"),
        ({"strip_prefix": "/api"}, "/api/x", "/x"),
        ({"strip_prefix": "/api/"}, "/api/x", "/x"),
        ({"strip_prefix": "/api"}, "/api", "/"),
        ({"strip_prefix": "/api"}, "/api/", "/"),
        ({"strip_prefix": "/api"}, "/apis/x", "/apis/x"),
        ({"strip_prefix": "/api"}, "/x/api", "/x/api"),
        ({"strip_prefix": "/"}, "/x", "/x"),
        ({"add_prefix": "/v2"}, "/x", "/v2/x"),
        ({"add_prefix": "/v2/"}, "/", "/v2/"),
        ({"strip_prefix": "/v1", "add_prefix": "/v2"}, "/v1/x", "/v2/x"),
        ({"rewrite": Rewrite(path="/v1", by_prefix=True), "strip_prefix": "/v1/a",
          "add_prefix": "/v2"}, "/a/b", "/v2/b"),
    ],
)  # fmt: skip
def test_the_path_that_the_backend_gets(filters: Any, path: str, result: str) -> None:
    web = Web()
    route = filtered(**filters)
    with serving(web.backend(), routes=(route,)) as (_, port), Client(port) as client:
        assert sent_on(client, web, path).line == f"GET {result} HTTP/1.1"


@pytest.mark.parametrize(
    "path", ["/api../admin", "/api..%2fadmin", "/api%2f../admin", "/api;/../admin", "/api/%2e%2e/x",
             "/api/./../admin", "/api//../admin", "/api/..%2fadmin", "/API/../x"]
)  # fmt: skip
def test_no_spelling_of_a_path_gets_out_of_what_is_left_of_it(path: str) -> None:
    """Taking a prefix off by characters once made `/../admin` of `/api../admin`."""
    web = Web()
    route = to(filters=Filters(strip_prefix="/api", add_prefix="/safe"))
    with serving(web.backend(), routes=(route,)) as (_, port), Client(port) as client:
        got = sent_on(client, web, path).line.split()[1]
    assert got.startswith("/safe/")
    assert ".." not in got.split("/")
    assert canonical_path(got) == got


PATHS = st.lists(st.sampled_from(["a", "b", "ab", "", "..a", "a.."]), min_size=1, max_size=4).map(
    lambda elements: "/" + "/".join(elements)
)
CANONICAL = PATHS.map(canonical_path)


@given(data=st.data())
def test_the_engine_rewrites_as_the_model_does(served: Any, data: st.DataObject) -> None:
    """In a real engine, with tables of its own for each example."""
    engine, port, web = served
    whole = model.Rewrite(path=data.draw(CANONICAL), by_prefix=data.draw(st.booleans()))
    filters = model.Filters(
        rewrite=data.draw(st.sampled_from([None, whole])),
        strip_prefix=data.draw(st.just("") | CANONICAL),
        add_prefix=data.draw(st.just("") | CANONICAL),
    )
    prefix = data.draw(st.sampled_from(["/", "/a", "/a/b"]))
    path = canonical_path((prefix if prefix != "/" else "") + data.draw(CANONICAL))
    route = to(path=prefix, filters=engine_filters(filters))
    engine.publish(tables(port, web.backend(), routes=(route,)))
    with Client(port) as client:
        got = sent_on(client, web, path).line.split()[1]
    assert got == filters.rewritten(path, prefix)
    assert canonical_path(got) == got


@pytest.fixture(scope="module")
def served() -> Any:
    """An engine, its port, a backend."""
    web = Web()
    with serving(web.backend()) as (engine, port):
        yield engine, port, web


def test_a_path_that_grows_too_long_is_refused() -> None:
    web = Web()
    routes = (filtered(add_prefix="/" + "n" * 999),)
    with serving(web.backend(), routes=routes) as (_, port), Client(port) as client:
        assert client.get("/" + "x" * 7192)[0] == 414
        assert len(sent_on(client, web, "/" + "x" * 7191).line) == len("GET  HTTP/1.1") + 8192


def test_another_host_goes_on_and_the_client_s_own_is_told() -> None:
    web = Web()
    routes = (filtered(rewrite=Rewrite(host="inner.lan")),)
    with serving(web.backend(), routes=routes) as (_, port), Client(port) as client:
        seen = sent_on(client, web, "/x")
    assert (seen.line, seen.all("host")) == ("GET /x HTTP/1.1", ["inner.lan"])
    assert seen.all("x-forwarded-host") == ["a"]
    assert 'host="a"' in seen.all("forwarded")[0]


# ---- a route that only rewrites ----


def test_what_a_route_without_a_backend_rewrites_is_routed_again_once() -> None:
    web = Web()
    again = Rewrite(path="/new", by_prefix=True)
    routes = (
        to("", name="old", path="/old", filters=Filters(rewrite=again)),
        to("", name="loop", path="/loop", filters=Filters(rewrite=Rewrite(path="/loop"))),
        to("", name="far", host="far", path="/far", filters=Filters(rewrite=Rewrite(host="b"))),
        to(name="new", path="/new", filters=Filters(strip_prefix="/new", denied=("192.0.2.0/24",))),
        to(name="b", host="b"),
    )
    with serving(web.backend(), routes=routes) as (engine, port), Client(port) as client:
        assert sent_on(client, web, "/old/x?y").line == "GET /x?y HTTP/1.1"
        assert client.get("/loop")[0] == 500
        client.send(b"GET /far HTTP/1.1\r\nHost: far\r\n\r\n")
        assert client.response()[0] == 200
        assert web.requests[-1].all("host") == ["b"]
        # A request is counted when it has ended, which is just after its answer was sent.
        wait_until(lambda: engine.stats()["http"]["requests"]["g"]["b"] == {"GET": {200: 1}})
        requests = engine.stats()["http"]["requests"]["g"]
        assert requests["new"] == {"GET": {200: 1}}
        assert requests["old"] == requests["far"] == {}


# ---- request_headers, response_headers ----

EDITS = HeaderEdits(
    set=(("X-Set", "1"), ("x-both", "set")),
    add=(("X-Add", "2"), ("x-both", "added")),
    remove=("X-Gone", "x-odd~name"),
)


def test_fields_of_a_request_are_set_added_and_removed() -> None:
    web = Web()
    with (
        serving(web.backend(), routes=(filtered(request_headers=EDITS),)) as (_, port),
        Client(port) as client,
    ):
        seen = sent_on(
            client,
            web,
            "/",
            "x-set: old",
            "X-SET: older",
            "X-Add: mine",
            "x-gone: 5",
            "X-Odd~Name: 6",
            "x-both: 7",
            "X-Kept: 8",
            "x-se: 9",
        )
    assert seen.all("x-set") == ["1"]
    assert seen.all("x-add") == ["mine", "2"]
    assert seen.all("x-both") == ["set", "added"]
    assert seen.all("x-gone") == seen.all("x-odd~name") == []
    assert (seen.all("x-kept"), seen.all("x-se")) == (["8"], ["9"])


def test_what_is_removed_is_not_set_or_added_either() -> None:
    edits = HeaderEdits(set=(("a", "1"),), add=(("B", "2"),), remove=("A", "b"))
    assert (edits.lines(), edits.dropped()) == (b"", ["a", "b"])


def test_fields_of_a_response_are_set_added_and_removed() -> None:
    web = Web(
        lambda _peer, _seen: ok(
            b"x", b"Server: old", b"X-Gone: 1", b"x_gone: 2", b"Set-Cookie: a=b", b"X-Set: 3"
        )
    )
    edits = HeaderEdits(
        set=(("Strict-Transport-Security", "max-age=1"), ("X-Set", "new")),
        add=(("Set-Cookie", "c=d"),),
        remove=("server", "x-gone"),
    )
    with (
        serving(web.backend(), routes=(filtered(response_headers=edits),)) as (_, port),
        Client(port) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = client.socket.recv(1 << 16).split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    assert sorted(head) == sorted([
        b"Set-Cookie: a=b", b"Content-Length: 1", b"Strict-Transport-Security: max-age=1",
        b"X-Set: new", b"Set-Cookie: c=d",
    ])  # fmt: skip


def test_interim_responses_stay_as_they_are() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n"
    web = Web(lambda _peer, _seen: hints + ok(b"x", b"X-A: 2"))
    edits = HeaderEdits(set=(("X-A", "new"),))
    with (
        serving(web.backend(), routes=(filtered(response_headers=edits),)) as (_, port),
        Client(port) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = client.rest()
    assert got.startswith(hints)
    assert got.count(b"X-A: new\r\n") == 1
    assert b"X-A: 2" not in got


def test_the_response_of_a_route_that_is_gone_is_not_another_s() -> None:
    """A route that comes new while a response is awaited does nothing to it."""
    edits = HeaderEdits(set=(("X-A", "new"),))

    def answer(_peer: object, _seen: object) -> bytes:
        other = to(name="other", filters=Filters(response_headers=edits))
        engine.publish(tables(port, web.backend(), routes=(other,)))
        return ok()

    web = Web(answer)
    with (
        serving(web.backend(), routes=(filtered(add_prefix="/x"),)) as (engine, port),
        Client(port) as client,
    ):
        assert "x-a" not in client.get()[1]
        assert client.get()[1]["x-a"] == "new"


# ---- tables ----


def test_tables_with_edits_that_cannot_be_are_refused() -> None:
    with serving() as (engine, _):
        check_refused(engine, "no name of a field", HeaderEdits(set=(("a b", "1"),)))
        check_refused(engine, "no name of a field", HeaderEdits(remove=("a\r\nb",)))
        check_refused(engine, "printable", HeaderEdits(add=(("a", "1\r\nb: 2"),)))
        check_refused(engine, "for the gateway", HeaderEdits(set=(("Content-Length", "1"),)))
        check_refused(engine, "size of the fields", HeaderEdits(set=(("a", "1" * 4092),)))


def check_refused(engine: Engine, match: str, edits: HeaderEdits) -> None:
    with pytest.raises(ValueError, match=match):
        engine.publish(tables(1, routes=(filtered(request_headers=edits),)))


def test_the_largest_head_with_all_that_filters_add_fits() -> None:
    web = Web()
    edits = HeaderEdits(set=tuple((f"x-{i:02}", "v" * 120) for i in range(30)))
    filters = Filters(rewrite=Rewrite(host="h" * 250), request_headers=edits,
                      add_prefix="/" + "p" * 1000)  # fmt: skip
    with serving(web.backend(), routes=(to(filters=filters),)) as (_, port), Client(port) as client:
        host = "a" * 63 + (".a" * 90)
        fields = "".join(f"y-{i}: {'z' * 180}\r\n" for i in range(40))
        head = f"GET /{'%3c' * 2390} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
        assert len(head) < 16384
        client.send(head.encode())
        assert client.response()[0] == 200
    seen = web.requests[-1]
    assert (len(seen.all("x-29")[0]), len(seen.all("y-39")[0])) == (120, 180)
    assert seen.all("x-forwarded-host") == [host]


def test_nothing_that_answers_is_rewritten() -> None:
    routes = (filtered(respond=Respond(200, b"x"), redirect=Redirect(scheme="https")),)
    with serving(routes=routes) as (_, port), Client(port) as client:
        assert client.get()[2] == b"x"
