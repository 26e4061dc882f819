"""What the admin API answers: a request's method and target -> an answer. No sockets here."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from piagent.admin import exposition
from piagent.admin.status import (
    ApiError,
    Done,
    DrainNode,
    MoveVip,
    RouteStatus,
    Status,
    Tunnel,
    Why,
)

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
READS = ("GET", "HEAD")
"""The methods that change nothing."""


class Source(Protocol):
    """Who knows the answers: the agent."""

    def status(self) -> Status:
        """The node as a whole."""
        ...

    def routes(self) -> tuple[RouteStatus, ...]:
        """The match tables of all gateways."""
        ...

    def why(self, vip: str) -> Why | None:
        """Who owns a VIP and why; None: there is no such VIP."""
        ...

    async def move(self, vip: str, node: str) -> str | None:
        """Move a VIP; None when it is there, else why not."""
        ...

    def drain(self, node: str, *, drain: bool) -> str | None:
        """Drain a node (empty: this one), or have it take part again; why not, or None."""
        ...

    def metrics(self) -> Iterable[exposition.Family]:
        """Every metric."""
        ...

    def tunnel(self, service: str, port: str, backend: str) -> Tunnel:
        """Where a tunnel leads (`admin.tunnel.way`); raises Refused."""
        ...

    def relay(self, client: socket.socket, backend: socket.socket) -> None:
        """Carry bytes both ways until both have ended; both sockets belong to it from now on.

        Raises OSError when it takes no more; both are the caller's still.
        """
        ...


class Answer(Struct, frozen=True):
    """A response before it becomes bytes."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """More of them, as `Allow` of a 405."""


class Refused(Exception):
    """Ends a request that cannot be done with the answer that says why."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        """Take the parts of an ApiError."""
        super().__init__(detail)
        self.answer = problem(status, error, detail)


async def answer(source: Source, method: str, target: str, body: bytes = b"") -> Answer:
    """The answer to one request; the query is ignored."""
    path = path_of(target)
    writer = WRITES.get(path)
    if writer is not None:
        return await writer(source, body) if method == "POST" else not_allowed(method, "POST")
    handler = PATHS.get(path)
    if path.startswith(WHY):
        handler = partial(_why, vip=path[len(WHY) :])
    if handler is None:
        return problem(404, "not found", f"there is no {target[:200]!r}; known: {', '.join(PATHS)}")
    return handler(source) if method in READS else not_allowed(method, *READS)


def takes_body(method: str, target: str) -> bool:
    """Whether the answer depends on what follows the request's head."""
    return method == "POST" and path_of(target) in WRITES


def not_allowed(method: str, *allowed: str) -> Answer:
    """A 405."""
    refusal = problem(405, "method not allowed", f"{method[:20]!r}: use {' or '.join(allowed)}")
    return with_header(refusal, "Allow", ", ".join(allowed))


def with_header(reply: Answer, name: str, value: str) -> Answer:
    """The same answer with one header more."""
    return msgspec.structs.replace(reply, headers=(*reply.headers, (name, value)))


def problem(status: int, error: str, detail: str) -> Answer:
    """An error in the API's form: {error, detail}."""
    return json_answer(ApiError(error, detail), status)


def path_of(target: str) -> str:
    """The path of a request's target."""
    try:
        return urlsplit(target).path
    except ValueError:  # "//[" and the like
        return target


def json_answer(value: object, status: int = 200) -> Answer:
    """A value in JSON."""
    return Answer(status, _JSON, msgspec.json.encode(value) + b"\n")


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
    return json_answer(source.status())


def _vips(source: Source) -> Answer:
    return json_answer(source.status().vips)


def _services(source: Source) -> Answer:
    return json_answer(source.status().services)


def _routes(source: Source) -> Answer:
    return json_answer(source.routes())


def _why(source: Source, vip: str) -> Answer:
    found = source.why(vip)
    if found is None:
        known = ", ".join(each.address for each in source.status().vips) or "none"
        return problem(404, "not found", f"{vip[:64]!r} is not a VIP of this node ({known})")
    return json_answer(found)


async def _move(source: Source, body: bytes) -> Answer:
    try:
        wanted = msgspec.json.decode(body, type=MoveVip)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return problem(400, "bad request", f"the body is not {{vip, node}}: {error}"[:300])
    return _done(await source.move(wanted.vip, wanted.node))


async def _drain(source: Source, body: bytes) -> Answer:
    try:
        wanted = msgspec.json.decode(body, type=DrainNode)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return problem(400, "bad request", f"the body is not {{node, drain}}: {error}"[:300])
    return _done(source.drain(wanted.node, drain=wanted.drain))


def _done(why_not: str | None) -> Answer:
    if why_not is not None:
        return problem(409, "not done", why_not)
    return json_answer(Done())


WHY = "/api/v1/why/"
"""Followed by a VIP."""
TUNNEL = "/api/v1/tunnel"
"""GET; becomes a stream to a backend (`admin.tunnel`)."""
HEALTH = ("/healthz", "/readyz")
"""Whoever reaches the listener may ask these."""
WRITES: dict[str, Callable[[Source, bytes], Awaitable[Answer]]] = {
    "/api/v1/vips/move": _move,
    "/api/v1/nodes/drain": _drain,
}
"""What changes something: POST with a JSON body."""
PATHS: dict[str, Callable[[Source], Answer]] = {
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/metrics": _metrics,
    "/api/v1/status": _status,
    "/api/v1/vips": _vips,
    "/api/v1/services": _services,
    "/api/v1/routes": _routes,
}
