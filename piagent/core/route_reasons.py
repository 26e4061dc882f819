"""Why a request takes the route that it takes, and which routes none can take."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from piagent.core.model import Wildcard
from piagent.core.predicates import Request, headers_match, query_matches
from piagent.core.routing import (
    DEFAULT,
    BadRequestError,
    PlannedGateway,
    PlannedRoute,
    RequestProblem,
    canonical_host,
    canonical_path,
    elements,
    entry_path_matches,
    host_class,
    host_matches,
    match,
    method_matches,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Shadow(Struct, frozen=True):
    """An entry that no request can reach."""

    route: str
    host: str
    by: str
    """The route that takes all its requests, or one of several that do so together."""


def shadows(table: Sequence[PlannedRoute]) -> tuple[Shadow, ...]:
    """Find the entries that can never win.

    An entry takes all requests of one that comes later if it has the same host and asks for nothing
    that the other does not ask for. In the order of precedence that can only be one with the same
    path and equal headers and query parameters, whose methods include the other's; several of them
    may have these together. And before a regular expression, prefixes that take every path. What
    two regular expressions have in common is not looked into.
    """
    groups: dict[tuple[object, ...], list[PlannedRoute]] = {}
    found = []
    for entry in table:
        by = next(_hiding(entry, groups), None)
        if by is not None:
            found.append(Shadow(entry.name, entry.host, by))
        groups.setdefault(_asks(entry), []).append(entry)
        if entry.path == "/" and not entry.exact:
            groups.setdefault((entry.host,), []).append(entry)
    return tuple(found)


def _asks(entry: PlannedRoute) -> tuple[object, ...]:
    kind = (entry.exact, entry.regex)
    return entry.host, entry.path, kind, frozenset(entry.headers), frozenset(entry.query)


def _hiding(
    entry: PlannedRoute, groups: dict[tuple[object, ...], list[PlannedRoute]]
) -> Iterator[str]:
    """Yield the first of those that take all of an entry's requests."""
    alike = groups.get(_asks(entry), ())
    wider = groups.get((entry.host,), ()) if entry.regex else ()
    for before in (*alike, *wider):
        if not before.methods and _includes(entry, before):
            yield before.name
    both = [one for one in (*alike, *wider) if _includes(entry, one)]
    if entry.methods and set(entry.methods) <= {name for one in both for name in one.methods}:
        yield next(one.name for one in both if {*one.methods} & {*entry.methods})


def _includes(entry: PlannedRoute, other: PlannedRoute) -> bool:
    return {*other.headers} <= {*entry.headers} and {*other.query} <= {*entry.query}


class Criterion(StrEnum):
    """Why an entry lost to the one that won, or to nobody."""

    HOST = "its host does not match"
    PATH = "its path does not match"
    METHOD = "it does not take this method"
    HEADERS = "its headers do not match"
    QUERY = "its query parameters do not match"
    DEFAULT = "the default backend comes after every route"
    HOST_CLASS = "an exact host comes before a wildcard, and both before any host"
    HOST_LENGTH = "the longer host wins"
    PATH_CLASS = "an exact path comes before a prefix, and both before a regular expression"
    PREFIX_LENGTH = "the longer prefix wins"
    METHODS = "a route with methods comes before one without"
    HEADER_COUNT = "the one with more headers wins"
    QUERY_COUNT = "the one with more query parameters wins"
    NAME = "all else is equal, so the names decide"


class Loser(Struct, frozen=True):
    """A route that was not taken: its entry that came closest, and what decided."""

    entry: PlannedRoute
    criterion: Criterion


class Explanation(Struct, frozen=True):
    """What becomes of a request, and why."""

    gateway: str
    method: str
    host: str
    """Canonical; as it came when it is malformed."""
    path: str
    """Canonical; as it came when it is malformed."""
    sent: str
    """The path as it came."""
    status: int
    """What the gateway answers by itself; 0: it forwards the request."""
    problem: RequestProblem | None
    """Why it answers by itself."""
    winner: PlannedRoute | None
    losers: tuple[Loser, ...]
    """In the order of precedence."""


