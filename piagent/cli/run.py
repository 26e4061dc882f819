"""`piagent run -c FILE`: the agent and its guardian, in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piagent.cli.output import Failure

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

LEVELS = ("debug", "info", "warning", "error")

# Not `-m piagent.guardian`: an interpreter without site-packages does not find it by itself.
_GUARDIAN: Final = """\
import sys
sys.path.append(sys.argv[1])
from piagent.guardian import main
main(sys.argv[2:])
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("-c", "--config", metavar="FILE", required=True, help="the node's file")
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="least level to log (default: info)"
    )
    parser.add_argument(
        "--unguarded",
        action="store_true",
        help="the agent alone, without the parent that takes its VIPs down when it dies",
    )


def run(args: argparse.Namespace) -> int:
    """Run the agent; 0 after an orderly stop, 1 after a failure, 2 when the file is wrong.

    Under the guardian, unless it is the guardian who asks: then this process becomes the guardian
    and does not return, and the exit code is the agent's, or 128 and the signal it died of.
    """
    if not args.unguarded:
        _become_guardian()
    try:
        from piagent.agent.main import run_agent
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("fastpath"):
            raise
        raise Failure("the engine is not built: run `make build` in the project's folder") from None
    return run_agent(args.config, args.log_level)


def _become_guardian() -> NoReturn:
    """The guardian keeps this process's id, which is the one that a service manager knows."""
    import os
    import sys
    from pathlib import Path

    import piagent

    root = str(Path(piagent.__file__).parents[1])
    # The agent is started just as this process was, by the same interpreter with its options.
    agent = [sys.executable, *sys.orig_argv[1:], "--unguarded"]
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _GUARDIAN, root, *agent])  # noqa: S606
