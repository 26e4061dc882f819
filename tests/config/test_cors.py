"""The filter cors: what a file may say, and what the model has of it."""

from __future__ import annotations

import pytest

from piagent.core.filters import Cors
from tests.config.conftest import Load, Problems
from tests.config.test_filters import TO_APP, filters, route


def test_a_cors_filter(load: Load) -> None:
    text = """{ cors = {
      allow_origins = ["https://A.example", "https://*.b.example:8443", "capacitor://localhost"],
      allow_methods = ["PUT"], allow_headers = ["X-One"], expose_headers = ["x-two"],
      max_age = "10m", allow_credentials = true,
    } }""".replace("\n", " ")
    text = text.replace("true, ", "true ")
    assert filters(load, text).cors == Cors(
        origins=("https://a.example", "https://*.b.example:8443", "capacitor://localhost"),
        methods=("PUT",),
        headers=("X-One",),
        exposed=("x-two",),
        max_age_ms=600_000,
        credentials=True,
    )
    found = filters(load, '{ cors = { allow_origins = ["*"] } }').cors
    assert found == Cors(origins=("*",), max_age_ms=5000)


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("", "allow_origins: is missing", ""),
        ("allow_origins = []", "is empty", ""),
        ("allow_origins = ['a.example']", '"a.example" is not an origin', "scheme, host and port"),
        ("allow_origins = ['https://a.example/']", "is not an origin", "scheme, host"),
        ("allow_origins = ['https://*']", "is not an origin", ""),
        ("allow_origins = ['https://a*.example']", "is not an origin", ""),
        ("allow_origins = ['https://*.*.example']", "is not an origin", ""),
        ("allow_origins = ['null']", "is not an origin", ""),
        ('allow_origins = ["https://a\\r\\nSet-Cookie: b"]', "is not an origin", ""),
        ("allow_origins = ['https://a:443']", "leave out the port", 'write "https://a"'),
        ("allow_origins = ['*', 'https://a']", "is all of them already", "leave the others out"),
        ("allow_origins = ['https://a', 'https://A']", "already taken", "once is enough"),
        ("allow_origins = ['*'], allow_methods = ['put']", "is never sent", 'write "PUT"'),
        ('allow_origins = ["*"], allow_methods = ["A\\r\\nB"]', "is not a method", ""),
        ("allow_origins = ['*'], allow_headers = ['a b']", "is not the name of a header", ""),
        ('allow_origins = ["*"], expose_headers = ["a\\nb"]', "is not the name of a header", ""),
        ("allow_origins = ['*'], max_age = '1500ms'", "whole seconds", '"5s"'),
        ("allow_origins = ['https://a'], expose_headers = ['*'], allow_credentials = true",
         'do not take "*"', "name the headers"),
        ("allow_origins = ['*'], allow_headers = ["
         + ", ".join(f"'{'x' * 60}{i}'" for i in range(30)) + "]", "than fit", '"*"'),
    ],
)  # fmt: skip
def test_a_cors_filter_that_cannot_be_says_why(
    errors: Problems, text: str, what: str, cure: str
) -> None:
    (problem,) = errors(route(f"{{ cors = {{ {text} }} }}"))
    assert what in f"{problem.key}: {problem.what}"
    assert cure in problem.cure


def test_nothing_else_writes_what_the_filter_writes(errors: Problems) -> None:
    edits = "{ response_headers = { set = { Access-Control-Allow-Origin = '*' } } }"
    (problem,) = errors(route(f"{{ cors = {{ allow_origins = ['*'] }} }}, {edits}"))
    assert "is what cors writes" in problem.what
    assert errors(route(edits)) == ()


@pytest.mark.parametrize(
    ("text", "rest", "what"),
    [
        ("allow_origins = ['*'], allow_credentials = true", TO_APP, "in the name of who looks"),
        ("allow_origins = ['*']", TO_APP + 'methods = ["GET"]\n', "browsers ask by OPTIONS first"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(
    load: Load, text: str, rest: str, what: str
) -> None:
    found = load(route(f"{{ cors = {{ {text} }} }}", rest)).warnings
    assert [each for each in found if what in each.what]
    quiet = load(route("{ cors = { allow_origins = ['*'] } }")).warnings
    assert not [each for each in quiet if "cors" in each.key]
