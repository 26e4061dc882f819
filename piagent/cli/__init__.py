"""The `piagent` command line: one module a command, imported only when it is called for.

To add a command: a line in COMMANDS and a module `piagent/cli/<command>.py` with two functions:
`add_arguments(parser)` declares its arguments, `run(args) -> int` does it and returns the exit
code. What a command needs beyond argparse it imports inside `run`, so that `--help` stays
quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING, Final, Protocol, cast

from piagent import __version__
from piagent.cli.output import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final[dict[str, str]] = {
    "demo": "a whole cluster on this machine: agents, a broker, backends and a VIP that moves",
    "run": "the agent: owns VIPs and serves them until SIGTERM",
    "status": "the agent on this host: brokers, nodes, VIPs with their owners, services, backends",
    "why": "who owns a VIP and why, or how a service or gateway came by its addresses",
    "flow": "say which backend a flow gets, by which rule, and why no other",
    "service": "list services, apply them without editing files, and delete them again",
    "endpoint": "have a program join a service for as long as it runs, or list who did",
    "pool": "list the pools with how many addresses they have left",
    "vip": "list the VIPs with their owners, or hand one over to another node",
    "node": "drain a node of its VIPs, or let it take part again",
    "port-forward": "local ports whose connections reach a service's backend through an agent",
    "check": "validate a configuration file and print what it makes this node do",
    "doctor": "check this host, or probe a broker: each finding with its cure",
    "route": "list the routes in the order they are tried, or explain which one a request takes",
    "release-addresses": "remove the addresses and the fence that an agent left behind",
}
"""Each command with its line of help."""

DESCRIPTION: Final = (
    "Floating IPs, leader election, load balancing and HTTP routing for Raspberry Pi clusters."
)
EPILOG: Final = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."


class Command(Protocol):
    """What a command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: `sys.argv[1:]`) names; returns the exit code."""
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130


def _main(words: list[str]) -> int:
    chosen = next((word for word in words if not word.startswith("-")), None)
    command = _load(chosen) if chosen in COMMANDS else None
    parser = _parser(chosen, command)
    if not words:
        parser.print_help()
        return 0
    args = parser.parse_args(words)
    if command is None:
        parser.error("a command is missing")
    return _run(command, args)


def _run(command: Command, args: argparse.Namespace) -> int:
    try:
        code = command.run(args)
        sys.stdout.flush()
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.code
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _load(name: str) -> Command:
    return cast("Command", importlib.import_module(f"piagent.cli.{name.replace('-', '_')}"))


def _parser(chosen: str | None, command: Command | None) -> argparse.ArgumentParser:
    """Make a parser that knows every command by name, but the arguments of the chosen one only."""
    parser = argparse.ArgumentParser(prog="piagent", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"piagent {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, line in COMMANDS.items():
        sub = commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.")
        if name == chosen and command is not None:
            command.add_arguments(sub)
    return parser
