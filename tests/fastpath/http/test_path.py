"""Canonical hosts and paths: their properties, and the Python rules beside them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from piagent.core import routing

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

PATH_PARTS = (
    b"/ // . .. /../ /./ a B ~ \\ | [ # ? \x00 \x7f %41 %2f %2F %2e %5c %7e % %0 %00 %zz %c3%bc"
    b" ;x=1 :@ !$&'()*+,= \xc3\xbc"
).split(b" ")
PATH_BYTES = st.lists(st.sampled_from([*PATH_PARTS, b" "]), max_size=10).map(
    lambda parts: b"/" + b"".join(parts)
) | st.binary(max_size=30)


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/%61/%7Eb", b"/a/~b"),
        (b"/a%2fb%5c", b"/a%2Fb%5C"),
        (b"//a///b//", b"/a/b/"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/../b", b"/b"),
        (b"/a/..", b"/"),
        (b"/a/b/%2e%2E/c", b"/a/c"),
        (b"/a//../b", b"/b"),
        (b"/...", b"/..."),
        (b'/"x"|[y]', b"/%22x%22%7C%5By%5D"),
        (b"/a%2e%2e%2fb", b"/a..%2Fb"),
        (b"/..", None),
        (b"/a/../..", None),
        (b"/%2e%2e/a", None),
        (b"/%00", None),
        (b"/%0", None),
        (b"/a b", None),
        (b"/\xc3\xbc", None),
        (b"a", None),
        (b"", None),
    ],
)
def test_a_path_has_one_spelling_or_none(raw: bytes, canonical: bytes | None) -> None:
    assert probe.canonical_path(raw) == canonical


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        (b"//", b"//"),
        (b"/a//b/", b"/a//b/"),
        (b"//a", b"//a"),
        (b"/a//../b", b"/a/b"),
        (b"/a/.//b", b"/a//b"),
        (b"//..", b"/"),
        (b"/a//.", b"/a//"),
        (b"/..", None),
        (b"//../..", None),
    ],
)
def test_a_gateway_may_keep_empty_elements(raw: bytes, canonical: bytes | None) -> None:
    assert probe.canonical_path(raw, keeps_slashes=True) == canonical


def test_a_gateway_may_refuse_encoded_slashes() -> None:
    for raw in (b"/a%2fb", b"/%5C", b"/a\\b"):
        assert probe.canonical_path(raw, refuses_slash=True) is None
        assert probe.canonical_path(raw) is not None
    assert probe.canonical_path(b"/a%252f//b", refuses_slash=True) == b"/a%252f/b"


@given(PATH_BYTES, st.booleans(), st.booleans())
def test_both_languages_know_the_rules_of_gateways(raw: bytes, keeps: bool, refuses: bool) -> None:
    try:
        expected = routing.canonical_path(
            raw, merges=not keeps, takes_encoded_slash=not refuses
        ).encode()
        again = routing.canonical_path(expected, merges=not keeps)
        assert again.encode() == expected
    except routing.BadRequestError:
        expected = None
    found = probe.canonical_path(raw, keeps_slashes=keeps, refuses_slash=refuses)
    assert found == expected


@given(PATH_BYTES)
def test_a_canonical_path_is_its_own_canonical_form(raw: bytes) -> None:
    once = probe.canonical_path(raw)
    if once is not None:
        assert probe.canonical_path(once) == once


@given(PATH_BYTES)
def test_a_canonical_path_has_no_dot_segment_and_no_empty_element(raw: bytes) -> None:
    path = probe.canonical_path(raw)
    if path is not None:
        elements = path[1:].split(b"/")
        assert b"." not in elements
        assert b".." not in elements
        assert b"" not in elements[:-1]


@given(PATH_BYTES)
def test_a_canonical_path_holds_only_what_rfc_3986_allows(raw: bytes) -> None:
    path = probe.canonical_path(raw)
    if path is not None:
        assert set(path) <= set(routing.KEPT) | set(b"%")


def python_path(raw: bytes) -> bytes | None:
    try:
        return routing.canonical_path(raw).encode()
    except routing.BadRequestError:
        return None


@given(PATH_BYTES)
@example(b"/a/%2E%2e")
def test_engine_and_agent_agree_on_every_path(raw: bytes) -> None:
    assert probe.canonical_path(raw) == python_path(raw)


HOST_PARTS = (
    b"a B - _ . .. : :80 :0 :99999 :123456 [ ] [::1] [fe80::1%25eth0] example com 10 %41 \x00 \xff"
).split(b" ")
HOST_BYTES = st.lists(st.sampled_from([*HOST_PARTS, b" "]), max_size=8).map(b"".join)


def python_host(raw: bytes) -> bytes | None:
    try:
        return routing.canonical_host(raw.decode("latin-1")).encode()
    except routing.BadRequestError:
        return None


@given(HOST_BYTES)
@example(b"A.b.:8080")
@example(b"a" * 255)
@example(b"a" * 256)
@example(b"[::1]:65536")
def test_engine_and_agent_agree_on_every_host(raw: bytes) -> None:
    found = probe.canonical_host(raw)
    assert (found and found[0]) == python_host(raw)


def test_a_hosts_port_is_read() -> None:
    assert probe.canonical_host(b"WWW.Example.com.:8080") == (b"www.example.com", 8080)
    assert probe.canonical_host(b"[::1]:443") == (b"[::1]", 443)
    assert probe.canonical_host(b"a:") is None
