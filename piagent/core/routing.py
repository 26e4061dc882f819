"""HTTP routes: which one a request takes (`core.route_reasons`: why).

The rules of this file are the gateway's; the engine has the same ones in its own language, and a
test holds both together.

Hosts
    `canonical_host`: lower case, the port and one trailing dot taken off. A route's host is ""
    (any), an exact name, or `*.suffix`: the suffix with one label before it (`one-label`) or with
    one and more (`any-depth`), never the bare suffix.
Paths
    `canonical_path`, then compared byte by byte. An exact path is just that: `/a` is not `/a/`. A
    prefix goes by elements, a trailing slash on either side does not count: `/a` and `/a/` both
    match `/a`, `/a/` and `/a/b`, but not `/ab`; `/` matches everything. A regular expression
    (`core.patterns`) is looked for anywhere in the path.
Method, headers, query
    `core.predicates`.
Order
    The first entry that matches wins: exact hosts, then wildcards, then any host; more characters
    in the host before fewer; an exact path before a prefix before a regular expression; more
    elements before fewer; one with methods before one without; more headers before fewer; more
    query parameters before fewer; then the route's name. The order in the file never matters.
"""

from __future__ import annotations

import re
import string
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from piagent.core.entry import Entry
from piagent.core.filters import Filters, HeaderEdits
from piagent.core.model import HashOn, PathKind, Retries, Route, Sticky, Wildcard
from piagent.core.patterns import compile_pattern
from piagent.core.predicates import Predicate, Request, headers_match, query_matches

if TYPE_CHECKING:
    from collections.abc import Iterable

UNRESERVED: Final = frozenset((string.ascii_letters + string.digits + "-._~").encode())
"""RFC 3986, section 2.3: means the same with and without percent-encoding."""
KEPT: Final = UNRESERVED | frozenset(b"/:@!$&'()*+,;=")
"""What may stand in a path as it is: RFC 3986, section 3.3, pchar and the slash."""

_HOST: Final = re.compile(
    r"(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?P<port>:[0-9]{1,5})?"
    r"|(?P<literal>\[[0-9a-f:.]+\])(?P<literal_port>:[0-9]{1,5})?"
)
HOST_LENGTH_MAX: Final = 255
PORT_MAX: Final = 65535


class Target(Struct, frozen=True):
    """Where a share of a route's requests goes."""

    service: str
    """A PlannedService's name; "": one that is not there, its share is answered with 500."""
    weight: int = 1
    request_headers: HeaderEdits = HeaderEdits()
    response_headers: HeaderEdits = HeaderEdits()


DEFAULT: Final = "~default"
"""The name of the route that a gateway's default backend is; no other can have it."""


class PlannedRoute(Struct, frozen=True):
    """One entry of a gateway's match table; entries are in order of precedence."""

    name: str
    host: str
    """"" any host, "a.b" exact, "*.b" wildcard; lower case."""
    path: str
    exact: bool
    targets: tuple[Target, ...]
    """Without one that has a weight the route answers 500."""
    request_timeout_ms: int
    backend_timeout_ms: int
    retries: Retries | None = None
    sticky: Sticky | None = None
    hash_on: HashOn | None = None
    regex: bool = False
    """Whether `path` is a regular expression."""
    methods: tuple[str, ...] = ()
    """Empty: every method."""
    headers: tuple[Predicate, ...] = ()
    query: tuple[Predicate, ...] = ()
    filters: Filters = Filters()

    @property
    def services(self) -> set[str]:
        """All that requests go to, by a plan's names."""
        asked = {one.service for one in self.filters.asked}
        return asked | {target.service for target in self.targets}


class PlannedGateway(Struct, frozen=True):
    """The HTTP router behind some listeners."""

    name: str
    wildcard: Wildcard
    routes: tuple[PlannedRoute, ...]
    merges_slashes: bool = True
    takes_encoded_slash: bool = True
    entry: Entry = Entry()


class RequestProblem(StrEnum):
    """Why a request gets no route."""

    HOST = "malformed host"
    NOT_ABSOLUTE = "the path does not begin with a slash"
    CHARACTER = "a control, white space or non-ASCII character, or a # in the path"
    ESCAPE = "a % in the path is not followed by two hex digits"
    NUL = "an encoded NUL in the path"
    ABOVE_ROOT = "the path leads above the root"
    ENCODED_SLASH = "an encoded slash or backslash in the path, and the gateway takes none"
    NOT_SERVED = "the listener on this port does not serve this host"
    METHOD = "the method is never forwarded"
    ASTERISK = "the target * goes only with OPTIONS"
    NO_ROUTE = "no route matches"
    NO_BACKEND = "the route has no backend"
    FILTER = "a filter of the route answers"


class BadRequestError(ValueError):
    """A host or path that has no canonical form; answered with 400."""

    def __init__(self, problem: RequestProblem) -> None:
        """Take what is wrong."""
        super().__init__(problem.value)
        self.problem = problem


def canonical_host(raw: str) -> str:
    """Return a Host field in its one form: lower case, without port and trailing dot.

    A name is made of labels of letters, digits, `-` and `_`; an IPv6 literal keeps its brackets.
    Raises BadRequestError for anything else, an empty host, and a port that is 0 or above 65535.
    """
    found = _HOST.fullmatch(raw.lower()) if raw.isascii() and len(raw) <= HOST_LENGTH_MAX else None
    if found is None:
        raise BadRequestError(RequestProblem.HOST)
    port = found["port"] or found["literal_port"]
    if port is not None and not 1 <= int(port[1:]) <= PORT_MAX:
        raise BadRequestError(RequestProblem.HOST)
    return found["name"] or found["literal"]


