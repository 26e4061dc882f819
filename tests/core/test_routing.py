"""Hosts, paths, and the order of routes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.core.model import Wildcard
from piagent.core.predicates import Predicate
from piagent.core.routing import (
    BadRequestError,
    RequestProblem,
    canonical_host,
    canonical_path,
    host_matches,
    ordered,
    path_matches,
    prefix_of,
)
from tests.core.routes import route


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
        ("any-get", ""),
        ("any-headers", ""),
        ("any-header", ""),
        ("any-query", ""),
        ("any", ""),
        ("a-regex", ""),
    ]
    one, two = Predicate("a", ""), Predicate("b", "")
    routes = [
        route("any", "/"),
        route("a-regex", "^/a/b/c", regex=True),
        route("any-query", "/", query=(one, two)),
        route("any-header", "/", headers=(one,), query=(one, two)),
        route("any-headers", "/", headers=(one, two)),
        route("any-get", "/", methods=("GET",)),
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
