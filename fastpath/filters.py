"""What Python tells the engine of a route's filters, and the check that it makes sense."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

BODY_SIZE_MAX = 1 << 62
RESPOND_SIZE_MAX = 16384
"""As ANSWER_BODY_MAX in http/answers.pxd."""
LINES_SIZE_MAX = 4096
"""As in http/forward.pxd."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,63}")
_FRAMING = {"host", "connection", "content-length", "transfer-encoding", "upgrade", "te"}
_TEXT_SIZE_MAX = 255
_PATH_SIZE_MAX = 1024
_IN_FLIGHT_MAX = 1 << 30
_RATE_MAX = 1_000_000
_PERIOD_MAX_MS = 3_600_000
_PORT_MAX = 65535


class Respond(NamedTuple):
    """An answer without a backend."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


class Redirect(NamedTuple):
    """Where a client is sent instead."""

    scheme: str = ""
    """"": the request's."""
    host: str = ""
    """"": the request's."""
    port: int = 0
    """0: the scheme's, if there is one, else the listener's."""
    path: str | None = None
    """None: the request's."""
    by_prefix: bool = False
    """`path` stands for the route's prefix; else it is all of the new path."""
    status: int = 302


class Rewrite(NamedTuple):
    """What a backend is asked for instead."""

    host: str = ""
    """"": the request's."""
    path: str | None = None
    """None: the request's."""
    by_prefix: bool = False
    """As a redirect's."""


class RateLimit(NamedTuple):
    """How often somebody may ask."""

    requests: int
    period_ms: int
    burst: int
    """How many may come at once after a quiet time."""
    header: str = ""
    """Who sends the same value of it is one; without it, and for "", one client address is."""


class HeaderEdits(NamedTuple):
    """What becomes of the fields of a head: set, then add, then remove."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def lines(self) -> bytes:
        """The field lines that they write."""
        removed = {plain_name(name) for name in self.remove}
        fields = ((name, text) for name, text in (*self.set, *self.add))
        return "".join(
            f"{name}: {text}\r\n" for name, text in fields if plain_name(name) not in removed
        ).encode()

    def dropped(self) -> list[str]:
        """The names whose fields they take out, as `plain_name` gives them."""
        names = (*(name for name, _ in self.set), *self.remove)
        return sorted({plain_name(name) for name in names})


def plain_name(name: str) -> str:
    """A field's name in the form that names are compared in."""
    return name.lower().replace("_", "-")


class Filters(NamedTuple):
    """What a route does to requests and responses; by default nothing."""

    allowed: tuple[str, ...] = ()
    """CIDR prefixes of the clients that may ask; none: every one."""
    denied: tuple[str, ...] = ()
    in_flight: int = 0
    """Exchanges under way at a time; 0: no limit."""
    rate: RateLimit | None = None
    body_size: int = 0
    """Bytes of a request's body; 0: no limit."""
    respond: Respond | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    strip_prefix: str = ""
    """Taken off paths that have it, by elements."""
    add_prefix: str = ""
    request_headers: HeaderEdits = HeaderEdits()
    response_headers: HeaderEdits = HeaderEdits()


def check_filters(place: str, filters: Filters) -> None:
    """Raise ValueError, naming the place, for filters that cannot be."""
    for prefix in (*filters.allowed, *filters.denied):
        ipaddress.ip_network(prefix)
    _check_number(place, "in_flight", filters.in_flight, 0, _IN_FLIGHT_MAX)
    _check_number(place, "body_size", filters.body_size, 0, BODY_SIZE_MAX)
    if filters.rate is not None:
        _check_rate(place, filters.rate)
    if filters.respond is not None:
        _check_number(place, "status", filters.respond.status, 200, 599)
        _check_number(place, "size of the body", len(filters.respond.body), 0, RESPOND_SIZE_MAX)
        _check_text(place, filters.respond.content_type, _TEXT_SIZE_MAX)
    if filters.redirect is not None:
        _check_number(place, "status", filters.redirect.status, 300, 399)
        _check_number(place, "port", filters.redirect.port, 0, _PORT_MAX)
        if filters.redirect.scheme not in {"", "http", "https"}:
            raise ValueError(f"{place}: scheme {filters.redirect.scheme!r} is not HTTP's")
        _check_text(place, filters.redirect.host, _TEXT_SIZE_MAX)
        _check_path(place, filters.redirect.path)
    if filters.rewrite is not None:
        _check_text(place, filters.rewrite.host, _TEXT_SIZE_MAX)
        _check_path(place, filters.rewrite.path)
    _check_path(place, filters.strip_prefix or None)
    _check_path(place, filters.add_prefix or None)
    for edits in (filters.request_headers, filters.response_headers):
        _check_edits(place, edits)


def _check_rate(place: str, rate: RateLimit) -> None:
    _check_number(place, "requests", rate.requests, 1, _RATE_MAX)
    _check_number(place, "period", rate.period_ms, 1, _PERIOD_MAX_MS)
    _check_number(place, "burst", rate.burst, 1, _RATE_MAX)
    if rate.header and not _NAME.fullmatch(rate.header):
        raise ValueError(f"{place}: {rate.header!r} is no name of a field")


def _check_edits(place: str, edits: HeaderEdits) -> None:
    for name in (*dict((*edits.set, *edits.add)), *edits.remove):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{place}: {name!r} is no name of a field")
        if plain_name(name) in _FRAMING:
            raise ValueError(f"{place}: {name!r} is for the gateway to write")
    for _, text in (*edits.set, *edits.add):
        _check_text(place, text, LINES_SIZE_MAX)
    _check_number(place, "size of the fields", len(edits.lines()), 0, LINES_SIZE_MAX)


def _check_number(place: str, what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{place}: {what} {value} is not between {least} and {most}")


def _check_text(place: str, text: str, most: int) -> None:
    """What becomes part of a head must not be able to end a line of it."""
    if len(text) > most or not all(" " <= character <= "~" for character in text):
        raise ValueError(f"{place}: {text!r} is not up to {most} printable ASCII characters")


def _check_path(place: str, path: str | None) -> None:
    if path is not None:
        _check_text(place, path, _PATH_SIZE_MAX)
        if not path.startswith("/"):
            raise ValueError(f"{place}: path {path!r} does not begin with a slash")
