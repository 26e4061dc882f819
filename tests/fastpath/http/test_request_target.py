"""Published request targets through our reader."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.shared_vectors import load_vectors

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

FRAGMENT = "a # is no part of a request target (RFC 9112, 3.2)"
USER = "user information in a target is refused (RFC 9110, 4.2.4)"
ZONE = "a zone means something on one host only, and has no place in a request (RFC 9844)"

# By index in the file: what is refused that the others take, and why.
REFUSED = {
    **dict.fromkeys((251, 252, 261, 262, 263), FRAGMENT),
    **dict.fromkeys((264, 266, 267), USER),
    **dict.fromkeys((268, 269), ZONE),
}


def cases() -> list[tuple[int, dict[str, Any]]]:
    """The URLs among the cases, with their index."""
    every = load_vectors("http1_parser_cases.json")
    return [(i, case) for i, case in enumerate(every) if case["kind"] == "url"]


def request_for(case: dict[str, Any]) -> bytes:
    """A request with that target, and the Host that goes with it."""
    host = case["parts"].get("host", "h")
    return f"GET {case['input_latin1']} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")


def read(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Host, path and query of a request; Refused when there are none."""
    scan = probe.Scan()
    assert scan.feed(text)
    host, path, query, *_ = scan.request()
    return host, path, query


def test_every_url_is_read_as_it_should_be_or_refused() -> None:
    found = cases()
    assert len(found) == 21
    for i, case in found:
        if case["verdict"] == "reject" or i in REFUSED:
            with pytest.raises(probe.Refused):
                read(request_for(case))
            continue
        parts = case["parts"]
        host = re.sub(r":[0-9]+$", "", parts.get("host", "h"))
        query = f"?{parts['query']}" if "query" in parts else ""
        assert read(request_for(case)) == (host.encode(), parts["path"].encode(), query.encode()), i


def test_what_is_refused_is_refused_for_the_reason_given() -> None:
    # Without what the reason names the same target is taken.
    for i, case in cases():
        if i in REFUSED:
            target = re.sub(r"#.*", "", case["input_latin1"])
            target = re.sub(r"//[^/@]*@", "//", re.sub(r"%(25)?eth0", "", target))
            host = re.sub(r".*@|%(25)?eth0", "", case["parts"].get("host", "h"))
            read(request_for({"input_latin1": target, "parts": {"host": host}}))
