"""Routing in the engine and in `piagent.core.routing`: one table, one answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fastpath.conditions import Predicate as EnginePredicate
from fastpath.tables import Gateway, Tables, check
from fastpath.tables import Route as EngineRoute
from piagent import dataplane
from piagent.core import routing
from piagent.core.model import PathKind, Route, Wildcard
from piagent.core.patterns import compile_pattern
from piagent.core.plan import Plan
from piagent.core.predicates import Predicate, Request
from piagent.core.routing import PlannedGateway
from tests.core.routes import gateway
from tests.fastpath.peers import running

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

LABELS = st.sampled_from(["a", "b", "api", "lan", "example"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
HOSTS = NAMES | NAMES.map(lambda name: f"*.{name}")
ELEMENTS = st.lists(st.sampled_from(["a", "b", "ab", "v1", "%2F"]), max_size=3)
PATHS = st.tuples(ELEMENTS, st.booleans()).map(
    lambda made: "/" + "/".join(made[0]) + ("/" if made[1] and made[0] else "")
)
REGEXES = st.sampled_from(["^/a", "b$", "^/(a|b)+/?", "", "v[0-9]"])
METHODS = st.sampled_from(["GET", "PUT", "PROPFIND", "LOCK"])
VALUES = st.sampled_from(["", "1", "2", "1, 2", "a b"])
PREDICATES = st.lists(
    st.builds(Predicate, st.sampled_from(["x", "y"]), VALUES, st.just(False))
    | st.builds(Predicate, st.sampled_from(["x", "y"]), REGEXES, st.just(True)),
    max_size=2,
    unique_by=lambda one: one.name,
).map(tuple)
FIELDS = st.lists(
    st.tuples(st.sampled_from(["x", "X", "y", "z", "Connection"]), VALUES | st.just("x")),
    max_size=3,
)
QUERIES = st.sampled_from(
    ["", "?", "?x", "?x=1", "?y=2&x=1", "?x=2&x=1", "?%78=%31", "?x=a+b", "?x=a%20b", "?X=1", "?=1",
     "?x=1%2C+2", "?x=%", "?&&x=1", "?xx=1&x%3D1", f"?x={'1' * 150}", f"?x={'v1' * 70}"]
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> list[Route]:
    """Routes of a gateway."""
    routes = []
    for index in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(PathKind))
        routes.append(
            Route(
                name=f"r{index}",
                gateway="g",
                hosts=tuple(draw(st.lists(HOSTS, max_size=2))),
                path_kind=kind,
                path=draw(REGEXES if kind is PathKind.REGEX else PATHS),
                backends=(),
                methods=tuple(draw(st.sets(METHODS, max_size=2))),
                headers=draw(PREDICATES),
                query=draw(PREDICATES),
            )
        )
    return routes


def table_of(planned: PlannedGateway) -> Any:
    """The engine's table of a planned gateway."""
    (made,) = dataplane.tables(Plan((), (), (planned,))).gateways
    return probe.Table(made._replace(routes=tuple(r._replace(targets=()) for r in made.routes)))


REQUESTS = st.builds(
    Request,
    NAMES,
    PATHS,
    METHODS,
    QUERIES.map(str.encode),
    FIELDS.map(lambda fields: tuple((name, value.encode()) for name, value in fields)),
)


def text_of(request: Request) -> bytes:
    """The request's head; its query has the `?`."""
    line = f"{request.method} {request.path}".encode() + request.query + b" HTTP/1.1\r\n"
    fields = (("Host", request.host.encode()), *request.headers)
    lines = (name.encode() + b": " + value + b"\r\n" for name, value in fields)
    return line + b"".join(lines) + b"\r\n"


@given(tables(), st.sampled_from(Wildcard), REQUESTS)
def test_engine_and_agent_route_every_request_alike(
    routes: list[Route], wildcard: Wildcard, request: Request
) -> None:
    planned = gateway(*routes, wildcard=wildcard)
    found = table_of(planned).find(text_of(request))
    request = replace(request, query=request.query[1:])
    expected = routing.match(planned, request)
    assert (None if found is None else planned.routes[found]) == expected


@given(st.binary(max_size=30), st.sampled_from(["", "^a", "a$", "^$", "a{3}", r"\d+[^x]", "(?i)q"]))
def test_engine_and_agent_run_a_pattern_alike(value: bytes, text: str) -> None:
    pattern = compile_pattern(text)
    assert probe.Pattern(pattern.program).matches(value) == pattern.matches(value)


