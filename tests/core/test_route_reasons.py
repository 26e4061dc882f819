"""Which route wins and why, and which ones cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from piagent.core.filters import Filters, Redirect, Rewrite
from piagent.core.model import Route, Wildcard
from piagent.core.predicates import Predicate, Request
from piagent.core.route_reasons import Criterion, Shadow, explain, shadows
from piagent.core.routing import (
    DEFAULT,
    PlannedGateway,
    PlannedRoute,
    RequestProblem,
    Target,
    host_matches,
    match,
    path_matches,
)
from tests.core.routes import gateway, route

LABELS = st.sampled_from(["a", "b"])
METHODS = st.sets(st.sampled_from(["GET", "PUT"])).map(lambda names: tuple(sorted(names)))
HEADERS = st.sets(st.sampled_from(["x", "y"])).map(
    lambda names: tuple(Predicate(name, "1") for name in sorted(names))
)
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PATTERNS = st.just("") | HOSTS | HOSTS.map("*.".__add__)
PLAIN_PATHS = st.lists(LABELS, max_size=3).map(lambda elements: "/" + "/".join(elements))
ROUTES = st.lists(
    st.tuples(PLAIN_PATHS, st.lists(PATTERNS, max_size=3), st.booleans(), METHODS, HEADERS),
    max_size=8,
).map(
    lambda drawn: [
        route(f"r{i}", path, *filter(None, hosts), exact=exact, methods=methods, headers=headers)
        for i, (path, hosts, exact, methods, headers) in enumerate(drawn)
    ]
)


REQUESTS = st.builds(
    Request,
    HOSTS,
    PLAIN_PATHS,
    st.sampled_from(["GET", "PUT", "X"]),
    headers=HEADERS.map(lambda sent: tuple((one.name, one.value.encode()) for one in sent)),
)


@given(ROUTES, REQUESTS, st.sampled_from(Wildcard))
def test_the_winner_is_the_most_specific_of_all_that_match(
    routes: list[Route], request: Request, wildcard: Wildcard
) -> None:
    table = gateway(*routes, wildcard=wildcard)
    host, path, method = request.host, request.path, request.method
    sent = {name for name, _ in request.headers}
    matching = [
        entry
        for entry in table.routes
        if host_matches(entry.host, host, wildcard)
        and path_matches(entry.path, path, exact=entry.exact)
        and method in (entry.methods or [method])
        and {one.name for one in entry.headers} <= sent
    ]
    best = max(
        matching,
        key=lambda entry: (
            entry.host == host,
            entry.host.startswith("*."),
            len(entry.host),
            entry.exact,
            len(entry.path),
            bool(entry.methods),
            len(entry.headers),
            [-ord(letter) for letter in entry.name],
        ),
        default=None,
    )
    assert match(table, request) == best
    told = explain(table, method, host, path, request.headers)
    assert told.winner == best
    names = {loser.entry.name for loser in told.losers}
    assert names | ({best.name} if best else set()) == {route.name for route in routes}


@given(ROUTES, st.sampled_from(Wildcard))
def test_a_shadowed_entry_is_never_taken_and_every_other_one_can_be(
    routes: list[Route], wildcard: Wildcard
) -> None:
    table = gateway(*routes, wildcard=wildcard)
    dead = {(shadow.route, shadow.host) for shadow in shadows(table.routes)}
    for entry in table.routes:
        # A request only this entry fits best: a label no route knows, an element no route knows.
        host = {"": "zz", "*.": f"zz{entry.host[1:]}"}.get(entry.host[:2], entry.host)
        path = entry.path if entry.exact else f"{entry.path.rstrip('/')}/zz"
        headers = tuple((one.name, b"1") for one in entry.headers)
        taken = {
            match(table, Request(host, path, method, headers=headers))
            for method in entry.methods or ["ZZ"]
        }
        assert (entry not in taken) == ((entry.name, entry.host) in dead)


def test_a_shadow_names_the_route_that_takes_its_requests() -> None:
    table = gateway(route("b", "/v1/", "x", "y"), route("a", "/v1", "x"), route("c", "/"))
    assert shadows(table.routes) == (Shadow("b", "x", "a"),)


def test_methods_of_several_routes_together_hide_one() -> None:
    table = gateway(
        route("a", "/", methods=("GET",)),
        route("b", "/", methods=("PUT",)),
        route("c", "/", methods=("GET", "PUT")),
        route("d", "/", methods=("PUT", "POST")),
        route("e", "/"),
        route("f", "/"),
    )
    assert shadows(table.routes) == (Shadow("c", "", "a"), Shadow("f", "", "e"))


def test_a_regular_expression_is_hidden_by_a_prefix_that_takes_every_path() -> None:
    header = (Predicate("x", "1"),)
    table = gateway(
        route("x", "^/v1", regex=True),
        route("all", "/", methods=("GET",)),
        route("with-header", "^/v1", regex=True, headers=header),
        route("get", "^/v1", regex=True, methods=("GET",)),
        route("elsewhere", "^/v1", "h", regex=True),
    )
    assert shadows(table.routes) == (Shadow("get", "", "all"),)
    table = gateway(*[route("all", "/", headers=header)],
                    route("with-header", "^/v1", regex=True, headers=header),
                    route("plain", "^/v1", regex=True))  # fmt: skip
    assert shadows(table.routes) == (Shadow("with-header", "", "all"),)


def test_an_explanation_names_what_each_loser_lost_by() -> None:
    table = gateway(
        route("winner", "/v1/x", "www.a.lan"),
        route("any", "/v1/x/y"),
        route("wild", "/v1/x/y", "*.a.lan"),
        route("other-host", "/v1/x", "api.a.lan"),
        route("other-path", "/v2", "www.a.lan"),
        route("shorter", "/v1", "www.a.lan"),
        route("zz", "/v1/x/", "www.a.lan"),
        route("two-hosts", "/v1", "api.a.lan", "www.a.lan"),
    )
    told = explain(table, "GET", "WWW.a.lan:80", "/v1//x/y?q=/v2")
    assert (told.status, told.problem) == (0, None)
    assert (told.host, told.path) == ("www.a.lan", "/v1/x/y")
    assert told.winner is not None
    assert told.winner.name == "winner"
    assert {loser.entry.name: loser.criterion for loser in told.losers} == {
        "any": Criterion.HOST_CLASS,
        "wild": Criterion.HOST_CLASS,
        "other-host": Criterion.HOST,
        "other-path": Criterion.PATH,
        "shorter": Criterion.PREFIX_LENGTH,
        "zz": Criterion.NAME,
        "two-hosts": Criterion.PREFIX_LENGTH,
    }


def test_the_longer_wildcard_and_the_exact_path_win() -> None:
    table = gateway(
        route("a", "/x", "*.a.lan"),
        route("b", "/x", "*.lan"),
        route("c", "/x", "*.a.lan", exact=True),
        wildcard=Wildcard.ANY_DEPTH,
    )
    told = explain(table, "GET", "q.a.lan", "/x")
    assert told.winner is not None
    assert told.winner.name == "c"
    assert {loser.entry.name: loser.criterion for loser in told.losers} == {
        "a": Criterion.PATH_CLASS,
        "b": Criterion.HOST_LENGTH,
    }


def test_the_criteria_beyond_host_and_path() -> None:
    one, two = Predicate("a", "1"), Predicate("b", "1")
    table = gateway(
        route("winner", "/x", methods=("GET",), headers=(one, two), query=(one, two)),
        route("put", "/x", methods=("PUT",)),
        route("header", "/x", headers=(Predicate("a", "2"),)),
        route("query", "/x", query=(Predicate("a", "2"),)),
        route("no-method", "/x", headers=(one, two)),
        route("one-header", "/x", methods=("GET",), headers=(one,)),
        route("one-query", "/x", methods=("GET",), headers=(one, two), query=(one,)),
        route("regex", "^/x$", regex=True, methods=("GET",)),
    )
    headers = (("A", b"1"), ("b", b"1"))
    told = explain(table, "GET", "h", "/x?a=1&b=1", headers)
    assert told.winner is not None
    assert told.winner.name == "winner"
    assert {loser.entry.name: loser.criterion for loser in told.losers} == {
        "put": Criterion.METHOD,
        "header": Criterion.HEADERS,
        "query": Criterion.QUERY,
        "no-method": Criterion.METHODS,
        "one-header": Criterion.HEADER_COUNT,
        "one-query": Criterion.QUERY_COUNT,
        "regex": Criterion.PATH_CLASS,
    }


@pytest.mark.parametrize(
    ("method", "host", "target", "status", "problem"),
    [
        ("CONNECT", "a", "a:80", 405, RequestProblem.METHOD),
        ("TRACE", "a", "/", 405, RequestProblem.METHOD),
        ("GET", "a", "*", 400, RequestProblem.ASTERISK),
        ("GET", "a b", "/", 400, RequestProblem.HOST),
        ("GET", "a", "/../x", 400, RequestProblem.ABOVE_ROOT),
        ("GET", "a", "/none", 404, RequestProblem.NO_ROUTE),
        ("GET", "a", "/empty", 500, RequestProblem.NO_BACKEND),
        ("GET", "a", "/x", 0, None),
    ],
)
def test_what_the_gateway_answers_by_itself(
    method: str, host: str, target: str, status: int, problem: RequestProblem | None
) -> None:
    told = explain(gateway(route("empty", "/empty"), route("x", "/x")), method, host, target)
    assert (told.status, told.problem) == (status, problem)


def test_options_asterisk_is_matched_as_the_root() -> None:
    table = gateway(route("root", "/", exact=True), route("x", "/"))
    winner = explain(table, "OPTIONS", "a", "*").winner
    assert winner is not None
    assert winner.name == "root"


def test_the_default_backend_comes_last_and_may_be_hidden() -> None:
    default = PlannedRoute(DEFAULT, "", "", False, (Target("d:80"),), 0, 0, regex=True)

    def with_default(*routes: Route) -> PlannedGateway:
        made = gateway(*routes)
        return replace(made, routes=(*made.routes, default))

    table = with_default(route("r", "^/a", regex=True), route("h", "/", "h"))
    assert shadows(table.routes) == ()
    told = explain(table, "GET", "x", "/a")
    assert told.winner is not None
    assert told.winner.name == "r"
    criteria = {loser.entry.name: loser.criterion for loser in told.losers}
    assert criteria == {"h": Criterion.HOST, DEFAULT: Criterion.DEFAULT}
    assert explain(table, "GET", "x", "/b").winner == default
    assert shadows(with_default(route("all", "/")).routes) == (Shadow(DEFAULT, "", "all"),)


def test_a_listener_that_does_not_serve_the_host_answers_404() -> None:
    table = gateway(route("r", "/"))
    served = ("a.lan", "*.b.lan")
    for host, status in (("a.lan", 0), ("x.b.lan", 0), ("b.lan", 404), ("y.x.b.lan", 404)):
        assert explain(table, "GET", host, "/", served=served).status == status


def test_an_explanation_has_the_path_as_it_was_sent() -> None:
    told = explain(gateway(route("r", "/")), "GET", "h", "/%61//b?c")
    assert (told.sent, told.path) == ("/%61//b", "/a/b")


def test_a_filter_that_answers_is_what_becomes_of_a_request() -> None:
    away = Filters(redirect=Redirect(scheme="https", status=308))
    told = explain(gateway(route("empty", "/", filters=away)), "GET", "a", "/x")
    assert (told.status, told.problem) == (308, RequestProblem.FILTER)


def test_what_a_route_without_a_backend_rewrites_is_explained_where_it_goes_on() -> None:
    table = gateway(
        route("empty", "/old", filters=Filters(rewrite=Rewrite(path="/new", by_prefix=True))),
        route("new", "/new"),
        route("b", "/", "b"),
    )
    told = explain(table, "GET", "a", "/old/x?y")
    assert told.winner is not None
    assert (told.winner.name, told.path, told.status) == ("new", "/new/x", 0)
    away = gateway(route("empty", "/", filters=Filters(rewrite=Rewrite(host="b"))),
                   route("b", "/", "b"))  # fmt: skip
    told = explain(away, "GET", "a", "/x")
    assert told.winner is not None
    assert (told.winner.name, told.host, told.path) == ("b", "b", "/x")
    loop = gateway(route("empty", "/", filters=Filters(add_prefix="/x")))
    assert explain(loop, "GET", "a", "/").status == 500
