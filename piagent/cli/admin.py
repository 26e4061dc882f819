"""What commands that ask the running agent share: where its socket is, how time is written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from piagent.cli.output import WRONG_INPUT, Failure

if TYPE_CHECKING:
    import argparse

DEFAULT_SOCKET = "/run/piagent/admin.sock"
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how to find the agent."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket", metavar="PATH", help=f"the agent's admin socket (default: {DEFAULT_SOCKET})"
    )
    where.add_argument("-c", "--config", metavar="FILE", help="the file that names the socket")
    parser.add_argument("--json", action="store_true", help="print JSON")


def ask(args: argparse.Namespace, target: str, kind: type[T], body: object = None) -> T:
    """Ask the agent, or have it do what `body` says; Failure with a clear line when it does not."""
    from piagent.admin.client import AskError
    from piagent.admin.client import ask as ask_socket

    try:
        return ask_socket(_socket(args), target, kind, body)
    except AskError as error:
        raise Failure(str(error)) from None


def ago(unix_ms: int) -> str:
    """How long ago, in the largest unit that gives a whole number: "3 min"."""
    seconds = max(0, int(time.time() - unix_ms / 1000))
    size, unit = next((u for u in _UNITS if seconds >= u[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"


def _socket(args: argparse.Namespace) -> str:
    if args.config is None:
        return args.socket or DEFAULT_SOCKET
    from piagent.config import ConfigError, load

    try:
        return load(args.config).config.admin_socket
    except ConfigError as error:
        raise Failure(str(error), WRONG_INPUT) from None
