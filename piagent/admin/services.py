"""What the admin API answers about services: orders, pools, endpoints, and why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from piagent.admin.answer import Answer, decoded, json_answer, problem
from piagent.admin.status import (
    AppliedStatus,
    Done,
    EndpointStatus,
    PoolStatus,
    RegisterEndpoint,
    RemoveEndpoint,
    WhyService,
)
from piagent.core.applying import REFUSALS, Order, Verdict


class ServiceSource(Protocol):
    """Who knows, and does, what concerns services."""

    async def apply(self, order: Order) -> Verdict:
        """Have the leader do it."""
        ...

    def applied(self) -> tuple[AppliedStatus, ...]:
        """What was applied and is in force."""
        ...

    def pools(self) -> tuple[PoolStatus, ...]:
        """The pools with what they have left."""
        ...

    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """What registered itself, at any node."""
        ...

    def register(self, asked: RegisterEndpoint) -> EndpointStatus | str:
        """Have an endpoint, or why not."""
        ...

    def remove(self, asked: RemoveEndpoint) -> bool:
        """Have it no more; whether it was there."""
        ...

    def why(self, name: str) -> WhyService | None:
        """Why a service or gateway has what it has; None: there is none of that name."""
        ...


async def _apply(source: ServiceSource, body: bytes) -> Answer:
    order = decoded(body, Order)
    verdict = await source.apply(order)
    if verdict.error:
        return problem(503, "not done", verdict.error)
    refused = any(one.result in REFUSALS for one in verdict.outcomes)
    return json_answer(verdict, 409 if refused else 200)


async def _register(source: ServiceSource, body: bytes) -> Answer:
    asked = decoded(body, RegisterEndpoint)
    found = source.register(asked)
    return problem(409, "not done", found) if isinstance(found, str) else json_answer(found)


async def _remove(source: ServiceSource, body: bytes) -> Answer:
    asked = decoded(body, RemoveEndpoint)
    if not source.remove(asked):
        return problem(404, "not found", "no such endpoint is registered at this node")
    return json_answer(Done())


WRITES: Final[dict[str, Callable[[ServiceSource, bytes], Awaitable[Answer]]]] = {
    "/api/v1/apply": _apply,
    "/api/v1/endpoints/register": _register,
    "/api/v1/endpoints/remove": _remove,
}
"""POST with a JSON body."""
READS: Final[dict[str, Callable[[ServiceSource], Any]]] = {
    "/api/v1/applied": lambda source: source.applied(),
    "/api/v1/pools": lambda source: source.pools(),
    "/api/v1/endpoints": lambda source: source.endpoints(),
}