def canonical_path(
    raw: bytes | str, *, merges: bool = True, takes_encoded_slash: bool = True
) -> str:
    r"""Return a request's path (without its query) in its one form; twice is the same as once.

    In this order: `%xx` of an unreserved character is decoded; the other escapes stay, in upper
    case, so an encoded slash or backslash is an ordinary character of its element; a printable
    character that RFC 3986 does not allow in a path (one of "<>[\]^`{|}) is encoded; empty elements
    (`//`) are dropped unless not `merges`; `.` and `..` are resolved. A path that ends in `/`, `/.`
    or `/..` ends in `/` afterwards.

    Raises BadRequestError: no slash at the beginning; a control character, white space, a byte
    above 126 or `#`; a `%` without two hex digits; `%00`; `..` above the root; an encoded slash or
    backslash unless `takes_encoded_slash`. A `?` ends a path, so a caller never passes one; it is
    refused too.
    """
    data = raw.encode("ascii", "replace") if isinstance(raw, str) else raw
    if not data.startswith(b"/"):
        raise BadRequestError(RequestProblem.NOT_ABSOLUTE)
    elements: list[str] = []
    spelled = _respell(data)
    if not takes_encoded_slash and ("%2F" in spelled or "%5C" in spelled):
        raise BadRequestError(RequestProblem.ENCODED_SLASH)
    *inner, last = spelled[1:].split("/")
    for element in (*inner, last):
        if element == "..":
            if not elements:
                raise BadRequestError(RequestProblem.ABOVE_ROOT)
            elements.pop()
        elif element != "." and (element or not merges):
            elements.append(element)
    if not (last or merges):
        elements.pop()
    path = "/" + "/".join(elements)
    is_folder = last in {"", ".", ".."}
    return path + "/" if is_folder and elements else path


def _respell(data: bytes) -> str:
    """Give every character of a path its one spelling."""
    out: list[str] = []
    i = 0
    while i < len(data):
        byte = data[i]
        if byte == ord("%"):
            byte = _escape(data[i + 1 : i + 3])
            out.append(chr(byte) if byte in UNRESERVED else f"%{byte:02X}")
            i += 3
            continue
        if not ord(" ") < byte < 0x7F or byte in b"#?":
            raise BadRequestError(RequestProblem.CHARACTER)
        out.append(chr(byte) if byte in KEPT else f"%{byte:02X}")
        i += 1
    return "".join(out)


def _escape(digits: bytes) -> int:
    if len(digits) < 2 or not all(digit in b"0123456789abcdefABCDEF" for digit in digits):
        raise BadRequestError(RequestProblem.ESCAPE)
    byte = int(digits, 16)
    if byte == 0:
        raise BadRequestError(RequestProblem.NUL)
    return byte


def prefix_of(path: str) -> str:
    """Return a canonical prefix as the table holds it: without its trailing slash, but for `/`."""
    return path.rstrip("/") or "/"


def ordered(routes: Iterable[Route]) -> list[tuple[Route, str]]:
    """Lay out the routes of one gateway as (route, host) in the order of precedence."""
    pairs = ((route, host) for route in routes for host in dict.fromkeys(route.hosts or ("",)))
    return sorted(pairs, key=lambda pair: _precedence(*pair))


def _precedence(route: Route, host: str) -> tuple[object, ...]:
    return (
        host_class(host),
        -len(host),
        _PATH_CLASS[route.path_kind],
        -elements(route.path) if route.path_kind is PathKind.PREFIX else 0,
        not route.methods,
        -len(route.headers),
        -len(route.query),
        route.name,
    )


_PATH_CLASS: Final = {PathKind.EXACT: 0, PathKind.PREFIX: 1, PathKind.REGEX: 2}


def host_class(host: str) -> int:
    """0 for an exact host, 1 for a wildcard, 2 for any host."""
    if not host:
        return 2
    return 1 if host.startswith("*.") else 0


def elements(path: str) -> int:
    """How many elements a prefix has."""
    return len(path.strip("/").split("/")) if path.strip("/") else 0


def host_matches(pattern: str, host: str, wildcard: Wildcard) -> bool:
    """Tell whether a route's host takes in a canonical host."""
    if not pattern:
        return True
    if not pattern.startswith("*."):
        return host == pattern
    suffix = pattern[1:]
    label = host.removesuffix(suffix)
    if label in {host, ""}:
        return False
    return wildcard is Wildcard.ANY_DEPTH or "." not in label


def path_matches(pattern: str, path: str, *, exact: bool) -> bool:
    """Tell whether a table entry's path, no regular expression, takes in a canonical path."""
    if exact or path == pattern:
        return path == pattern
    return pattern == "/" or path.startswith(pattern + "/")


def entry_path_matches(entry: PlannedRoute, path: str) -> bool:
    """Tell whether a table entry takes in a canonical path."""
    if entry.regex:
        return compile_pattern(entry.path).matches(path.encode())
    return path_matches(entry.path, path, exact=entry.exact)


def method_matches(entry: PlannedRoute, method: str) -> bool:
    """Tell whether a table entry takes requests with this method."""
    return not entry.methods or method in entry.methods


def match(gateway: PlannedGateway, request: Request) -> PlannedRoute | None:
    """Return the entry that a request takes."""
    for entry in gateway.routes:
        if _matches(entry, request, gateway.wildcard):
            return entry
    return None


def _matches(entry: PlannedRoute, request: Request, wildcard: Wildcard) -> bool:
    return (
        host_matches(entry.host, request.host, wildcard)
        and entry_path_matches(entry, request.path)
        and method_matches(entry, request.method)
        and headers_match(entry.headers, request)
        and query_matches(entry.query, request)
    )
