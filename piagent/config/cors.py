"""The filter cors: what its lists must be to each other and to the route, and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.config.filter_values import ANY, plain_name
from piagent.config.problems import elements, unique
from piagent.core import filters as model

if TYPE_CHECKING:
    from piagent.config.filter_schema import Cors, HeaderEdits
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import Route

LINES_SIZE_MAX = 2048
"""Bytes of what preflights are told, and of what other responses say."""
_LISTS = ("allow_origins", "allow_methods", "allow_headers", "expose_headers")


def check_cors(route: Route, value: Cors, place: KeyPath, report: Report) -> None:
    """Check the filter of one route."""
    for key in _LISTS:
        found = getattr(value, key)
        unique(report, elements((*place, key), found), "once is enough")
        if ANY in found and len(found) > 1:
            report.error((*place, key), '"*" is all of them already', "leave the others out")
    if value.max_age % 1000:
        report.error((*place, "max_age"), "browsers count whole seconds", 'write "5s"')
    told = sum(len(each) + 2 for each in (*value.allow_methods, *value.allow_headers))
    if max(told, sum(len(each) + 2 for each in value.expose_headers)) > LINES_SIZE_MAX - 200:
        what = "names more methods and headers than fit into a response"
        report.error(place, what, f'{LINES_SIZE_MAX} bytes at most; or write "*"')
    if value.allow_credentials:
        _check_credentials(value, place, report)
    if route.methods and "OPTIONS" not in route.methods:
        what = "browsers ask by OPTIONS first, and the route's methods do not have it"
        report.warn(place, what, 'add "OPTIONS" to methods')


def _check_credentials(value: Cors, place: KeyPath, report: Report) -> None:
    if ANY in value.expose_headers:
        what = 'with allow_credentials browsers do not take "*" for all'
        report.error((*place, "expose_headers"), what, "name the headers")
    if ANY in value.allow_origins:
        what = "every page may ask in the name of who looks at it, and read the answer"
        report.warn((*place, "allow_origins"), what, "name the origins, or leave credentials out")


def check_edits_beside(value: HeaderEdits, place: KeyPath, report: Report) -> None:
    """Check that nothing else writes what the filter writes."""
    for key in ("set", "add", "remove"):
        for i, name in enumerate(getattr(value, key)):
            if plain_name(name).startswith("access-control-"):
                where = (*place, key, i if key == "remove" else name)
                report.error(where, f'"{name}" is what cors writes', "leave one of the two out")


def build_cors(value: Cors) -> model.Cors:
    """The model of a filter that has no problems."""
    return model.Cors(
        origins=value.allow_origins,
        methods=value.allow_methods,
        headers=value.allow_headers,
        exposed=value.expose_headers,
        max_age_ms=value.max_age,
        credentials=value.allow_credentials,
    )
