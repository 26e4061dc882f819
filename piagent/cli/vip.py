"""`piagent vip list`: the VIPs that this node knows, with their owners."""

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


def run(args: argparse.Namespace) -> int:
    """Print the VIPs."""
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