def explain(
    gateway: PlannedGateway,
    method: str,
    host: str,
    target: str,
    headers: tuple[tuple[str, bytes], ...] = (),
    *,
    served: tuple[str, ...] = (),
) -> Explanation:
    """Explain which route a request takes.

    `host` is the Host field and `target` the request target as they come: `/path?query`, or `*`
    with OPTIONS, which is matched as `/`; `headers`: the others; `served`: the hosts that the
    listener serves, none: every one.
    """
    path, _, query = target.partition("?")
    if method in {"CONNECT", "TRACE"}:
        return _refused(gateway, (method, host, path, path), 405, RequestProblem.METHOD)
    if path == "*" and method != "OPTIONS":
        return _refused(gateway, (method, host, path, path), 400, RequestProblem.ASTERISK)
    sent = path
    try:
        host = canonical_host(host)
        path = "/" if path == "*" else _canonical(gateway, path)
    except BadRequestError as bad:
        return _refused(gateway, (method, host, path, sent), 400, bad.problem)
    if served and not any(host_matches(one, host, gateway.wildcard) for one in served):
        return _refused(gateway, (method, host, path, sent), 404, RequestProblem.NOT_SERVED)
    request = Request(host, path, method, query.encode("utf-8", "surrogateescape"), headers)
    winner = match(gateway, request)
    if winner is not None and winner.filters.rewrites and not _has_backend(winner):
        # It leads to another route, once (docs/reference/http.md).
        rewrite = winner.filters.rewrite
        host = (rewrite.host if rewrite else "") or host
        path = winner.filters.rewritten(path, winner.path)
        request = Request(host, path, method, request.query, headers)
        winner = match(gateway, request)
    losers = _losers(gateway, request, winner)
    status, problem = 0, None
    if winner is None:
        status, problem = 404, RequestProblem.NO_ROUTE
    elif winner.filters.status:
        status, problem = winner.filters.status, RequestProblem.FILTER
    elif not _has_backend(winner):
        status, problem = 500, RequestProblem.NO_BACKEND
    return Explanation(gateway.name, method, host, path, sent, status, problem, winner, losers)


def _canonical(gateway: PlannedGateway, path: str) -> str:
    return canonical_path(
        path,
        merges=gateway.merges_slashes,
        takes_encoded_slash=gateway.takes_encoded_slash,
    )


def _has_backend(route: PlannedRoute) -> bool:
    return any(target.service and target.weight for target in route.targets)


def _refused(
    gateway: PlannedGateway,
    request: tuple[str, str, str, str],
    status: int,
    problem: RequestProblem,
) -> Explanation:
    return Explanation(gateway.name, *request, status, problem, None, ())


def _losers(
    gateway: PlannedGateway, request: Request, winner: PlannedRoute | None
) -> tuple[Loser, ...]:
    closest: dict[str, Loser] = {}
    for entry in gateway.routes:
        if winner is not None and entry.name == winner.name:
            continue
        loser = Loser(entry, _criterion(gateway.wildcard, entry, request, winner))
        before = closest.get(entry.name)
        if before is None or _RANK[before.criterion] < _RANK[loser.criterion]:
            closest[entry.name] = loser
    return tuple(closest.values())


def _criterion(
    wildcard: Wildcard, entry: PlannedRoute, request: Request, winner: PlannedRoute | None
) -> Criterion:
    missed = next(_misses(wildcard, entry, request), None)
    if missed is not None or winner is None:
        return missed or Criterion.NAME
    decides = {
        Criterion.DEFAULT: entry.name == DEFAULT,
        Criterion.HOST_CLASS: host_class(entry.host) != host_class(winner.host),
        Criterion.HOST_LENGTH: len(entry.host) != len(winner.host),
        Criterion.PATH_CLASS: (entry.exact, entry.regex) != (winner.exact, winner.regex),
        Criterion.PREFIX_LENGTH: not entry.regex and elements(entry.path) != elements(winner.path),
        Criterion.METHODS: bool(entry.methods) != bool(winner.methods),
        Criterion.HEADER_COUNT: len(entry.headers) != len(winner.headers),
        Criterion.QUERY_COUNT: len(entry.query) != len(winner.query),
        Criterion.NAME: True,
    }
    return next(criterion for criterion, differs in decides.items() if differs)


def _misses(wildcard: Wildcard, entry: PlannedRoute, request: Request) -> Iterator[Criterion]:
    if not host_matches(entry.host, request.host, wildcard):
        yield Criterion.HOST
    if not entry_path_matches(entry, request.path):
        yield Criterion.PATH
    if not method_matches(entry, request.method):
        yield Criterion.METHOD
    if not headers_match(entry.headers, request):
        yield Criterion.HEADERS
    if not query_matches(entry.query, request):
        yield Criterion.QUERY


_RANK: Final = {criterion: rank for rank, criterion in enumerate(Criterion)}
"""How close to winning each criterion lets an entry come; they stand in that order."""
