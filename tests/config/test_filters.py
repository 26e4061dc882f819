"""The filters of a route: what a file may say, and what the model has of it."""

from __future__ import annotations

import pytest

from piagent.core.filters import Filters, HeaderEdits, Redirect, Respond, Rewrite
from tests.config.conftest import Load, Problems

BASE = """
[cluster]
secret_file = "cluster.secret"
[mqtt]
brokers = ["mqtt://192.0.2.1"]
[[pool]]
name = "lan"
addresses = ["192.0.2.80"]
[[gateway]]
name = "web"
address = "192.0.2.80"
listen = [{ port = 80 }]
[[service]]
name = "app"
ports = [{ port = 80 }]
backends = ["192.0.2.11"]
[[route]]
name = "r"
gateway = "web"
"""
TO_APP = 'backends = [{ service = "app" }]\n'


def route(filters: str, rest: str = TO_APP) -> str:
    return f"{BASE}{rest}filters = [{filters}]\n"


def filters(load: Load, text: str, rest: str = TO_APP) -> Filters:
    return load(route(text, rest)).config.routes[0].filters


def test_a_route_without_filters_does_nothing(load: Load) -> None:
    assert load(BASE + TO_APP).config.routes[0].filters == Filters()


def test_filters_that_let_pass_or_not(load: Load) -> None:
    text = (
        '{ allow_sources = ["192.0.2.0/24", "2001:db8::/32"] }, { deny_sources = ["192.0.2.66"] },'
        ' { in_flight = 7 }, { body_limit = "10MiB" }'
    )
    assert filters(load, text) == Filters(
        allowed=("192.0.2.0/24", "2001:db8::/32"),
        denied=("192.0.2.66/32",),
        in_flight=7,
        body_limit=10 << 20,
    )


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ('rate = "10/s"', (10, 1000, 10, "")),
        ('rate = "30/m", key = "source"', (30, 60_000, 1, "")),
        ('rate = "36000/h", key = "header:X-Api-Key"', (36000, 3_600_000, 10, "x-api-key")),
        ('rate = "10/s", burst = 50', (10, 1000, 50, "")),
    ],
)
def test_a_rate_limit(load: Load, text: str, limit: tuple[int, int, int, str]) -> None:
    found = filters(load, f"{{ rate_limit = {{ {text} }} }}").rate_limit
    assert found is not None
    assert (found.requests, found.period_ms, found.burst, found.header) == limit


def test_an_answer_of_ones_own_needs_no_backend(load: Load) -> None:
    loaded = load(route('{ respond = { body = "Back at noon" } }', ""))
    assert loaded.config.routes[0].filters.respond == Respond(
        status=503, body="Back at noon", content_type="text/plain; charset=utf-8"
    )
    assert not [each for each in loaded.warnings if each.key.startswith("route")]


def test_a_redirect_has_what_it_names_and_302(load: Load) -> None:
    assert filters(load, '{ redirect = { scheme = "https" } }', "").redirect == Redirect(
        scheme="https", status=302
    )
    text = '{ redirect = { host = "New.example", port = 8080, path_prefix = "/v2", status = 308 } }'
    assert filters(load, text, "").redirect == Redirect(
        host="new.example", port=8080, path="/v2", by_prefix=True, status=308
    )
    assert filters(load, '{ redirect = { path_full = "/" } }', "").redirect == Redirect(path="/")


def test_a_request_is_rewritten(load: Load) -> None:
    text = (
        '{ rewrite = { host = "inner.lan", path_prefix = "/v2" } }, { strip_prefix = "/a" },'
        ' { add_prefix = "/b" }'
    )
    assert filters(load, text) == Filters(
        rewrite=Rewrite(host="inner.lan", path="/v2", by_prefix=True),
        strip_prefix="/a",
        add_prefix="/b",
    )


def test_a_route_that_only_rewrites_needs_no_backend(load: Load) -> None:
    loaded = load(route('{ rewrite = { path_full = "/x" } }', ""))
    assert loaded.config.routes[0].filters.rewrite == Rewrite(path="/x")
    assert not [each for each in loaded.warnings if each.key.startswith("route")]


