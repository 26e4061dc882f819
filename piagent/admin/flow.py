"""What becomes of a flow: `GET /api/v1/flow?src=10.0.0.9:51234&dst=10.0.0.1:80&proto=tcp`.

`&size=1400` and `&bpf=1` are about flows that are forwarded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from piagent.admin.answer import Refused
from piagent.admin.status import (
    CarriedFlow,
    FlowBackend,
    FlowStatus,
    ForwardBackend,
    ForwardChange,
    ForwardStatus,
    ProgramRun,
)
from piagent.core.flow import FlowQuestion, flow_of
from piagent.core.model import host_port

_KEYS: Final = ("src", "dst", "proto")
_MORE: Final = frozenset({"size", "bpf"})
_SIZE_MAX: Final = 65535


def asked(target: str) -> FlowQuestion:
    """What a request's target asks about; raises Refused."""
    try:
        given = parse_qsl(urlsplit(target).query, keep_blank_values=True, max_num_fields=8)
    except ValueError as error:
        raise Refused(400, "bad request", f"not a query: {error}") from None
    values = dict(given)
    if len(values) < len(given) or values.keys() - _MORE != set(_KEYS):
        what = (
            "the query is src=ADDRESS:PORT, dst=ADDRESS:PORT and proto=tcp or udp, each once, and"
            " perhaps size=BYTES and bpf=1"
        )
        raise Refused(400, "bad request", what)
    try:
        flow = flow_of(*(values[key] for key in _KEYS))
    except ValueError as error:
        raise Refused(400, "bad request", str(error)) from None
    return FlowQuestion(flow=flow, size=_size(values.get("size")), bpf=_flag(values.get("bpf")))


def _size(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) <= _SIZE_MAX):
        raise Refused(400, "bad request", f"size={text[:64]}: bytes, 1 to {_SIZE_MAX}")
    return int(text)


def _flag(text: str | None) -> bool:
    if text not in {None, "0", "1"}:
        raise Refused(400, "bad request", f"bpf={(text or '')[:64]}: 0 or 1")
    return text == "1"


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


def forwarded_status(
    asked: FlowQuestion, told: Mapping[str, Any], *, node: str, vip: bool, owner: str | None
) -> FlowStatus:
    """The same of a flow that is forwarded; `told`: what `Forwarding.explain` says."""
    flow = asked.flow
    udp = "/udp" if flow.protocol == "udp" else ""
    same = ("service", "allowed", "affinity", "hash", "entry", "table", "chosen")
    return FlowStatus(
        node=node,
        vip=vip,
        owner=owner,
        listener=f"{host_port(flow.dst, flow.dst_port)}{udp}",
        gateway=None,
        header=False,
        policy="maglev",
        remembered=None,
        orders=(),
        backends=(),
        forward=_forward(told),
        **{key: told[key] for key in same},
    )


def _forward(told: Mapping[str, Any]) -> ForwardStatus:
    carried, runs = told["carried"], told["bpf"]
    same = (
        "how",
        "verdict",
        "kind",
        "remembers_ms",
        "interface",
        "mtu",
        "answer_mtu",
        "flow_cache",
        "cache_reason",
    )
    return ForwardStatus(
        mac=told["mac"].hex(":"),
        changes=tuple(ForwardChange(*each) for each in told["changes"]),
        frame_in=told["frame_in"].hex(),
        frame_out=told["frame_out"].hex(),
        answer=told["answer"].hex(),
        backends=tuple(ForwardBackend(**each) for each in told["backends"]),
        carried=None if carried is None else CarriedFlow(**carried),
        bpf=None if runs is None else tuple(ProgramRun(**each) for each in runs),
        **{key: told[key] for key in same},
    )
