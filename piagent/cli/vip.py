"""`piagent vip list` and `piagent vip move`: the VIPs with their owners, and planned moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.cli import admin
from piagent.cli.output import columns, print_json

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    listing = "VIPs with owner, epoch, since when and why"
    admin.add_arguments(actions.add_parser("list", help=listing, description=listing))
    moving = "hand a VIP over to another node, which is prepared first; no connection is lost"
    move = actions.add_parser("move", help=moving, description=moving)
    move.add_argument("vip", metavar="VIP", help="the address")
    move.add_argument("node", metavar="NODE", help="the node that is to own it")
    admin.add_arguments(move)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    return _move(args) if args.action == "move" else _list(args)


def _list(args: argparse.Namespace) -> int:
    import msgspec

    from piagent.admin.status import VipStatus
    from piagent.cli.status import vip_rows

    vips = admin.ask(args, "/api/v1/vips", tuple[VipStatus, ...])
    if args.json:
        print_json(msgspec.to_builtins(vips))
    elif vips:
        print(columns(vip_rows(vips)))
    else:
        print("no VIPs: no service or gateway of this node's file has an address")
    return 0


def _move(args: argparse.Namespace) -> int:
    from piagent.admin.status import Done, MoveVip

    done = admin.ask(args, "/api/v1/vips/move", Done, MoveVip(args.vip, args.node))
    if args.json:
        print_json({"done": done.done})
    else:
        print(f"{args.vip} is on {args.node}")
    return 0
