"""What becomes of a flow: `GET /api/v1/flow?src=10.0.0.9:51234&dst=10.0.0.1:80&proto=tcp`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from piagent.admin.answer import Refused
from piagent.admin.status import FlowBackend, FlowStatus
from piagent.core.flow import Flow, flow_of

_KEYS: Final = ("src", "dst", "proto")


def asked(target: str) -> Flow:
    """The flow that a request's target asks about; raises Refused."""
    try:
        given = parse_qsl(urlsplit(target).query, keep_blank_values=True, max_num_fields=8)
    except ValueError as error:
        raise Refused(400, "bad request", f"not a query: {error}") from None
    values = dict(given)
    if len(values) < len(given) or values.keys() != set(_KEYS):
        what = "the query is src=ADDRESS:PORT, dst=ADDRESS:PORT and proto=tcp or udp, each once"
        raise Refused(400, "bad request", what)
    try:
        return flow_of(*(values[key] for key in _KEYS))
    except ValueError as error:
        raise Refused(400, "bad request", str(error)) from None


def flow_status(told: Mapping[str, Any], *, node: str, vip: bool, owner: str | None) -> FlowStatus:
    """Put the answer together; `told`: what `DataPlane.explain` says."""
    rest = {key: value for key, value in told.items() if key not in {"backends", "orders"}}
    return FlowStatus(
        node=node,
        vip=vip,
        owner=owner,
        orders=tuple(map(tuple, told["orders"] or ())),
        backends=tuple(
            FlowBackend(name=name, **each) for name, each in (told["backends"] or {}).items()
        ),
        **rest,
    )
