"""What a route asks of a request beside host and path: its method, headers and query.

The rules of this file are the gateway's; fastpath/http/predicates.pyx has the same ones.

Headers
    Names without case. A header that comes several times is one, its values joined by `, ` (RFC
    9110 section 5.3), so it does not matter who joined them. What the gateway takes out of requests
    (hop-by-hop fields, X-Forwarded-* and its kin, names with an underscore) is not there.
Query
    Split at `&` and at the first `=` of each part; `%xx` stands for its byte and `+` for a space in
    names and values, other bytes for themselves. Names with case; of a parameter that comes several
    times the first one counts. `?a` is `a` with an empty value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from piagent.core.patterns import compile_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, 5.6.2: methods and names of headers."""
HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "te", "transfer-encoding"})
_OURS: Final = frozenset({b"upgrade", b"host", b"content-length", b"expect", b"trailer"})
"""What `Connection` does not take out by naming it."""
PREDICATES_MAX: Final = 16
"""Methods, headers and query parameters of a route, of each kind."""

_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class Predicate(Struct, frozen=True, order=True):
    """What a header or query parameter must be; it must be there."""

    name: str
    """A header's in lower case."""
    value: str
    regex: bool = False
    """Whether `value` is a regular expression, looked for anywhere in the value."""

    def takes(self, value: bytes) -> bool:
        """Tell whether a value fits."""
        if self.regex:
            return compile_pattern(self.value).matches(value)
        return value == self.value.encode()

    def __str__(self) -> str:
        """For people: `x-canary=yes`, `x-user~^t-`."""
        return f"{self.name}{'~' if self.regex else '='}{self.value}"


class Request(Struct, frozen=True):
    """What of a request counts for its route."""

    host: str
    """Canonical."""
    path: str
    """Canonical."""
    method: str = "GET"
    query: bytes = b""
    """As it came, without the `?`."""
    headers: tuple[tuple[str, bytes], ...] = ()
    """As they came."""


def headers_match(wanted: Sequence[Predicate], request: Request) -> bool:
    """Tell whether the request's headers fit."""
    for one in wanted:
        value = header_value(one.name, request.headers)
        if value is None or not one.takes(value):
            return False
    return True


def query_matches(wanted: Sequence[Predicate], request: Request) -> bool:
    """Tell whether the request's query fits."""
    for one in wanted:
        value = query_value(one.name, request.query)
        if value is None or not one.takes(value):
            return False
    return True


def header_value(name: str, headers: Sequence[tuple[str, bytes]]) -> bytes | None:
    """The value of a header, joined; None: it is not there, or taken out."""
    named = {
        option.strip(b" \t").lower()
        for field, value in headers
        if field.lower() == "connection"
        for option in value.split(b",")
    }
    if is_taken_out(name) or name.encode() in named - _OURS:
        return None
    values = [value for field, value in headers if field.lower() == name]
    return b", ".join(values) if values else None


def is_taken_out(name: str) -> bool:
    """Tell whether the gateway takes a header out of requests, by its name in lower case."""
    return (
        name in HOP_BY_HOP
        or name in {"x-real-ip", "x-request-id", "forwarded"}
        or name.startswith(("proxy-", "x-forwarded-"))
        or "_" in name
    )


def query_value(name: str, query: bytes) -> bytes | None:
    """The value of the first parameter of that name."""
    for part in query.split(b"&"):
        key, _, value = part.partition(b"=")
        if part and _decoded(key) == name.encode():
            return _decoded(value)
    return None


def _decoded(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text.replace(b"+", b" "))