def entry(host: str = "", path: str = "/", **more: Any) -> EngineRoute:
    """A route of the engine's table."""
    route = EngineRoute("r", host, path, False, (), 0, 0)
    return route._replace(**more)


def takes(route: EngineRoute, line: str = "GET / HTTP/1.1", *fields: str, **more: Any) -> bool:
    """Whether a route takes a request."""
    host = [] if any(field.startswith("Host:") for field in fields) else ["Host: h"]
    text = "".join(f"{each}\r\n" for each in (line, *host, *fields, ""))
    made = probe.Table(Gateway("g", more.get("any_depth", False), (route,)))
    return made.find(text.encode()) == 0


@pytest.mark.parametrize(
    ("host", "one_label", "any_depth"),
    [("a.lan", True, True), ("a.b.lan", False, True), ("lan", False, False),
     ("xlan", False, False)],
)  # fmt: skip
def test_a_wildcard_stands_for_one_label_or_for_any_depth(
    host: str, one_label: bool, any_depth: bool
) -> None:
    line, field = "GET / HTTP/1.1", f"Host: {host}"
    assert takes(entry("*.lan"), line, field) is one_label
    assert takes(entry("*.lan"), line, field, any_depth=True) is any_depth


@pytest.mark.parametrize(
    ("path", "matches"),
    [("/v1", True), ("/v1/", True), ("/v1/x", True), ("/v12", False), ("/v", False)],
)
def test_a_prefix_goes_by_elements(path: str, matches: bool) -> None:
    assert takes(entry(path="/v1"), f"GET {path} HTTP/1.1") is matches


def test_an_exact_path_is_just_that_path() -> None:
    assert takes(entry(path="/v1", exact=True), "GET /v1 HTTP/1.1")
    assert not takes(entry(path="/v1", exact=True), "GET /v1/ HTTP/1.1")


def test_without_a_match_there_is_no_route() -> None:
    assert probe.Table(Gateway("g", False, ())).find(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") is None


def first_of(routes: list[EngineRoute], host: str, path: str, **more: Any) -> str | None:
    """The name of the route that a GET takes; in the order given."""
    table = probe.Table(Gateway("g", more.get("any_depth", True), tuple(routes)))
    found = table.find(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return None if found is None else routes[found].name


def test_a_host_whose_paths_do_not_fit_leaves_the_request_to_the_next_one() -> None:
    never = (EnginePredicate("x", b"1"),)
    routes = [
        entry("a.b.lan", "/x", name="exact"),
        entry("a.b.lan", "/", name="never", headers=never),
        entry("*.b.lan", "/y", name="long"),
        entry("*.lan", "/z/z", name="short"),
        entry("", "/z", name="any"),
        entry("", "z$", name="pattern", program=compile_pattern("z$").program),
    ]
    for path, name in (
        ("/x/1", "exact"), ("/y", "long"), ("/z/z/z", "short"), ("/z/1", "any"), ("/zz", "pattern"),
        ("/z/zz", "any"), ("/", None),
    ):  # fmt: skip
        assert first_of(routes, "a.b.lan", path) == name, path
    assert first_of(routes, "a.b.lan", "/z/z/z", any_depth=False) == "any"


def test_a_prefix_whose_conditions_do_not_fit_leaves_the_request_to_a_shorter_one() -> None:
    never = (EnginePredicate("x", b"1"),)
    routes = [
        entry("h", "/a/b/c", name="exact", exact=True, headers=never),
        entry("h", "/a/b/c", name="abc", headers=never),
        entry("h", "/a", name="a-put", methods=("PUT",)),
        entry("h", "/a", name="a"),
        entry("h", "/", name="root"),
        entry("h", "/", name="slash", exact=True),
    ]
    assert first_of(routes, "h", "/a/b/c") == "a"
    assert first_of(routes, "h", "/a/b/c/d/e/f/") == "a"
    assert first_of(routes, "h", "/b") == "root"
    assert first_of(routes, "h", "/") == "slash"


def test_every_one_of_ten_thousand_routes_is_found() -> None:
    hosts = [f"h{i}.lan" if i % 3 else f"*.h{i}.lan" for i in range(2000)]
    routes = [
        entry(host, f"/p{j}/{host.strip('*.')}", name=f"{host}{j}", exact=j == 4)
        for host in hosts
        for j in range(5)
    ]
    table = probe.Table(Gateway("g", False, tuple(routes)))
    for i, one in enumerate(routes):
        host = one.host.replace("*", "www")
        text = f"GET {one.path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert table.find(text) == i
    assert table.find(b"GET /p0/h1 HTTP/1.1\r\nHost: h2.lan\r\n\r\n") is None


def test_ten_thousand_routes_are_replaced_by_ten_thousand_others() -> None:
    with running() as engine:
        for generation in "abc":
            routes = tuple(entry(f"{generation}{i}.lan", name=f"{generation}{i}", targets=())
                           for i in range(10_000))  # fmt: skip
            engine.publish(Tables((), (), (Gateway("g", False, routes),)))
        told = engine.stats()["http"]
    assert len(told["requests"]["g"]) == 10_000
    assert told["durations"] == {}


def test_methods_have_case_and_head_is_not_get() -> None:
    for method, wanted in (("GET", True), ("HEAD", False), ("get", False), ("PURGE", True)):
        assert takes(entry(methods=("GET", "PURGE")), f"{method} / HTTP/1.1") is wanted


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        (["X-Canary: yes"], True),
        (["x-canary:   yes  "], True),
        (["X-Canary: YES"], False),
        (["X-Canary: yes", "X-Canary: no"], False),
        (["X-Canary: yes, no"], False),
        (["X-Canary: "], False),
        (["X-Canaries: yes"], False),
        (["X-Canary: yes", "Connection: x-canary"], False),
        ([], False),
    ],
)
def test_a_header_is_compared_joined_and_only_if_it_is_passed_on(
    fields: list[str], matches: bool
) -> None:
    route = entry(headers=(EnginePredicate("x-canary", b"yes"),))
    assert takes(route, "GET / HTTP/1.1", *fields) is matches


