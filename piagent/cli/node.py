"""`piagent node drain` and `piagent node undrain`: a node that owns no VIP for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.cli import admin
from piagent.cli.output import print_json

if TYPE_CHECKING:
    import argparse

_ACTIONS = {
    "drain": "hand all VIPs of a node over and let it take none until it is undrained or restarted",
    "undrain": "let a drained node take part again",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    for name, line in _ACTIONS.items():
        action = actions.add_parser(name, help=line, description=line)
        action.add_argument(
            "node", metavar="NODE", nargs="?", default="", help="the node (default: this one)"
        )
        admin.add_arguments(action)


def run(args: argparse.Namespace) -> int:
    """Have it done."""
    from piagent.admin.status import Done, DrainNode

    drain = args.action == "drain"
    done = admin.ask(args, "/api/v1/nodes/drain", Done, DrainNode(args.node, drain))
    if args.json:
        print_json({"done": done.done})
    else:
        node = args.node or "this node"
        print(f"{node} hands its VIPs over" if drain else f"{node} takes part again")
    return 0
