"""`piagent pool list`: the pools, and how many addresses each has used and free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piagent.cli import admin
from piagent.cli.output import columns, print_json

if TYPE_CHECKING:
    import argparse

    from piagent.admin.status import PoolCount, PoolStatus

MANY: Final = 2**53
"""The agent counts no further."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    listing = "pools of all nodes' files, with the addresses that are used and free"
    admin.add_arguments(actions.add_parser("list", help=listing, description=listing))


def run(args: argparse.Namespace) -> int:
    """Print the pools."""
    import msgspec

    from piagent.admin.status import PoolStatus

    pools = admin.ask(args, "/api/v1/pools", tuple[PoolStatus, ...])
    if args.json:
        print_json(msgspec.to_builtins(pools))
    elif pools:
        print(columns([row for pool in pools for row in _rows(pool)]))
    else:
        print("no pools: no node's file has one")
    return 0


def _rows(pool: PoolStatus) -> list[tuple[str, ...]]:
    """A row for each IP version; the first one says what the pool is."""
    state = "disabled: gives no new ones" if pool.disabled else ""
    first, *others = [_count(count) for count in pool.counts] or ["no addresses"]
    head = (pool.name, pool.type, ", ".join(pool.addresses), first, state)
    return [head, *(("", "", "", other, "") for other in others)]


def _count(count: PoolCount) -> str:
    total = "over 2^53" if count.total >= MANY else str(count.total)
    free = "" if count.free >= MANY else f", {count.free} free"
    return f"IPv{count.family}: {count.used} of {total} used{free}"
