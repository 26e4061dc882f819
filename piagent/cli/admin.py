"""What commands that ask a running agent share: where it is, how time is written."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from piagent.cli.output import WRONG_INPUT, Failure
from piagent.core.text import printable

if TYPE_CHECKING:
    import argparse

    from piagent.admin.client import Where

DEFAULT_SOCKET = "/run/piagent/admin.sock"
DEFAULT_PORT: Final = 9180
PORT_MAX: Final = 65535
TOKEN_VARIABLE: Final = "PIAGENT_TOKEN"  # noqa: S105 -- where one is, not one
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how to find the agent, and how to print what it says."""
    add_place_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how to find the agent."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket", metavar="PATH", help=f"the agent's admin socket (default: {DEFAULT_SOCKET})"
    )
    where.add_argument("-c", "--config", metavar="FILE", help="the file that names the socket")
    where.add_argument(
        "--node", dest="agent", metavar="HOST[:PORT]",
        help=f"the agent on another host, where its [admin] listens (port: {DEFAULT_PORT})",
    )  # fmt: skip
    parser.add_argument(
        "--token-file", metavar="FILE",
        help=f"with --node: the file with its token (default: ${TOKEN_VARIABLE})",
    )  # fmt: skip


def ask(args: argparse.Namespace, target: str, kind: type[T], body: object = None, **how: Any) -> T:
    """Ask the agent, or have it do what `body` says; Failure with a clear line when it does not.

    `how`: as in `admin.client.ask`.
    """
    from piagent.admin.client import AskError
    from piagent.admin.client import ask as ask_agent

    try:
        return ask_agent(place(args), target, kind, body, **how)
    except AskError as error:
        raise Failure(printable(str(error))) from None


def place(args: argparse.Namespace) -> Where:
    """Where the agent is that the arguments name; Failure when they name none."""
    if args.agent is None:
        return _socket(args)
    from piagent.admin.client import Remote

    found = re.fullmatch(
        r"(?:http://)?(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/@\[\]]+))(?::([0-9]{1,5}))?/?", args.agent
    )
    if found is None or not 0 < (port := int(found[3] or DEFAULT_PORT)) <= PORT_MAX:
        what = f'--node: "{args.agent}" is not HOST, HOST:PORT or http://HOST:PORT'
        raise Failure(what, WRONG_INPUT)
    return Remote(host=found[1] or found[2], port=port, token=_token(args.token_file))


def ago(unix_ms: int) -> str:
    """How long ago, in the largest unit that gives a whole number: "3 min"."""
    return _span(time.time() - unix_ms / 1000)


def until(unix_ms: int) -> str:
    """How long it is till then, in the same way."""
    return _span(unix_ms / 1000 - time.time())


def _span(of_s: float) -> str:
    seconds = max(0, int(of_s))
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


def _token(file: str | None) -> str | None:
    """The token in a file or, without one, in the environment."""
    text = os.environ.get(TOKEN_VARIABLE, "")
    if file is not None:
        try:
            text = Path(file).read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Failure(f"cannot read the token in {file}: {why}", WRONG_INPUT) from None
    token = text.strip()
    if re.search(r"[^!-~]", token) or (file is not None and not token):
        where = file or f"${TOKEN_VARIABLE}"
        raise Failure(f"{where} is not one line with a token", WRONG_INPUT)
    return token or None
