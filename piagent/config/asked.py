"""Filters that need another service than the route's backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piagent.config.filter_schema import Mirror
from piagent.config.filter_values import plain_name
from piagent.config.problems import unique
from piagent.core import filters as model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piagent.config.filter_schema import BackendFilter, Filter, ForwardAuth
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import Route, Service

COPIED_SIZE_MAX: Final = 1024
"""Bytes of the names that one filter copies, and one for each of them."""


def check_forward_auth(route: Route, value: ForwardAuth, place: KeyPath, report: Report) -> None:
    """Check one for itself and beside the other filters; which services there are is not known."""
    names = {plain_name(name) for name in value.copy_headers}
    unique(
        report,
        (((*place, "copy_headers", i), plain_name(name))
         for i, name in enumerate(value.copy_headers)),
        "case does not matter, and an underscore counts as a dash",
    )  # fmt: skip
    size = sum(len(name) + 1 for name in names)
    if size > COPIED_SIZE_MAX:
        what = f"{size} bytes of names, {COPIED_SIZE_MAX} at most"
        report.error((*place, "copy_headers"), what, "copy fewer")
    edited = _edited(route.filters)
    for backend in route.backends:
        edited |= _edited(backend.filters)
    edited &= names
    if edited:
        what = f"{', '.join(sorted(edited))}: a request_headers of the route is about that, too"
        report.error((*place, "copy_headers"), what, "leave one of the two out")


def _edited(filters: tuple[Filter | BackendFilter, ...]) -> set[str]:
    """The names that are set, added or removed."""
    return {
        plain_name(name)
        for one in filters
        if (edits := one.request_headers) is not None
        for name in (*edits.set, *edits.add, *edits.remove)
    }


def asked_by(route: Route, path: KeyPath) -> Iterator[tuple[KeyPath, ForwardAuth | Mirror]]:
    """Yield what names a service, and where."""
    for i, one in enumerate(route.filters):
        if one.forward_auth is not None:
            yield (*path, "filters", i, "forward_auth"), one.forward_auth
        if one.mirror is not None:
            yield (*path, "filters", i, "mirror"), one.mirror


def check_asked(
    asked: ForwardAuth | Mirror, service: Service | None, place: KeyPath, report: Report
) -> None:
    """Check that the service can take what comes."""
    if not isinstance(asked, Mirror) or service is None:
        return
    if service.proxy_protocol is not None:
        what = f'a PROXY header tells "{asked.service}" who has connected: nobody, for a copy'
        report.error((*place, "service"), what, "a service without proxy_protocol")


def build_mirror(value: Mirror | None) -> model.Mirror | None:
    """The model of one."""
    if value is None:
        return None
    return model.Mirror(service=value.service, port=value.port, percent=value.percent)


def build_forward_auth(value: ForwardAuth | None) -> model.ForwardAuth | None:
    """The model of one."""
    if value is None:
        return None
    return model.ForwardAuth(
        service=value.service,
        port=value.port,
        path=value.path,
        copy_headers=value.copy_headers,
    )
