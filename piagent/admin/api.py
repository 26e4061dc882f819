"""What the admin API answers: a request's method and target -> an answer. No sockets here."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol
from urllib.parse import unquote, urlsplit

from piagent.admin import exposition, flow, services
from piagent.admin.answer import (
    TEXT,
    Answer,
    Refused,
    decoded,
    json_answer,
    not_allowed,
    problem,
)
from piagent.admin.services import ServiceSource
from piagent.admin.status import (
    Done,
    DrainNode,
    FlowStatus,
    MoveVip,
    RouteStatus,
    Status,
    Tunnel,
    Why,
)
from piagent.core.flow import FlowQuestion

READS = ("GET", "HEAD")
"""The methods that change nothing."""


class Source(Protocol):
    """Who knows the answers: the agent."""

    @property
    def services(self) -> ServiceSource:
        """Who knows what concerns services."""
        ...

    def status(self) -> Status:
        """The node as a whole."""
        ...

    def routes(self) -> tuple[RouteStatus, ...]:
        """The match tables of all gateways."""
        ...

    def why(self, vip: str) -> Why | None:
        """Who owns a VIP and why; None: there is no such VIP."""
        ...

    def explain(self, asked: FlowQuestion) -> FlowStatus:
        """What becomes of a flow; raises Refused."""
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


async def answer(source: Source, method: str, target: str, body: bytes = b"") -> Answer:
    """The answer to one request; but for FLOW the query is ignored."""
    path = path_of(target)
    writer = WRITES.get(path)
    if writer is not None:
        if method != "POST":
            return not_allowed(method, "POST")
        try:
            return await writer(source, body)
        except Refused as refused:
            return refused.answer
    handler = PATHS.get(path)
    if path.startswith(WHY):
        handler = partial(_why, what=unquote(path[len(WHY) :]))
    if path == FLOW:
        handler = partial(_flow, target=target)
    if handler is None:
        return problem(404, "not found", f"there is no {target[:200]!r}; known: {', '.join(PATHS)}")
    return handler(source) if method in READS else not_allowed(method, *READS)


def takes_body(method: str, target: str) -> bool:
    """Whether the answer depends on what follows the request's head."""
    return method == "POST" and path_of(target) in WRITES


def path_of(target: str) -> str:
    """The path of a request's target."""
    try:
        return urlsplit(target).path
    except ValueError:  # "//[" and the like
        return target


def _healthz(source: Source) -> Answer:
    del source  # that this runs is the answer
    return Answer(200, TEXT, b"ok\n")


def _readyz(source: Source) -> Answer:
    status = source.status()
    if status.ready:
        return Answer(200, TEXT, b"ready\n")
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


def _why(source: Source, what: str) -> Answer:
    found = source.why(what) or source.services.why(what)
    if found is None:
        status = source.status()
        names = [vip.address for vip in status.vips]
        names += [one.name for one in status.services] + [one.name for one in status.gateways]
        known = ", ".join(names)
        detail = f"{what[:64]!r} is no VIP, service or gateway of this node ({known or 'none'})"
        return problem(404, "not found", detail)
    return json_answer(found)


def _flow(source: Source, target: str) -> Answer:
    try:
        return json_answer(source.explain(flow.asked(target)))
    except Refused as refused:
        return refused.answer


async def _move(source: Source, body: bytes) -> Answer:
    wanted = decoded(body, MoveVip)
    return _done(await source.move(wanted.vip, wanted.node))


async def _drain(source: Source, body: bytes) -> Answer:
    wanted = decoded(body, DrainNode)
    return _done(source.drain(wanted.node, drain=wanted.drain))


def _done(why_not: str | None) -> Answer:
    if why_not is not None:
        return problem(409, "not done", why_not)
    return json_answer(Done())


def _of_services(
    writer: Callable[[ServiceSource, bytes], Awaitable[Answer]],
) -> Callable[[Source, bytes], Awaitable[Answer]]:
    return lambda source, body: writer(source.services, body)


def _about_services(reader: Callable[[ServiceSource], object]) -> Callable[[Source], Answer]:
    return lambda source: json_answer(reader(source.services))


WHY = "/api/v1/why/"
"""Followed by a VIP, or the name of a service or gateway."""
FLOW = "/api/v1/flow"
"""With a query (`admin.flow`)."""
TUNNEL = "/api/v1/tunnel"
"""GET; becomes a stream to a backend (`admin.tunnel`)."""
HEALTH = ("/healthz", "/readyz")
"""Whoever reaches the listener may ask these."""
WRITES: dict[str, Callable[[Source, bytes], Awaitable[Answer]]] = {
    "/api/v1/vips/move": _move,
    "/api/v1/nodes/drain": _drain,
    **{path: _of_services(writer) for path, writer in services.WRITES.items()},
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
    **{path: _about_services(reader) for path, reader in services.READS.items()},
}