def test_headers_are_edited(load: Load) -> None:
    text = (
        '{ request_headers = { set = { X-From = "piagent" }, add = { a = "" }, remove = ["B"] } }'
    )
    assert filters(load, text).request_headers == HeaderEdits(
        set=(("X-From", "piagent"),), add=(("a", ""),), remove=("B",)
    )
    text = '{ response_headers = { set = { strict-transport-security = "max-age=31536000" } } }'
    assert filters(load, text).response_headers == HeaderEdits(
        set=(("strict-transport-security", "max-age=31536000"),)
    )


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("rate_limit = {}", "rate_limit.rate: is missing", 'rate = "10/s"'),
        ("rate_limit = { rate = '10' }", "is not a number", '"10/s"'),
        ("rate_limit = { rate = '0/s' }", "is not between 1 and", ""),
        ("rate_limit = { rate = '1/d' }", "and s, m or h", ""),
        ("rate_limit = { rate = '1/s', burst = 0 }", "a number of requests, 1", ""),
        ("rate_limit = { rate = '1/s', key = 'cookie' }", 'is neither "source" nor', ""),
        ("rate_limit = { rate = '1/s', key = 'header:a b' }", '"a b" is not the name', ""),
        ("strip_prefix = 'a'", "does not begin with a slash", ""),
        ("strip_prefix = '/a/..'", "is not canonical", 'write "/"'),
        ("add_prefix = '/%2e'", "is not canonical", 'write "/"'),
        ("rewrite = {}", "rewrite: changes nothing", "path_prefix"),
        ("rewrite = { host = '192.0.2.1' }", "is an address", ""),
        ("rewrite = { path_full = '/a', path_prefix = '/b' }", "given twice", ""),
        ("request_headers = {}", "request_headers: changes nothing", 'x-from = "piagent"'),
        ("request_headers = { set = { 'a b' = 'c' } }", '"a b" is not the name', ""),
        ("request_headers = { remove = ['a:'] }", '"a:" is not the name', ""),
        (f"request_headers = {{ remove = ['{'a' * 64}'] }}", "is not the name of a header", ""),
        ('request_headers = { set = { a = "b\\r\\nc: d" } }', "printable ASCII", ""),
        ('request_headers = { set = { a = "b\\u0000" } }', "printable ASCII", ""),
        ("request_headers = { set = { a = 'é' } }", "printable ASCII", ""),
        ("request_headers = { set = { a = ' b' } }", "white space around", ""),
        ("request_headers = { set = { Host = 'b' } }", "is what requests are routed by",
         "rewrite = { host"),
        ("request_headers = { remove = ['Content_Length'] }", "says where a message ends", ""),
        ("response_headers = { remove = ['transfer-encoding'] }", "says where a message ends", ""),
        ("response_headers = { set = { Connection = 'close' } }", "never passed on", ""),
        ("request_headers = { set = { X-Forwarded-For = 'b' } }", "trust the gateway", ""),
        ("request_headers = { remove = ['x_forwarded_anything'] }", "trust the gateway", ""),
        ("request_headers = { set = { Forwarded = 'b' } }", "trust the gateway", ""),
        ("request_headers = { set = { A-B = '1', a_b = '2' } }", "already taken", "underscore"),
        ("request_headers = { add = { A = '1' }, remove = ['a'] }", '"A" is removed, too', ""),
        (f"request_headers = {{ set = {{ a = '{'1' * 4092}' }} }}", "4097 bytes of fields", ""),
    ],
)  # fmt: skip
def test_an_edit_that_cannot_be_says_why(errors: Problems, text: str, what: str, cure: str) -> None:
    (problem,) = errors(route(f"{{ {text} }}"))
    assert what in f"{problem.key}: {problem.what}"
    assert cure in problem.cure


@pytest.mark.parametrize("key", ["request_headers", "response_headers"])
def test_what_goes_on_to_another_route_is_edited_there(errors: Problems, key: str) -> None:
    text = f"{{ strip_prefix = '/a' }}, {{ {key} = {{ remove = ['b'] }} }}"
    (problem,) = errors(route(text, ""))
    assert "goes on to another route" in problem.what


