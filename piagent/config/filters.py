"""A route's filters: what they must be to each other and to the route, and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import fields

from piagent.config import filter_schema
from piagent.config.asked import build_forward_auth, build_mirror, check_forward_auth
from piagent.config.compress import check_compress
from piagent.config.cors import build_cors, check_cors, check_edits_beside
from piagent.config.error_pages import check_pages
from piagent.config.filter_values import SOURCE, plain_name
from piagent.config.problems import elements, key_path, unique
from piagent.core import filters as model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from piagent.config.filter_schema import (
        BackendFilter,
        Filter,
        HeaderEdits,
        RateLimit,
        Redirect,
        Respond,
        Rewrite,
    )
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import Route

BODILESS = (204, 304)
ANSWERING = ("respond", "redirect")
"""Filters after which no backend is asked."""
REWRITING = ("rewrite", "strip_prefix", "add_prefix")
AT_THE_BACKEND = {
    *("in_flight", "forward_auth", "cors", "compress", "error_pages"),
    *("request_headers", "response_headers", "mirror"),
}
"""Filters of a route that sends requests to a backend or answers them."""
LINES_SIZE_MAX = 4096
"""Bytes of the fields that a filter writes into one head."""


def check_filters(route: Route, path: KeyPath, report: Report) -> None:
    """Check the filters of one route, and of its backends."""
    first = _places(route.filters, path, report)
    for key, place in first.items():
        _check_one(route, key, place, report)
    _check_reach(route, first, report)
    for i, backend in enumerate(route.backends):
        for key, place in _places(backend.filters, (*path, "backends", i), report).items():
            _check_beside(route, key, edits_of(backend.filters, key), place, report)


def _places(
    filters: tuple[Filter | BackendFilter, ...], path: KeyPath, report: Report
) -> dict[str, KeyPath]:
    """Where each is that is there, the first of a kind; two of a kind are an error."""
    first: dict[str, KeyPath] = {}
    for i, one in enumerate(filters):
        place = (*path, "filters", i)
        found = [key for key, _ in _given(one)]
        if len(found) > 1 or not (found or report.has_errors_in(place)):
            what = f"a filter is a table with one key, this one has {len(found)}"
            cure = "write { … }, { … }" if found else 'write { strip_prefix = "/v1" }'
            report.error(place, what, cure)
        for key in found:
            if key in first:
                what = f"there is {key} already, at {key_path(first[key])}"
                report.error((*place, key), what, "one of a kind")
            first.setdefault(key, (*place, key))
    return first


def edits_of(filters: tuple[Filter | BackendFilter, ...], key: str) -> HeaderEdits | None:
    """The edits of that name, request_headers or response_headers, if there are some."""
    return next((value for one in filters if (value := getattr(one, key)) is not None), None)


def _check_beside(
    route: Route, key: str, value: HeaderEdits | None, place: KeyPath, report: Report
) -> None:
    """Check the edits of a backend, which come after those of its route."""
    of_route = edits_of(route.filters, key)
    if value is None:
        return
    _check_edits(value, place, report)
    if key == "response_headers" and any(one.cors is not None for one in route.filters):
        check_edits_beside(value, place, report)
    if of_route is None:
        return
    both = _names(value) & _names(of_route)
    if both:
        what = f"{', '.join(sorted(both))}: the route's {key} has that, too"
        report.error(place, what, "leave one of the two out")
    _check_size((*_written(value), *_written(of_route)), place, report)


def _names(value: HeaderEdits) -> set[str]:
    return {plain_name(name) for name in (*value.set, *value.add, *value.remove)}


def _check_reach(route: Route, places: dict[str, KeyPath], report: Report) -> None:
    """Check that requests come to where something is done with them."""
    order = [field.name for field in fields(filter_schema.Filter)]
    # Pages are for what is answered before, too: to those who may not ask.
    found = sorted(places.keys() - {"error_pages"}, key=order.index)
    by = next((key for key in found if key in ANSWERING), None)
    if by is not None and "forward_auth" in places:
        what = f"{by} answers every request: there is nothing to let pass"
        report.error(places["forward_auth"], what, "leave one of the two out")
    if by is not None:
        for key in found[found.index(by) + 1 :]:
            what = f"{by} answers every request, so none comes here"
            report.error(places[key], what, "leave one of the two out")
        if route.backends:
            what = f"no request comes to the route's backends: {by} answers every one"
            report.warn(places[by], what, "leave one of the two out")
    elif not route.backends and any(key in places for key in REWRITING):
        for key in AT_THE_BACKEND & places.keys():
            what = "the route has no backend: what it rewrites goes on to another route"
            report.error(places[key], what, "write it there")


def needs_no_backend(route: Route) -> bool:
    """Tell whether a filter answers what comes to the route, or leads it to another one."""
    return any(
        getattr(one, key) is not None for one in route.filters for key in (*ANSWERING, *REWRITING)
    )


def _given(one: Filter | BackendFilter) -> Iterator[tuple[str, Any]]:
    for field in fields(one):
        if (value := getattr(one, field.name)) is not None:
            yield field.name, value


def _check_one(route: Route, key: str, place: KeyPath, report: Report) -> None:
    value = next(value for one in route.filters for name, value in _given(one) if name == key)
    if key in {"allow_sources", "deny_sources"}:
        unique(report, elements(place, value), "once is enough")
    elif key == "respond" and value.body and value.status in BODILESS:
        what = f"an answer with status {value.status} has no body (RFC 9110 section 6.4.1)"
        report.error((*place, "body"), what, "leave it out, or another status")
    elif key == "redirect":
        _check_redirect(route, value, place, report)
    elif key == "rewrite":
        _check_rewrite(route, value, place, report)
    elif key in {"request_headers", "response_headers"}:
        _check_edits(value, place, report)
        if key == "response_headers" and any(one.cors is not None for one in route.filters):
            check_edits_beside(value, place, report)
    elif key == "forward_auth":
        check_forward_auth(route, value, place, report)
    elif key == "cors":
        check_cors(route, value, place, report)
    elif key == "compress":
        check_compress(value, place, report)
    elif key == "error_pages":
        check_pages(value, place, report)


def _check_redirect(route: Route, value: Redirect, place: KeyPath, report: Report) -> None:
    named = (value.scheme, value.host, value.port, value.path_full, value.path_prefix)
    if all(one is None for one in named):
        what = "names no other place, so clients would ask here again"
        report.error(place, what, 'write redirect = { scheme = "https" }')
    _check_paths(route, value, place, report)


def _check_rewrite(route: Route, value: Rewrite, place: KeyPath, report: Report) -> None:
    if (value.host, value.path_full, value.path_prefix) == (None, None, None):
        report.error(place, "changes nothing", 'write rewrite = { path_prefix = "/v2" }')
    _check_paths(route, value, place, report)


def _check_edits(value: HeaderEdits, place: KeyPath, report: Report) -> None:
    if not (value.set or value.add or value.remove or report.has_errors_in(place)):
        report.error(place, "changes nothing", 'write { set = { x-from = "piagent" } }')
    for key in ("set", "add", "remove"):
        unique(
            report,
            (((*place, key, i if key == "remove" else name), plain_name(name))
             for i, name in enumerate(getattr(value, key))),
            "case does not matter, and an underscore counts as a dash",
        )  # fmt: skip
    removed = {plain_name(name) for name in value.remove}
    for key in ("set", "add"):
        for name in getattr(value, key):
            if name and plain_name(name) in removed:
                what = f'"{name}" is removed, too, and that comes last'
                report.error((*place, key, name), what, "leave one of the two out")
    _check_size(_written(value), place, report)


def _check_size(fields: tuple[tuple[str, str], ...], place: KeyPath, report: Report) -> None:
    size = sum(len(f"{name}: {text}\r\n") for name, text in fields)
    if size > LINES_SIZE_MAX:
        report.error(place, f"{size} bytes of fields, {LINES_SIZE_MAX} at most", "write fewer")


def _written(value: HeaderEdits) -> tuple[tuple[str, str], ...]:
    return (*value.set.items(), *value.add.items())


def _check_paths(route: Route, value: Redirect | Rewrite, place: KeyPath, report: Report) -> None:
    if value.path_full is not None and value.path_prefix is not None:
        what = "the new path is given twice, path_full has it, too"
        report.error((*place, "path_prefix"), what, "leave one of the two out")
    elif value.path_prefix is not None and (route.path_exact or route.path_regex):
        key = "path_exact" if route.path_exact else "path_regex"
        what = f"stands for the prefix that the route matched, and the route has {key}"
        report.error((*place, "path_prefix"), what, "write path_full")


def build_filters(
    route: Route, pages: tuple[model.ErrorPage, ...] = (), users: model.Users | None = None
) -> model.Filters:
    """The filters of a route that has no problems; `pages` and `users` come from its files."""
    found = {key: value for one in route.filters for key, value in _given(one)}
    respond, redirect, rewrite = map(found.get, ("respond", "redirect", "rewrite"))
    return model.Filters(
        allowed=found.get("allow_sources", ()),
        denied=found.get("deny_sources", ()),
        in_flight=found.get("in_flight", 0),
        rate_limit=_rate(found.get("rate_limit")),
        body_limit=found.get("body_limit", 0),
        basic_auth=None
        if users is None
        else model.BasicAuth(realm=found["basic_auth"].realm, users=users),
        forward_auth=build_forward_auth(found.get("forward_auth")),
        cors=build_cors(found["cors"]) if "cors" in found else None,
        respond=_respond(respond) if respond else None,
        redirect=_redirect(redirect) if redirect else None,
        rewrite=_rewrite(rewrite) if rewrite else None,
        strip_prefix=found.get("strip_prefix", ""),
        add_prefix=found.get("add_prefix", ""),
        request_headers=build_edits(found.get("request_headers")),
        response_headers=build_edits(found.get("response_headers")),
        mirror=build_mirror(found.get("mirror")),
        compress=tuple(str(name) for name in found.get("compress", ())),
        error_pages=pages,
    )


def _rate(value: RateLimit | None) -> model.RateLimit | None:
    if value is None or value.rate is None:
        return None
    requests, period_ms = value.rate
    header = value.key.removeprefix("header:") if value.key != SOURCE else ""
    burst = value.burst or max(1, requests * 1000 // period_ms)
    return model.RateLimit(requests=requests, period_ms=period_ms, burst=burst, header=header)


def _respond(value: Respond) -> model.Respond:
    return model.Respond(status=value.status, body=value.body, content_type=value.content_type)


def _redirect(value: Redirect) -> model.Redirect:
    return model.Redirect(
        scheme=value.scheme or "",
        host=value.host or "",
        port=value.port or 0,
        path=value.path_full if value.path_prefix is None else value.path_prefix,
        by_prefix=value.path_prefix is not None,
        status=value.status,
    )


def _rewrite(value: Rewrite) -> model.Rewrite:
    return model.Rewrite(
        host=value.host or "",
        path=value.path_full if value.path_prefix is None else value.path_prefix,
        by_prefix=value.path_prefix is not None,
    )


def build_edits(value: HeaderEdits | None) -> model.HeaderEdits:
    """The edits that there are; by default none."""
    if value is None:
        return model.HeaderEdits()
    return model.HeaderEdits(
        set=tuple(value.set.items()), add=tuple(value.add.items()), remove=value.remove
    )
