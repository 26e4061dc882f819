"""What a route asks of requests, in a file."""

from __future__ import annotations

from typing import Any

import pytest

from piagent.core.model import PathKind
from piagent.core.predicates import Predicate
from tests.config.conftest import Load, Problems
from tests.config.test_checks import GOOD

PLACE = 'path_prefix = "/"'


def test_methods_headers_and_query_are_read(load: Load) -> None:
    lines = """
    methods = ["GET", "PROPFIND"]
    headers = { X-Canary = "yes", x-user = { regex = "^t-" } }
    query = { v = "2", "Größe 1" = { exact = "" }, n = { regex = "[0-9]" } }
    """
    route = load(GOOD.replace(PLACE, PLACE + lines)).config.routes[0]
    assert route.methods == ("GET", "PROPFIND")
    assert route.headers == (
        Predicate("x-canary", "yes"),
        Predicate("x-user", "^t-", regex=True),
    )
    assert route.query == (
        Predicate("Größe 1", ""),
        Predicate("n", "[0-9]", regex=True),
        Predicate("v", "2"),
    )


def test_a_path_may_be_a_regular_expression(load: Load) -> None:
    route = load(GOOD.replace(PLACE, 'path_regex = "^/v[0-9]+/"')).config.routes[0]
    assert (route.path_kind, route.path) == (PathKind.REGEX, "^/v[0-9]+/")


@pytest.mark.parametrize(
    ("line", "key", "what", "cure"),
    [
        ('path_regex = "^/(a"', "path_regex", "at character 5: a group has no end", "write )"),
        ('path_prefix = "/"\npath_regex = "^/"', "path_regex", "also has path_prefix", "two"),
        ('path_exact = "/"\npath_regex = "^/"', "path_regex", "also has path_exact", "two"),
        ("methods = []", "methods", "is empty", '["GET"]'),
        ('methods = ["get"]', "methods[0]", "never sent", '"GET"'),
        ('methods = ["GET", "GET"]', "methods[1]", "already taken", "once"),
        ('methods = ["TRACE"]', "methods[0]", "never forwarded", "leave"),
        ('methods = ["A B"]', "methods[0]", "not a method", ""),
        (f"methods = {[f'M{i}' for i in range(17)]}", "methods", "16 at most", "several routes"),
        ('headers = { "x y" = "1" }', "headers.x y", "not the name of a header", "x-canary"),
        ('headers = { Host = "a" }', "headers.Host", "what hosts is for", "hosts ="),
        ('headers = { te = "a" }', "headers.te", "taken out of requests", ""),
        ('headers = { x-forwarded-for = "a" }', "headers.x-forwarded-for", "taken out", ""),
        ('headers = { x = "é" }', "headers.x.exact", "printable ASCII", "regex"),
        ('headers = { x = " a" }', "headers.x.exact", "white space", ""),
        ('headers = { x = "1", X = "2" }', "headers.X", "there already", ""),
        ("headers = { x = {} }", "headers.x", "exactly one of", "regex"),
        ('headers = { x = { exact = "", regex = "" } }', "headers.x", "exactly one of", ""),
        ('headers = { x = { regex = "a**" } }', "headers.x.regex", "at character 3", "( )"),
        ('query = { v = { regex = "\\\\b" } }', "query.v.regex", "means nothing", ""),
        ("query = { v = 2 }", "query.v", "expected text", ""),
        ('query = ["v"]', "query", "expected a table", "v ="),
    ],
)
def test_what_cannot_be_asked_for_is_an_error(
    errors: Problems, line: str, key: str, what: str, cure: str
) -> None:
    (problem,) = errors(GOOD.replace(PLACE, line))
    assert problem.key.startswith(f"route[0].{key.removesuffix('.exact')}")
    assert what in problem.what
    assert cure in problem.cure
    assert problem.line is not None


def test_a_hidden_route_is_warned_of_with_its_line(load: Load) -> None:
    more = """
[[route]]
name = "hidden"
gateway = "front"
hosts = ["a.lan"]
path_regex = "^/x"
methods = ["GET"]
backends = [{ service = "web" }]
"""
    (warning,) = load(GOOD + more).warnings
    assert warning.line == GOOD.count("\n") + 2
    assert '"all" takes all its requests for a.lan' in warning.what


def test_every_value_has_its_place_in_the_model(load: Load) -> None:
    def shown(values: dict[str, Any]) -> str:
        return ", ".join(f"{key} = {value}" for key, value in values.items())

    headers = shown({f"h{i}": '"1"' for i in range(16)})
    route = load(GOOD.replace(PLACE, f"headers = {{ {headers} }}")).config.routes[0]
    assert len(route.headers) == 16
