"""`piagent service`: what services there are, and what is applied without editing files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from piagent.cli import admin
from piagent.cli.output import FAILED, WRONG_INPUT, Failure, columns, print_json
from piagent.core.text import printable

if TYPE_CHECKING:
    import argparse

    from piagent.admin.status import AppliedStatus, Status
    from piagent.core.applying import Change, Order, Outcome, Verdict

STDIN: Final = "-"
KINDS: Final = ("service", "gateway", "route")
_ACTIONS: Final = {
    "list": "services and gateways: from a file or applied, addresses, ports, backends that are up",
    "apply": "make what a file says true, all of it or nothing",
    "delete": "end what was applied",
    "get": "print what was applied, as it can be applied again",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    for name, line in _ACTIONS.items():
        action = actions.add_parser(name, help=line, description=line)
        if name == "apply":
            action.add_argument(
                "file", metavar="FILE", help="[[service]], [[gateway]] and [[route]]; -: stdin"
            )
            action.add_argument(
                "--dry-run", action="store_true", help="only say what it would do, or why not"
            )
        if name in {"delete", "get"}:
            action.add_argument("name", metavar="NAME", help="its name")
            action.add_argument(
                "--kind", choices=KINDS, default=KINDS[0], help="what it is (default: service)"
            )
        if name == "delete":
            action.add_argument(
                "--if-version", metavar="N", type=int, help="only if it has this version now"
            )
        admin.add_arguments(action)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    actions = {"list": _list, "apply": _apply, "delete": _delete, "get": _get}
    return actions[args.action](args)


# ---- what there is ---------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    import msgspec

    from piagent.admin.status import AppliedStatus, Status

    status = admin.ask(args, "/api/v1/status", Status)
    applied = admin.ask(args, "/api/v1/applied", tuple[AppliedStatus, ...])
    if args.json:
        shown = (status.services, status.gateways, applied, status.notes)
        names = ("services", "gateways", "applied", "notes")
        print_json(dict(zip(names, map(msgspec.to_builtins, shown), strict=True)))
    else:
        print(render(status, applied))
    return 0


def render(status: Status, applied: tuple[AppliedStatus, ...]) -> str:
    """Make the whole text."""
    from piagent.cli.status import mode_words, notes_section, port_words, version_words

    rows = []
    for service in status.services:
        up = sum(backend.up for backend in service.backends)
        backends = "" if service.type == "external" else f"{up}/{len(service.backends)} up"
        addresses = ",".join((*service.vips, *service.cluster_ips)) or "no address"
        forwarded = service.mode != "proxy"
        mode = f", {mode_words(service.mode, service.encapsulation)}" if forwarded else ""
        kind = service.type + mode
        words = (f"service/{service.name}", kind, version_words(service.applied) or "file")
        rows.append((*words, addresses, port_words(service.ports), backends))
    for gateway in status.gateways:
        words = (f"gateway/{gateway.name}", "", version_words(gateway.applied) or "file")
        ports = ",".join(map(str, gateway.ports))
        rows.append((*words, ",".join(gateway.vips) or "no address", ports, ""))
    here = {row[0] for row in rows}
    for one in applied:
        key = f"{one.kind}/{one.name}"
        if key not in here:
            away = "" if one.kind == "route" else "not served here"
            rows.append((key, "", version_words(one.version), away, "", ""))
    listed = columns(rows) if rows else "no services: none is applied or in this node's file"
    return "\n\n".join(filter(None, (listed, notes_section(status.notes))))


def _get(args: argparse.Namespace) -> int:
    import msgspec

    from piagent.admin.status import AppliedStatus
    from piagent.cli.toml_text import array_table

    applied = admin.ask(args, "/api/v1/applied", tuple[AppliedStatus, ...])
    wanted = (args.kind, args.name)
    found = next((one for one in applied if (one.kind, one.name) == wanted), None)
    key = printable(f"{args.kind}/{args.name}")
    if found is None:
        known = ", ".join(f"{one.kind}/{one.name}" for one in applied) or "nothing"
        raise Failure(f"{key} is not applied; that is: {printable(known)}")
    if not found.table:
        raise Failure(f"{key} has version {found.version}, which this node has not heard yet")
    if args.json:
        print_json(msgspec.to_builtins(found))
    else:
        table = {"name": found.name, "version": found.version} | found.table
        print(array_table(found.kind, table), end="")
    return 0


# ---- what is to be ---------------------------------------------------------------------------


def _apply(args: argparse.Namespace) -> int:
    import msgspec

    from piagent.config import ConfigError
    from piagent.core.applying import MAX_CHANGES, Order

    try:
        changes = _changes(args.file)
    except ConfigError as error:
        if args.json:
            print_json({"done": False, "errors": msgspec.to_builtins(error.errors)})
        else:
            print(f"{error}\nnothing was applied", file=sys.stderr)
        return WRONG_INPUT
    if len(changes) > MAX_CHANGES:
        what = f"{len(changes)} tables are more than the {MAX_CHANGES} that can be applied at once"
        raise Failure(f"{what}: use several files", WRONG_INPUT)
    return _order(args, Order(changes=changes, dry_run=args.dry_run))


def _changes(file: str) -> tuple[Change, ...]:
    from piagent.config.applied import load_applied, parse_applied

    return parse_applied(sys.stdin.buffer.read(), "stdin") if file == STDIN else load_applied(file)


def _delete(args: argparse.Namespace) -> int:
    from piagent.core.applying import Change, Order
    from piagent.core.records import Kind

    change = Change(kind=Kind(args.kind), name=args.name, version=args.if_version)
    return _order(args, Order(changes=(change,)))


def _order(args: argparse.Namespace, order: Order) -> int:
    """Have it done, and print what became of each change."""
    import msgspec

    from piagent.admin.client import APPLY_TIMEOUT_S
    from piagent.core.applying import Verdict

    verdict = admin.ask(
        args, "/api/v1/apply", Verdict, order, timeout_s=APPLY_TIMEOUT_S, answers=(200, 409)
    )
    fine = verdict.done or (order.dry_run and not _refused(verdict))
    if args.json:
        print_json(msgspec.to_builtins(verdict))
    elif fine:
        for line in _lines(verdict, dry_run=order.dry_run):
            print(line)
    else:
        for line in _lines(verdict, dry_run=True):
            print(line, file=sys.stderr)
        print("nothing was applied or deleted", file=sys.stderr)
    return 0 if fine else FAILED


def _refused(verdict: Verdict) -> bool:
    from piagent.core.applying import REFUSALS

    return not verdict.outcomes or any(one.result in REFUSALS for one in verdict.outcomes)


def _lines(verdict: Verdict, *, dry_run: bool) -> list[str]:
    if not verdict.outcomes:  # one node asks the other, and what it says may be too long for that
        return ["done" if verdict.done else "refused, for more reasons than an answer can hold"]
    return [line for one in verdict.outcomes for line in _outcome(one, dry_run=dry_run)]


def _outcome(outcome: Outcome, *, dry_run: bool) -> list[str]:
    """What became of one change, or would: a line, and how a conflict or a dry run differs."""
    from piagent.core.applying import REFUSALS, Result

    key, result = f"{outcome.kind}/{outcome.name}", outcome.result.value
    if outcome.result in REFUSALS:
        line = f"{key} {result}: {outcome.detail}"
    else:
        would = dry_run and outcome.result is not Result.UNCHANGED
        has = [*outcome.vips, *outcome.cluster_ips]
        has += [f"node port {name} {number}" for name, number in outcome.node_ports.items()]
        version = f", version {outcome.version}" if outcome.result is not Result.DELETED else ""
        line = f"{key} {'would be ' if would else ''}{result}{version}"
        line += f": {', '.join(has)}" if has else ""
    diff = outcome.diff if dry_run else ()
    return [printable(line), *(f"    {printable(each)}" for each in diff)]
