"""What the admin API answers: a request's method and target -> an answer. No sockets here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from piagent.admin import exposition
from piagent.admin.status import ApiError, RouteStatus, Status

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_METHODS = ("GET", "HEAD")


class Source(Protocol):
    """Who knows the answers: the agent."""

    def status(self) -> Status:
        """The node as a whole."""
        ...

    def routes(self) -> tuple[RouteStatus, ...]:
        """The match tables of all gateways."""
        ...

    def metrics(self) -> Iterable[exposition.Family]:
        """Every metric."""
        ...


class Answer(Struct, frozen=True):
    """A response before it becomes bytes."""

    status: int
    content_type: str
    body: bytes
    allow: str | None = None
    """The `Allow` header of a 405."""


def answer(source: Source, method: str, target: str) -> Answer:
    """The answer to one request; the query is ignored."""
    handler = PATHS.get(_path(target))
    if handler is None:
        return problem(404, "not found", f"there is no {target[:200]!r}; known: {', '.join(PATHS)}")
    if method not in _METHODS:
        refusal = problem(405, "method not allowed", f"{method[:20]!r}: use GET or HEAD")
        return msgspec.structs.replace(refusal, allow=", ".join(_METHODS))
    return handler(source)


def problem(status: int, error: str, detail: str) -> Answer:
    """An error in the API's form: {error, detail}."""
    return Answer(status, _JSON, _json(ApiError(error, detail)))


def _path(target: str) -> str:
    try:
        return urlsplit(target).path
    except ValueError:  # "//[" and the like
        return target


def _json(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _healthz(source: Source) -> Answer:
    del source  # that this runs is the answer
    return Answer(200, _TEXT, b"ok\n")


def _readyz(source: Source) -> Answer:
    status = source.status()
    if status.ready:
        return Answer(200, _TEXT, b"ready\n")
    return problem(503, "not ready", status.reason)


def _metrics(source: Source) -> Answer:
    return Answer(200, exposition.CONTENT_TYPE, exposition.render(source.metrics()))


def _status(source: Source) -> Answer:
    return Answer(200, _JSON, _json(source.status()))


def _vips(source: Source) -> Answer:
    return Answer(200, _JSON, _json(source.status().vips))


def _services(source: Source) -> Answer:
    return Answer(200, _JSON, _json(source.status().services))


def _routes(source: Source) -> Answer:
    return Answer(200, _JSON, _json(source.routes()))


PATHS: dict[str, Callable[[Source], Answer]] = {
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/metrics": _metrics,
    "/api/v1/status": _status,
    "/api/v1/vips": _vips,
    "/api/v1/services": _services,
    "/api/v1/routes": _routes,
}
