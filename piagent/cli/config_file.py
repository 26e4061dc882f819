"""The configuration as commands meet it: an argument, and a file that may be wrong."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from piagent.cli.output import WRONG_INPUT, Failure

if TYPE_CHECKING:
    from piagent.config import Loaded

DEFAULT_FILE: Final = "/etc/piagent/piagent.toml"


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `-c FILE`."""
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=DEFAULT_FILE,
        help="the node's configuration (default: %(default)s)",
    )  # fmt: skip


def load_or_fail(file: str) -> Loaded:
    """Load a file and write its warnings to stderr; Failure with all its errors."""
    from piagent.config import ConfigError, load

    try:
        loaded = load(file)
    except ConfigError as error:
        raise Failure(str(error), WRONG_INPUT) from None
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return loaded
