"""`piagent run -c FILE`: the agent, in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.cli.output import Failure

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
    try:
        from piagent.agent.main import run_agent
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("fastpath"):
            raise
        raise Failure("the engine is not built: run `make build` in the project's folder") from None
    return run_agent(args.config, args.log_level)