def test_nothing_is_done_after_an_answer(errors: Problems) -> None:
    (problem,) = errors(route("{ add_prefix = '/a' }, { redirect = { host = 'b' } }", ""))
    assert "add_prefix" in problem.key
    assert "redirect answers every request" in problem.what


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("{}", "filters[0]: a filter is a table with one key, this one has 0", "strip_prefix"),
        ("{ in_flight = 1, body_limit = '1B' }", "this one has 2", "{ … }, { … }"),
        ("{ in_flight = 1 }, { in_flight = 2 }",
         "filters[1].in_flight: there is in_flight already, at route[0].filters[0].in_flight",
         "one of a kind"),
        ("{ in_flght = 1 }", "filters[0].in_flght: unknown key", 'did you mean "in_flight"?'),
        ("{ in_flight = 0 }", "a number of requests, 1 to", "write in_flight = 100"),
        ("{ allow_sources = [] }", "is empty", "write allow_sources = ["),
        ("{ deny_sources = ['a'] }", '"a" is neither a CIDR', ""),
        ("{ deny_sources = ['192.0.2.1', '192.0.2.1'] }", "already taken", "once is enough"),
        ("{ body_limit = 5 }", "expected a size, got 5", 'write body_limit = "10MiB"'),
        ("{ body_limit = '5MB' }", '"5MB" is not a number and a unit', '"10MiB"'),
        ("{ body_limit = '0B' }", "is nothing at all", ""),
        ("{ respond = { status = 199 } }", "a status code, 200 to 599, got 199", ""),
        ("{ respond = { status = 204, body = 'x' } }", "respond.body: an answer with status 204",
         "leave it out"),
        ('{ respond = { content_type = "text/html\\r\\nX: y" } }', "is not a media type", ""),
        (f"{{ respond = {{ body = '{'x' * 16385}' }} }}", "16385 bytes, 16384 at most", ""),
        ("{ redirect = {} }", "redirect: names no other place", 'scheme = "https"'),
        ("{ redirect = { status = 304, host = 'a' } }", "304 does not send a client elsewhere",
         "301, 302, 303, 307 or 308"),
        ("{ redirect = { scheme = 'ftp' } }", "one of http, https", ""),
        ("{ redirect = { host = 'a:80' } }", "is an address or has a port", ""),
        ("{ redirect = { host = 'a', path_full = '/a?b' } }", "is more than a path", "query"),
        ("{ redirect = { path_full = '/a/../b' } }", "is not canonical", 'write "/b"'),
        ("{ redirect = { path_full = 'a' } }", "does not begin with a slash", ""),
        ('{ redirect = { path_full = "/a\\r\\nX: y" } }', "a control, white space", ""),
        ("{ redirect = { path_full = '/a', path_prefix = '/b' } }", "the new path is given twice",
         "leave one of the two out"),
        ("{ redirect = { host = 'a' } }, { respond = {} }",
         "filters[0].redirect: respond answers every request", "leave one of the two out"),
    ],
)  # fmt: skip
def test_a_filter_that_cannot_be_says_why(
    errors: Problems, text: str, what: str, cure: str
) -> None:
    (problem,) = errors(route(text, ""))
    assert what in f"{problem.key}: {problem.what}"
    assert cure in problem.cure
    assert problem.line == BASE.count("\n") + 1


def test_a_prefix_is_replaced_only_where_one_was_matched(errors: Problems) -> None:
    (problem,) = errors(route("{ redirect = { path_prefix = '/b' } }", "path_exact = '/a'\n"))
    assert "the route has path_exact" in problem.what


def test_backends_that_no_request_reaches_are_a_warning(load: Load) -> None:
    found = [each.what for each in load(route("{ respond = {} }")).warnings]
    assert [what for what in found if "no request comes to the route's backends" in what]


def of_backend(filters: str, rest: str = "") -> str:
    return f'{BASE}backends = [{{ service = "app", filters = [{filters}] }}]\n{rest}'


def test_a_backend_edits_its_share(load: Load) -> None:
    text = "{ request_headers = { set = { a = '1' } } }, { response_headers = { remove = ['b'] } }"
    (backend,) = load(of_backend(text)).config.routes[0].backends
    assert backend.request_headers == HeaderEdits(set=(("a", "1"),))
    assert backend.response_headers == HeaderEdits(remove=("b",))


@pytest.mark.parametrize(
    ("text", "rest", "what"),
    [
        ("{}", "", "backends[0].filters[0]: a filter is a table with one key"),
        ("{ in_flight = 1 }", "", "backends[0].filters[0].in_flight: unknown key"),
        ("{ request_headers = {} }", "", "request_headers: changes nothing"),
        ("{ request_headers = { set = { Host = 'a' } } }", "", "what requests are routed by"),
        ("{ request_headers = { set = { a_b = '1' } } }",
         "filters = [{ request_headers = { remove = ['A-B'] } }]", "a-b: the route's request_h"),
        (f"{{ request_headers = {{ set = {{ b = '{'1' * 2044}1' }} }} }}",
         f"filters = [{{ request_headers = {{ set = {{ a = '{'1' * 2042}' }} }} }}]", "4097 bytes"),
        ("{ response_headers = { remove = ['access-control-allow-origin'] } }",
         "filters = [{ cors = { allow_origins = ['*'] } }]", "is what cors writes"),
    ],
)  # fmt: skip
def test_an_edit_of_a_share_that_cannot_be_says_why(
    errors: Problems, text: str, rest: str, what: str
) -> None:
    (problem,) = errors(of_backend(text, rest))
    assert what in f"{problem.key}: {problem.what}"
