"""What Python tells the engine of a route's filters, and the check that it makes sense."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from fastpath.users import Users

BODY_SIZE_MAX = 1 << 62
RESPOND_SIZE_MAX = 16384
"""As ANSWER_BODY_MAX in http/answers.pxd."""
LINES_SIZE_MAX = 4096
"""As in http/forward.pxd."""
CORS_LINES_MAX = 2048
"""As in http/answers.pxd."""
ENCODINGS = ("gzip", "br", "zstd")
"""As encoding_t of http/encoders.pxd."""
COPIED_SIZE_MAX = 1024
"""As in http/state.pxd."""
CORS_FIELDS = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
)
"""What a route with `cors` says itself, whatever a backend says."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,63}")
_FRAMING = {"host", "connection", "content-length", "transfer-encoding", "upgrade", "te"}
_TEXT_SIZE_MAX = 255
_PATH_SIZE_MAX = 1024
_IN_FLIGHT_MAX = 1 << 30
_RATE_MAX = 1_000_000
_PERIOD_MAX_MS = 3_600_000
_PORT_MAX = 65535
_MAX_AGE_MAX_S = 1 << 31
_ORIGIN = re.compile(r"\*|[!-)+-~]+(\*[!-)+-~]+)?")


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


class Cors(NamedTuple):
    """Whose pages may read what the route answers; "*" in a list: all."""

    origins: tuple[str, ...]
    """In lower case; one `*` in an origin stands for the beginning of a host's name."""
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_s: int = 0
    credentials: bool = False

    def credentials_lines(self) -> bytes:
        """What every response says."""
        return b"Access-Control-Allow-Credentials: true\r\n" if self.credentials else b""

    def exposed_lines(self) -> bytes:
        """What responses say that are not a preflight's."""
        return self._list("Expose-Headers", self.exposed)

    def allowed_lines(self) -> bytes:
        """What preflights are told, but for what they are told of what they ask."""
        lines = b""
        for name, values in (("Allow-Methods", self.methods), ("Allow-Headers", self.headers)):
            if "*" not in values:
                lines += self._list(name, values)
            elif not self.credentials:
                lines += self._list(name, ("*",))
        return lines + f"Access-Control-Max-Age: {self.max_age_s}\r\n".encode()

    @staticmethod
    def _list(name: str, values: tuple[str, ...]) -> bytes:
        return f"Access-Control-{name}: {', '.join(values)}\r\n".encode() if values else b""


class ForwardAuth(NamedTuple):
    """A service that is asked whether a request may go on."""

    service: str
    """"": one that is not there, every request is answered with 500."""
    path: str
    """Of the question, with its query."""
    copied: tuple[str, ...] = ()
    """The fields that requests get from its answer and from nobody else."""

    def names(self) -> bytes:
        """The names, as `plain_name` gives them, each after its size."""
        plain = sorted({plain_name(name) for name in self.copied})
        return b"".join(bytes([len(name)]) + name.encode() for name in plain)


class Mirror(NamedTuple):
    """A service that gets copies of requests."""

    service: str
    """"": one that is not there, and gets none."""
    percent: int = 100


class Page(NamedTuple):
    """The body of answers of the gateway's own that have a status from `first` to `last`."""

    first: int
    last: int
    body: bytes
    content_type: str


def page_for(pages: tuple[Page, ...], status: int) -> Page | None:
    """The page of a status: that of the fewest others."""
    found = (page for page in pages if page.first <= status <= page.last)
    return min(found, key=lambda page: page.last - page.first, default=None)


def plain_name(name: str) -> str:
    """A field's name in the form that names are compared in."""
    return name.lower().replace("_", "-")


class BasicAuth(NamedTuple):
    """Who may ask: with a name and its password (RFC 7617)."""

    realm: str
    users: Users

    def challenge(self) -> bytes:
        """The line that asks for them."""
        realm = self.realm.replace("\\", "\\\\").replace('"', '\\"')
        return f'WWW-Authenticate: Basic realm="{realm}", charset="UTF-8"\r\n'.encode()


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
    auth: BasicAuth | None = None
    respond: Respond | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    strip_prefix: str = ""
    """Taken off paths that have it, by elements."""
    add_prefix: str = ""
    request_headers: HeaderEdits = HeaderEdits()
    response_headers: HeaderEdits = HeaderEdits()
    cors: Cors | None = None
    compress: tuple[str, ...] = ()
    """Encodings that responses may have, the best one first."""
    forward_auth: ForwardAuth | None = None
    mirror: Mirror | None = None
    pages: tuple[Page, ...] = ()


