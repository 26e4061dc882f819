"""What a route asks of a request, as far as one value cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.config.problems import elements, unique
from piagent.core.model import EncodedSlash
from piagent.core.predicates import PREDICATES_MAX
from piagent.core.routing import canonical_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import Gateway, HeaderMatch, QueryMatch, Route


def check_predicates(route: Route, path: KeyPath, report: Report) -> None:
    """Check path, methods, headers and query parameters."""
    paths = [key for key in ("path_prefix", "path_exact", "path_regex") if getattr(route, key)]
    for key in paths[1:]:
        what = f"a route has one path, this one also has {paths[0]}"
        report.error((*path, key), what, "leave one out, or write two routes")
    unique(report, elements((*path, "methods"), route.methods), "once is enough")
    for key in ("methods", "headers", "query"):
        if len(getattr(route, key)) > PREDICATES_MAX:
            what = f"{len(getattr(route, key))} of them, {PREDICATES_MAX} at most"
            report.error((*path, key), what, "several routes, or a regular expression")
    asked: list[tuple[KeyPath, HeaderMatch | QueryMatch]] = [
        *(((*path, "headers", name), one) for name, one in route.headers.items()),
        *(((*path, "query", name), one) for name, one in route.query.items()),
    ]
    for place, one in asked:
        if (one.exact is None) == (one.regex is None):
            cure = 'write "yes", or { regex = "^y" }; { regex = "" } takes every value'
            report.error(place, "expected exactly one of exact and regex", cure)


def check_spelling(route: Route, gateway: Gateway, path: KeyPath, report: Report) -> None:
    """Check that the gateway's requests can have the path."""
    for key in ("path_prefix", "path_exact"):
        text = getattr(route, key) or ""
        if "//" in text and gateway.merge_slashes:
            cure = f'write "{canonical_path(text)}", or merge_slashes = false for the gateway'
            report.error((*path, key), f'"{text}" is never requested', cure)
        if gateway.encoded_slash is EncodedSlash.REJECT and {"%2F", "%5C"} & {*_escapes(text)}:
            what = f'"{text}" is never taken: the gateway answers it with 400'
            report.error((*path, key), what, 'write encoded_slash = "keep" for the gateway')


def _escapes(text: str) -> Iterator[str]:
    return (text[i : i + 3] for i, sign in enumerate(text) if sign == "%")
