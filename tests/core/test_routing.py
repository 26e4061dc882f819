"""Hosts, paths, their order, and the explanation of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.core.model import PathKind, Route, RouteBackend, Wildcard
from piagent.core.routing import (
    BadRequestError,
    Criterion,
    PlannedGateway,
    PlannedRoute,
    RequestProblem,
    Shadow,
    Target,
    canonical_host,
    canonical_path,
    explain,
    host_matches,
    match,
    ordered,
    path_matches,
    prefix_of,
    shadows,
)


def route(name: str, path: str, *hosts: str, exact: bool = False) -> Route:
    kind = PathKind.EXACT if exact else PathKind.PREFIX
    backends = (RouteBackend(service=name),)
    return Route(name=name, gateway="g", hosts=hosts, path_kind=kind, path=path, backends=backends)


def gateway(*routes: Route, wildcard: Wildcard = Wildcard.ONE_LABEL) -> PlannedGateway:
    entries = tuple(
        PlannedRoute(
            name=route.name,
            host=host,
            path=route.path if route.path_kind is PathKind.EXACT else prefix_of(route.path),
            exact=route.path_kind is PathKind.EXACT,
            targets=() if route.name == "empty" else (Target(f"{route.name}:80"),),
            request_timeout_ms=0,
            backend_timeout_ms=0,
        )
        for route, host in ordered(routes)
    )
    return PlannedGateway("g", wildcard, entries)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//a///b//", "/a/b/"),
        ("/a/./b/../c", "/a/c"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a//../b", "/b"),
        ("/...", "/..."),
        ("/.a/..b", "/.a/..b"),
        ("/%61%2D%7e", "/a-~"),
        ("/%2e%2E/a", None),
        ("/a/%2e%2e/b", "/b"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5c..%5Cb", "/a%5C..%5Cb"),
        ("/a\\b", "/a%5Cb"),
        ("/a%252e", "/a%252e"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%3f%23", "/%3F%23"),
        ("/a;b=1,c@d:e!$&'()*+", "/a;b=1,c@d:e!$&'()*+"),
        ("/..;/a", "/..;/a"),
        ('/"<>[]^`{|}', "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
    ],
)
def test_a_path_has_one_canonical_form(raw: str, path: str | None) -> None:
    if path is None:
        with pytest.raises(BadRequestError):
            canonical_path(raw)
    else:
        assert canonical_path(raw) == path
        assert canonical_path(raw.encode()) == path


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", RequestProblem.NOT_ABSOLUTE),
        (b"a", RequestProblem.NOT_ABSOLUTE),
        (b"*", RequestProblem.NOT_ABSOLUTE),
        (b"/a b", RequestProblem.CHARACTER),
        (b"/a\0", RequestProblem.CHARACTER),
        (b"/a\x7f", RequestProblem.CHARACTER),
        (b"/\xc3\xa9", RequestProblem.CHARACTER),
        (b"/a#b", RequestProblem.CHARACTER),
        (b"/a?b", RequestProblem.CHARACTER),
        (b"/%", RequestProblem.ESCAPE),
        (b"/%4", RequestProblem.ESCAPE),
        (b"/%4/1", RequestProblem.ESCAPE),
        (b"/%+1", RequestProblem.ESCAPE),
        (b"/%00", RequestProblem.NUL),
        (b"/..", RequestProblem.ABOVE_ROOT),
        (b"/a/../..", RequestProblem.ABOVE_ROOT),
        (b"/a/%2e%2e/%2E./b", RequestProblem.ABOVE_ROOT),
    ],
)
def test_a_path_without_canonical_form_says_why(raw: bytes, problem: RequestProblem) -> None:
    with pytest.raises(BadRequestError) as caught:
        canonical_path(raw)
    assert caught.value.problem is problem


PIECES = ["/", "//", ".", "..", "a", "%2e", "%2E", "%2f", "%5c", "%61", "%25", "\\", "b", ";"]
PATHS = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "/" + "".join(pieces))


@given(PATHS | st.binary(max_size=30).map(lambda data: b"/" + data))
def test_a_canonical_path_is_plain_and_stays_as_it_is(raw: str | bytes) -> None:
    try:
        path = canonical_path(raw)
    except BadRequestError:
        return
    assert canonical_path(path) == path
    assert path.isascii()
    assert path.isprintable()
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    assert not any(f"%{ord(letter):02X}" in path for letter in "aB3-._~")


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_a_host_and_path_or_a_bad_request(host: str, path: str) -> None:
    for canonical, raw in ((canonical_host, host), (canonical_path, path)):
        try:
            assert canonical(raw) is not None
        except BadRequestError:
            continue


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com:8080", "example.com"),
        ("example.com.", "example.com"),
        ("example.com.:80", "example.com"),
        ("a_b-c", "a_b-c"),
        ("192.0.2.1:1", "192.0.2.1"),
        ("[FD00::1]:443", "[fd00::1]"),
        ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
    ],
)
def test_a_host_has_one_canonical_form(raw: str, host: str) -> None:
    assert canonical_host(raw) == host


@pytest.mark.parametrize(
    "raw",
    ["", ".", "a..b", ".a", "a.com..", "a:", "a:0", "a:65536", "a:123456", "a:8o", "a b", "a/b",
     "*.a", "user@a", "é.fr", "fd00::1", "[fd00::1", "[g::]", "a\n", "x" * 256],
)  # fmt: skip
def test_a_malformed_host_is_refused(raw: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        canonical_host(raw)
    assert caught.value.problem is RequestProblem.HOST


def test_a_wildcard_stands_for_one_label_or_for_any_depth() -> None:
    one, deep = Wildcard.ONE_LABEL, Wildcard.ANY_DEPTH
    assert host_matches("*.a.b", "x.a.b", one)
    assert host_matches("*.a.b", "x.a.b", deep)
    assert not host_matches("*.a.b", "y.x.a.b", one)
    assert host_matches("*.a.b", "y.x.a.b", deep)
    for wildcard in Wildcard:
        assert not host_matches("*.a.b", "a.b", wildcard)
        assert not host_matches("*.a.b", "xa.b", wildcard)
        assert not host_matches("a.b", "x.a.b", wildcard)
        assert host_matches("", "anything", wildcard)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/", "/", True),
        ("/", "/a", True),
        ("/a", "/a", True),
        ("/a", "/a/", True),
        ("/a", "/a/b", True),
        ("/a", "/ab", False),
        ("/a", "/", False),
        ("/aaa/bb", "/aaa/bbb", False),
        ("/a/b", "/a", False),
    ],
)
def test_a_prefix_goes_by_elements(pattern: str, path: str, *, matches: bool) -> None:
    assert path_matches(pattern, path, exact=False) is matches


def test_an_exact_path_is_just_that() -> None:
    assert path_matches("/a", "/a", exact=True)
    assert not path_matches("/a", "/a/", exact=True)
    assert not path_matches("/", "/a", exact=True)


def test_the_slash_at_the_end_of_a_prefix_does_not_count() -> None:
    assert [prefix_of(path) for path in ("/", "/a", "/a/", "/a/b/")] == ["/", "/a", "/a", "/a/b"]


def test_the_order_is_host_then_path_then_name_whatever_the_order_in_the_file() -> None:
    wanted = [
        ("long", "www.example.lan"),
        ("short-exact", "example.lan"),
        ("a-short-deep", "example.lan"),
        ("short", "example.lan"),
        ("wild-long", "*.example.lan"),
        ("wild-short", "*.lan"),
        ("any-exact", ""),
        ("any-2", ""),
        ("any-1a", ""),
        ("any-1b", ""),
        ("any", ""),
    ]
    routes = [
        route("any", "/"),
        route("any-1b", "/b-is-a-long-element/"),
        route("any-1a", "/a"),
        route("any-2", "/a/b"),
        route("any-exact", "/", exact=True),
        route("wild-short", "/a/b/c", "*.lan"),
        route("wild-long", "/", "*.example.lan"),
        route("short", "/", "example.lan"),
        route("a-short-deep", "/a", "example.lan"),
        route("short-exact", "/a", "example.lan", exact=True),
        route("long", "/", "www.example.lan"),
    ]
    for order in (routes, routes[::-1]):
        assert [(found.name, host) for found, host in ordered(order)] == wanted


def test_a_route_has_one_entry_for_each_of_its_hosts() -> None:
    entries = ordered([route("r", "/", "*.lan", "a.lan", "*.lan")])
    assert [host for _, host in entries] == ["a.lan", "*.lan"]


LABELS = st.sampled_from(["a", "b"])
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PATTERNS = st.just("") | HOSTS | HOSTS.map("*.".__add__)
PLAIN_PATHS = st.lists(LABELS, max_size=3).map(lambda elements: "/" + "/".join(elements))
ROUTES = st.lists(
    st.tuples(PLAIN_PATHS, st.lists(PATTERNS, max_size=3), st.booleans()), max_size=8
).map(
    lambda drawn: [
        route(f"r{i}", path, *(host for host in hosts if host), exact=exact)
        for i, (path, hosts, exact) in enumerate(drawn)
    ]
)


@given(ROUTES, HOSTS, PLAIN_PATHS, st.sampled_from(Wildcard))
def test_the_winner_is_the_most_specific_of_all_that_match(
    routes: list[Route], host: str, path: str, wildcard: Wildcard
) -> None:
    table = gateway(*routes, wildcard=wildcard)
    matching = [
        entry
        for entry in table.routes
        if host_matches(entry.host, host, wildcard)
        and path_matches(entry.path, path, exact=entry.exact)
    ]
    best = max(
        matching,
        key=lambda entry: (
            entry.host == host,
            entry.host.startswith("*."),
            len(entry.host),
            entry.exact,
            len(entry.path),
            [-ord(letter) for letter in entry.name],
        ),
        default=None,
    )
    assert match(table, host, path) == best
    told = explain(table, "GET", host, path)
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
        assert (match(table, host, path) != entry) == ((entry.name, entry.host) in dead)


def test_a_shadow_names_the_route_that_takes_its_requests() -> None:
    table = gateway(route("b", "/v1/", "x", "y"), route("a", "/v1", "x"), route("c", "/"))
    assert shadows(table.routes) == (Shadow("b", "x", "a"),)


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
        "a": Criterion.EXACT_PATH,
        "b": Criterion.HOST_LENGTH,
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
