"""`piagent why VIP`: who owns it and why, who would be next, and why not the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.cli import admin
from piagent.cli.output import columns, print_json

if TYPE_CHECKING:
    import argparse

    from piagent.admin.status import Why


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("vip", metavar="VIP", help="the address")
    admin.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the reasons."""
    from urllib.parse import quote

    import msgspec

    from piagent.admin.status import Why

    why = admin.ask(args, f"/api/v1/why/{quote(args.vip)}", Why)
    if args.json:
        print_json(msgspec.to_builtins(why))
    else:
        print(render(why))
    return 0


def render(why: Why) -> str:
    """Make the whole text."""
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
