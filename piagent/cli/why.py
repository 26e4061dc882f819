"""`piagent why NAME`: who owns a VIP and why, or how a service or gateway came by what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from piagent.cli import admin
from piagent.cli.output import columns, print_json
from piagent.core.text import printable

if TYPE_CHECKING:
    import argparse

    from piagent.admin.status import Why, WhyService


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="a VIP, or the name of a service or gateway")
    admin.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the reasons."""
    from urllib.parse import quote

    import msgspec

    from piagent.admin.status import Why, WhyService

    either = cast("type[Why | WhyService]", Why | WhyService)  # each says which it is
    why = admin.ask(args, f"/api/v1/why/{quote(args.name, safe='')}", either)
    if args.json:
        print_json(msgspec.to_builtins(why))
    elif isinstance(why, Why):
        print(render(why))
    else:
        print(render_service(why))
    return 0


def render(why: Why) -> str:
    """Make the whole text about a VIP."""
    vip = why.vip
    owner = f"owned by {vip.owner}" if vip.owner else "without an owner"
    lines = [
        f"{vip.address} is {owner}, epoch {vip.epoch}",
        f"this node: {vip.state} for {admin.ago(vip.since)}, reason {vip.reason}",
    ]
    if why.next is not None:
        lines.append(f"if this node did not own it: {why.next}")
    if why.rival is not None:
        lines.append(f"another host used it: {why.rival}")
    if why.others:
        rows = [(each.node, each.reason, each.detail) for each in why.others]
        lines.append("not first for it:\n" + columns(rows, "  "))
    return "\n".join(lines)


def render_service(why: WhyService) -> str:
    """Make the whole text about a service or gateway."""
    from piagent.cli.status import (
        backend_rows,
        mode_words,
        notes_section,
        port_words,
        version_words,
    )

    lines = [f"{why.kind} {why.name}: {version_words(why.applied) or 'not applied: in a file'}"]
    if why.mode != "proxy":
        lines.append(f"its packets are forwarded: mode {mode_words(why.mode, why.encapsulation)}")
    for vip in why.vips:
        owner = why.owners.get(vip)
        lines.append(f"VIP {vip}: " + (f"owned by {owner}" if owner else "without an owner"))
    lines += [f"cluster address {address}" for address in why.cluster_ips]
    if why.given:
        pool = f" from pool {why.pool}" if why.pool else ""
        lines.append(f"given{pool}, reason {why.given}")
    if why.ports:
        lines.append(f"ports {port_words(why.ports)}")
    text = "\n".join(map(printable, lines))
    if why.backends:
        text += "\nbackends\n" + columns(backend_rows(why.backends), "  ")
    notes = notes_section(why.notes)
    return f"{text}\n{notes}" if notes else text