def asked_of(filters: Filters) -> list[str]:
    """The services that a route's filters name."""
    return [one.service for one in (filters.forward_auth, filters.mirror) if one is not None]


def check_filters(place: str, filters: Filters) -> None:
    """Raise ValueError, naming the place, for filters that cannot be."""
    for prefix in (*filters.allowed, *filters.denied):
        ipaddress.ip_network(prefix)
    _check_number(place, "in_flight", filters.in_flight, 0, _IN_FLIGHT_MAX)
    _check_number(place, "body_size", filters.body_size, 0, BODY_SIZE_MAX)
    if filters.rate is not None:
        _check_rate(place, filters.rate)
    if filters.auth is not None:
        _check_text(place, filters.auth.realm, _TEXT_SIZE_MAX)
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
        check_edits(place, edits)
    if filters.cors is not None:
        _check_cors(place, filters.cors)
    if any(name not in ENCODINGS for name in filters.compress) or len(filters.compress) > len(
        set(filters.compress)
    ):
        raise ValueError(f"{place}: {filters.compress} is not of different ones of {ENCODINGS}")
    if filters.forward_auth is not None:
        _check_forward_auth(place, filters, filters.forward_auth)
    if filters.mirror is not None:
        _check_number(place, "percent", filters.mirror.percent, 0, 100)
    for page in filters.pages:
        _check_number(place, "status", page.first, 400, page.last)
        _check_number(place, "status", page.last, page.first, 599)
        _check_number(place, "size of the page", len(page.body), 0, RESPOND_SIZE_MAX)
        _check_text(place, page.content_type, _TEXT_SIZE_MAX)


def _check_cors(place: str, cors: Cors) -> None:
    for origin in cors.origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{place}: {origin!r} is no origin")
    for name in (*cors.methods, *cors.headers, *cors.exposed):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{place}: {name!r} is no name of a method or a field")
    _check_number(place, "max_age", cors.max_age_s, 0, _MAX_AGE_MAX_S)
    size = max(len(cors.allowed_lines()), len(cors.exposed_lines()))
    _check_number(place, "size of the fields", size, 0, CORS_LINES_MAX)


def _check_forward_auth(place: str, filters: Filters, auth: ForwardAuth) -> None:
    _check_path(place, auth.path)
    if " " in auth.path or "#" in auth.path:
        raise ValueError(f"{place}: {auth.path!r} is no target of a request")
    check_edits(place, HeaderEdits(remove=auth.copied))
    _check_number(place, "size of the names", len(auth.names()), 0, COPIED_SIZE_MAX)
    if filters.respond or filters.redirect:
        raise ValueError(f"{place}: what is answered without a backend would be so unasked")


def _check_rate(place: str, rate: RateLimit) -> None:
    _check_number(place, "requests", rate.requests, 1, _RATE_MAX)
    _check_number(place, "period", rate.period_ms, 1, _PERIOD_MAX_MS)
    _check_number(place, "burst", rate.burst, 1, _RATE_MAX)
    if rate.header and not _NAME.fullmatch(rate.header):
        raise ValueError(f"{place}: {rate.header!r} is no name of a field")


def check_edits(place: str, *several: HeaderEdits) -> None:
    """Raise ValueError, naming the place, for what cannot be done to one head."""
    for edits in several:
        _check_fields(place, edits)
    size = sum(len(edits.lines()) for edits in several)
    _check_number(place, "size of the fields", size, 0, LINES_SIZE_MAX)


def _check_fields(place: str, edits: HeaderEdits) -> None:
    for name in (*dict((*edits.set, *edits.add)), *edits.remove):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{place}: {name!r} is no name of a field")
        if plain_name(name) in _FRAMING:
            raise ValueError(f"{place}: {name!r} is for the gateway to write")
    for _, text in (*edits.set, *edits.add):
        _check_text(place, text, LINES_SIZE_MAX)


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
