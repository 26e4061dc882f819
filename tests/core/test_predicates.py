"""Headers and query parameters."""

from __future__ import annotations

import pytest

from piagent.core.predicates import (
    Predicate,
    Request,
    header_value,
    headers_match,
    query_matches,
    query_value,
)

HEADERS = (
    ("X-User", b"t-1"),
    ("Accept", b"a"),
    ("accept", b"b"),
    ("Connection", b"close, X-Hop, upgrade"),
    ("X-Hop", b"1"),
    ("Upgrade", b"websocket"),
    ("X-Forwarded-For", b"1.2.3.4"),
    ("x_y", b"1"),
    ("Empty", b""),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-user", b"t-1"), ("accept", b"a, b"), ("upgrade", b"websocket"), ("empty", b""),
     ("missing", None), ("x-hop", None), ("connection", None), ("x-forwarded-for", None),
     ("x_y", None), ("te", None)],
)  # fmt: skip
def test_a_header_is_what_a_backend_would_get_joined(name: str, value: bytes | None) -> None:
    assert header_value(name, HEADERS) == value


@pytest.mark.parametrize(
    ("query", "value"),
    [(b"v=2", b"2"), (b"a=1&v=2", b"2"), (b"v=2&v=3", b"2"), (b"v", b""), (b"v=", b""),
     (b"v&v=2", b""), (b"%76=%32", b"2"), (b"v=a+b%20c", b"a b c"), (b"v=%zz%4", b"%zz%4"),
     (b"v=a=b", b"a=b"), (b"&&v=1", b"1"), (b"v=%c3%A9", "é".encode()),
     (b"", None), (b"V=2", None), (b"vv=2", None), (b"a=v", None), (b"a=1;v=2", None)],
)  # fmt: skip
def test_a_parameter_is_the_first_of_its_name_decoded(query: bytes, value: bytes | None) -> None:
    assert query_value("v", query) == value


def test_all_of_several_must_fit() -> None:
    request = Request("h", "/", "GET", b"a=1&b=2", (("A", b"1"), ("B", b"2")))
    one, two = Predicate("a", "1"), Predicate("b", "^[23]$", regex=True)
    other, none = Predicate("b", "^[23]?$x", regex=True), Predicate("c", "", regex=True)
    for fits in (headers_match, query_matches):
        assert fits((), request)
        assert fits((one, two), request)
        assert not fits((one, other), request)
        assert not fits((one, none), request)


def test_a_predicate_is_written_for_people() -> None:
    assert str(Predicate("x-canary", "yes")) == "x-canary=yes"
    assert str(Predicate("x-user", "^t-", regex=True)) == "x-user~^t-"
