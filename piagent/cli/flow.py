"""`piagent flow explain`: which backend a flow gets, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.cli import admin, forwarded_flow
from piagent.cli.output import WRONG_INPUT, Failure, columns, print_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from piagent.admin.status import FlowBackend, FlowStatus
    from piagent.core.flow import Flow

_EXPLAIN = "say which backend a flow gets, by which rule, and why no other"
_PASSED_OVER = {
    "unusable": "gets nothing new",
    "ejected": "ejected",
    "slow_start": "starts slowly",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    action = actions.add_parser("explain", help=_EXPLAIN, description=_EXPLAIN)
    for name, line in (("--src", "who sends"), ("--dst", "to where")):
        what = f"{line}: ADDRESS:PORT or [ADDRESS]:PORT"
        action.add_argument(name, metavar="A:P", required=True, help=what)
    action.add_argument("--proto", choices=("tcp", "udp"), default="tcp", help="(default: tcp)")
    action.add_argument(
        "--size", metavar="BYTES", type=int,
        help="of what is forwarded: try an IP packet of so many bytes (default: the smallest)",
    )  # fmt: skip
    action.add_argument(
        "--bpf", action="store_true",
        help="of what is forwarded: let the kernel's programs have packets of such a flow, too",
    )  # fmt: skip
    admin.add_arguments(action)


def run(args: argparse.Namespace) -> int:
    """Print the explanation."""
    from urllib.parse import urlencode

    import msgspec

    from piagent.admin.status import FlowStatus
    from piagent.core.flow import flow_of

    try:
        flow = flow_of(args.src, args.dst, args.proto)
    except ValueError as error:
        raise Failure(str(error), WRONG_INPUT) from None
    asked = {"src": args.src, "dst": args.dst, "proto": args.proto}
    asked |= {} if args.size is None else {"size": args.size}
    asked |= {"bpf": 1} if args.bpf else {}
    query = urlencode(asked)
    told = admin.ask(args, f"/api/v1/flow?{query}", FlowStatus)
    if args.json:
        print_json(msgspec.to_builtins(told))
    else:
        print(render(flow, told))
    return 0


def render(flow: Flow, told: FlowStatus) -> str:
    """Make the whole text."""
    lines = [str(flow)]
    if told.vip and told.owner != told.node:
        owner = f"{told.owner} owns" if told.owner else "nobody owns"
        lines.append(f"{owner} the VIP {flow.dst}; on {told.node} it would be so:")
    if told.listener is None:
        lines.append(f"nobody listens there on {told.node}")
        return "\n".join(lines)
    if told.gateway is not None:
        lines.append(f"comes to gateway {told.gateway} at {told.listener}")
        lines.append("it is routed request by request: piagent route explain METHOD URL")
        return "\n".join(lines)
    lines.append(f"comes to service {told.service} at {told.listener}")
    if told.forward is not None:
        return "\n".join([*lines, *forwarded_flow.lines(flow, told, told.forward)])
    lines += _fate(flow, told)
    rows = [_backend(each) for each in told.backends]
    return "\n".join([*lines, "backends", columns(rows, "  ") if rows else "  none"])


def _fate(flow: Flow, told: FlowStatus) -> Iterator[str]:
    if told.header:
        yield f"{flow.src} is a trusted proxy: it has to say who the client is; for itself:"
    if not told.allowed:
        yield f"is turned away: allowed_sources does not have {flow.src}"
        return
    tried = list(dict.fromkeys(map(tuple, told.orders)))
    if not any(tried):
        yield "is turned away: no backend gets anything new"
    elif told.chosen is not None:
        yield f"goes to {told.chosen}: {_rule(told)}"
    else:
        yield f"goes where the worker that gets it sends it: {_rule(told)}"
    for order in tried if len(tried) > 1 else ():
        yield f"one worker tries {', '.join(order)}"
    if len(tried) == 1 and len(tried[0]) > 1:
        yield f"if that does not answer: {', '.join(tried[0][1:])}"


def _rule(told: FlowStatus) -> str:
    if told.remembered is not None and told.remembered == told.chosen:
        return "the client had it last"
    if told.policy != "maglev":
        return told.policy or ""
    return forwarded_flow.by_maglev(told)


def _backend(backend: FlowBackend) -> tuple[str, ...]:
    why = _PASSED_OVER.get(backend.passed_over, backend.passed_over)
    if backend.ejected_ms:
        why = f"ejected for {max(backend.ejected_ms // 1000, 1)} s more"
    elif backend.share < 1:
        share = f"has {backend.share:.0%} of its share so far"
        why = f"{why}, {share}" if why else share
    return (
        f"{backend.name} weight {backend.weight}",
        "up" if backend.up else "DOWN",
        f"{backend.active} open",
        why,
    )
