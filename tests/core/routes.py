"""Routes and the tables that are made of them."""

from __future__ import annotations

from typing import Any

from piagent.core.model import PathKind, Route, RouteBackend, Wildcard
from piagent.core.routing import PlannedGateway, PlannedRoute, Target, ordered, prefix_of


def route(
    name: str, path: str, *hosts: str, exact: bool = False, regex: bool = False, **asks: Any
) -> Route:
    """A route to a service of its name; `asks`: methods, headers, query."""
    kind = PathKind.REGEX if regex else PathKind.EXACT if exact else PathKind.PREFIX
    backends = (RouteBackend(service=name),)
    return Route(
        name=name, gateway="g", hosts=hosts, path_kind=kind, path=path, backends=backends, **asks
    )


def gateway(*routes: Route, wildcard: Wildcard = Wildcard.ONE_LABEL) -> PlannedGateway:
    """The table of a gateway, as the plan makes it."""
    entries = tuple(
        PlannedRoute(
            name=route.name,
            host=host,
            path=prefix_of(route.path) if route.path_kind is PathKind.PREFIX else route.path,
            exact=route.path_kind is PathKind.EXACT,
            targets=() if route.name == "empty" else (Target(f"{route.name}:80"),),
            request_timeout_ms=0,
            backend_timeout_ms=0,
            regex=route.path_kind is PathKind.REGEX,
            methods=route.methods,
            headers=route.headers,
            query=route.query,
            filters=route.filters,
        )
        for route, host in ordered(routes)
    )
    return PlannedGateway("g", wildcard, entries)
