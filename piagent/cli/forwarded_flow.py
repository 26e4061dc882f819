"""What `piagent flow explain` says of a flow whose packets are forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piagent.cli.output import columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piagent.admin.status import (
        CarriedFlow,
        FlowStatus,
        ForwardBackend,
        ForwardChange,
        ForwardStatus,
        ProgramRun,
    )
    from piagent.core.flow import Flow

_HOWS: Final = {
    "nat": "by nat",
    "dsr": "by dsr, to the backend's hardware address",
    "ipip": "by dsr, in an outer IP header",
}
_DROPPED: Final = {
    "no-backend": "no backend is usable and can be reached from here",
    "no-port": "no port is left that nat could connect from",
    "draining": "the VIP is on its way to another node, and only flows that are known go on",
    "expired": "its hop limit ends here, and its sender is told so",
    "unwritten": "nobody translates between IPv4 and IPv6",
    "no-flow": "it is part of nothing that is known",
    "malformed": "nobody should carry it",
}
"""Why, by verdict; those that need more words have them below."""
_PASSED_OVER: Final = {
    "down": "gets nothing new",
    "weight": "gets nothing new: its weight is 0",
    "client": "is the client itself, and would take its own address for a forged one",
}


def by_maglev(told: FlowStatus) -> str:
    """Say which entry of the table it is."""
    what = "client's address" if told.affinity else "flow"
    return f"maglev, the {what} has hash {told.hash}, entry {told.entry}, which is {told.table}'s"


def lines(flow: Flow, told: FlowStatus, forward: ForwardStatus) -> Iterator[str]:
    """What follows the place that it comes to."""
    yield f"is forwarded {_HOWS.get(forward.how, forward.how)}; if it is a new flow:"
    yield _fate(flow, told, forward)
    if forward.remembers_ms > 0:
        yield f"if {flow.src} has a flow there, or had one lately, it goes where that went"
    if forward.frame_out:
        yield f"leaves by {forward.interface or 'an interface that is gone'} to {forward.mac}"
        yield columns([_change(each, forward.how) for each in forward.changes], "  ")
    if forward.mtu is not None:
        yield f"packets of up to {forward.mtu} bytes get through"
    yield f"established flows are carried by {forward.flow_cache}: {forward.cache_reason}"
    if forward.carried is not None:
        yield _carried(forward.carried)
    if forward.bpf is not None:
        yield from _programs(forward.bpf)
    yield "backends"
    backends = [_backend(each) for each in forward.backends]
    yield columns(backends, "  ") if backends else "  none"


def _fate(flow: Flow, told: FlowStatus, forward: ForwardStatus) -> str:
    verdict = forward.verdict
    if verdict == "sent":
        rule = by_maglev(told)
        if told.table != told.chosen:
            rule = f"{rule}; the next one that it can get to"
        return f"goes to {told.chosen}: {rule}"
    why = _DROPPED.get(verdict, verdict)
    if verdict == "source-not-allowed":
        why = f"allowed_sources does not have {flow.src}"
        if told.allowed:
            why = f"{flow.src} is a VIP, from whose own port nobody asks"
    elif verdict == "malformed":
        why = f"{why} ({forward.kind})"
    elif verdict == "too-big":
        mtu = forward.mtu if forward.answer_mtu is None else forward.answer_mtu
        why = f"it is too long for {told.chosen}"
        if forward.answer:
            why = f"{why}, and its sender is told that {mtu} bytes are not"
    return f"is dropped: {why}"


def _change(change: ForwardChange, how: str) -> tuple[str, ...]:
    after = change.after
    if how == "nat" and change.field == "source port":
        after = f"{after} or the next that is free"
    return change.field, change.before or "-", "->", after


def _carried(carried: CarriedFlow) -> str:
    to = carried.backend or "a backend that is none any more"
    last = "" if carried.idle_ms is None else f", the last one {carried.idle_ms / 1000:.0f} s ago"
    what = f"{carried.packets} packets, {carried.bytes} bytes{last}"
    return f"this very flow is there, and the kernel carries it to {to}: {what}"


def _programs(runs: tuple[ProgramRun, ...]) -> Iterator[str]:
    if not runs:
        yield "the kernel's programs get no such flow: it is never established"
        return
    yield "the kernel's programs, with packets of such a flow when it is established"
    words = {True: "as the forwarder", False: "OTHERWISE than the forwarder", None: ""}
    verdicts = {"passed": "left to the forwarder"}
    yield columns(
        [
            (each.program, each.way, verdicts.get(each.verdict, each.verdict), words[each.same])
            for each in runs
        ],
        "  ",
    )


def _backend(backend: ForwardBackend) -> tuple[str, ...]:
    why = _PASSED_OVER.get(backend.passed_over, backend.passed_over)
    if backend.passed_over == "unreachable":
        why = f"cannot be reached from here: {backend.reason}"
    return f"{backend.name} weight {backend.weight}", "up" if backend.up else "DOWN", why