def test_a_header_of_several_lines_is_one_value_to_a_pattern() -> None:
    route = entry(headers=(EnginePredicate("a", b"", compile_pattern("^1, 2$").program),))
    assert takes(route, "GET / HTTP/1.1", "A: 1", "B: x", "a: 2")
    assert not takes(route, "GET / HTTP/1.1", "A: 1")


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "x_y", "TE", "Keep-Alive"])
def test_no_route_sees_what_is_taken_out_of_requests(name: str) -> None:
    anything = compile_pattern("").program
    route = entry(headers=(EnginePredicate(name.lower(), b"", anything),))
    assert not takes(route, "GET / HTTP/1.1", f"{name}: 1")


def test_what_a_query_parameter_is() -> None:
    route = entry(query=(EnginePredicate("v", b"a b"),))
    for query, wanted in (
        ("?v=a+b", True), ("?v=a%20b", True), ("?%76=a%20b&v=x", True), ("?v=x&v=a+b", False),
        ("?V=a+b", False), ("?v=a+b+", False), ("", False),
    ):  # fmt: skip
        assert takes(route, f"GET /{query} HTTP/1.1") is wanted, query


GOOD = compile_pattern("^a[bc]").program


@pytest.mark.parametrize(
    "program",
    [b"x", GOOD[:-2], GOOD + b"\0\0", GOOD[:-2] + b"\xff\xff", b"\xff\0" + GOOD[2:],
     GOOD[:4] + b"\xff\0" + GOOD[6:], GOOD[:2] + b"\x01\0" + GOOD[4:],
     GOOD[:50] + b"\xee" + GOOD[51:]],
)  # fmt: skip
def test_a_program_that_would_leave_its_tables_is_refused(program: bytes) -> None:
    for broken in (
        entry(program=program),
        entry(headers=(EnginePredicate("a", b"", program),)),
        entry(query=(EnginePredicate("a", b"", program),)),
    ):
        with pytest.raises(ValueError, match="route 'r'.*not a compiled regular expression"):
            check(Tables((), (), (Gateway("g", False, (broken,)),)))
    check(Tables((), (), (Gateway("g", False, (entry(program=GOOD),)),)))


def test_too_many_conditions_are_refused() -> None:
    many = entry(methods=tuple(f"M{i}" for i in range(17)))
    with pytest.raises(ValueError, match="route 'r': 17 methods, 16 at most"):
        check(Tables((), (), (Gateway("g", False, (many,)),)))
