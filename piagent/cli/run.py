"""`piagent run -c FILE`: the agent, in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

LEVELS = ("debug", "info", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("-c", "--config", metavar="FILE", required=True, help="the node's file")
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="least level to log (default: info)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the agent; 0 after an orderly stop, 1 after a failure, 2 when the file is wrong."""
    from piagent.agent.main import run_agent

    return run_agent(args.config, args.log_level)
