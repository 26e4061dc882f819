"""The filter error_pages: the files that a route's own answers have for a body."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from piagent.config import key_files
from piagent.config.filter_values import PAGE_SIZE_MAX
from piagent.core.filters import ErrorPage

if TYPE_CHECKING:
    from pathlib import Path

    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import File, Route

CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}


def check_pages(pages: dict[str, str], place: KeyPath, report: Report) -> None:
    """Check the filter of one route for itself."""
    if not pages and not report.has_errors_in(place):
        report.error(place, "names no page", 'write error_pages = { 503 = "busy.html" }')
    for status, name in pages.items():
        if name and PurePath(name).suffix not in CONTENT_TYPES:
            what = f'"{name}" does not say what it is'
            report.error((*place, status), what, f"name it {', '.join(CONTENT_TYPES)}")


def refuse_pages(route: Route, path: KeyPath, report: Report) -> None:
    """Refuse what cannot be for all nodes: the files are on one."""
    for i, one in enumerate(route.filters):
        if one.error_pages is not None:
            what = "its files are those of one node, and what is applied is for all"
            report.error((*path, "filters", i, "error_pages"), what, "write it in the node's file")


def read_pages(file: File, folder: Path, report: Report) -> dict[str, tuple[ErrorPage, ...]]:
    """Read the files; route -> its pages. `folder`: what paths are relative to."""
    found = {}
    for i, route in enumerate(file.route):
        for j, one in enumerate(route.filters):
            place: KeyPath = ("route", i, "filters", j, "error_pages")
            pages = (one.error_pages or {}).items()
            if pages and not report.has_errors_in(place):
                found[route.name] = tuple(
                    _page(status, name, folder, (*place, status), report) for status, name in pages
                )
    return found


def _page(status: str, name: str, folder: Path, place: KeyPath, report: Report) -> ErrorPage:
    file = key_files.resolve(name, folder)
    body = key_files.read(file, place, report, size_max=PAGE_SIZE_MAX, private=False)
    return ErrorPage(
        first=int(status.replace("x", "0")),
        last=int(status.replace("x", "9")),
        body=body or b"",
        content_type=CONTENT_TYPES[file.suffix],
    )
