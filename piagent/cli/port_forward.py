"""`piagent port-forward`: local ports whose connections reach a backend through an agent."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from piagent.cli import admin
from piagent.cli.output import WRONG_INPUT, Failure

if TYPE_CHECKING:
    import argparse

_PORT: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_LOCAL: Final = re.compile(r"[0-9]{1,5}")
_MAPPING: Final = re.compile(rf"([0-9]{{0,5}}):({_PORT})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "service", metavar="SERVICE[:PORT]", help="a service, and its port by number or name"
    )
    parser.add_argument(
        "mappings", metavar="[LOCAL]:PORT", nargs="*",
        help="8080:80 is local port 8080 for the service's port 80, :80 a free local port, "
        "8080 a local port for PORT (default: the service's first)",
    )  # fmt: skip
    parser.add_argument(
        "--address", metavar="ADDRESS", action="append",
        help="local address to listen on (default: 127.0.0.1); may be given several times",
    )  # fmt: skip
    parser.add_argument("--backend", metavar="ADDRESS", default="", help="this backend only")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="say nothing of single connections"
    )
    admin.add_place_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Forward until SIGINT or SIGTERM."""
    wanted = mappings(args.service, args.mappings)
    addresses = tuple(map(_address, args.address or ["127.0.0.1"]))
    where = admin.place(args)

    import asyncio

    from piagent.cli.forwarding import Forwarder

    service = args.service.partition(":")[0]
    forwarder = Forwarder(where, service, args.backend, quiet=args.quiet)
    asyncio.run(forwarder.run(wanted, addresses))
    return 0


def mappings(service: str, words: list[str]) -> list[tuple[int | None, str]]:
    """Local port and the service's port of each mapping; Failure when a word is none.

    A local port that is None is the number of the service's port; 0 is any that is free. A port of
    the service that is empty is its first.
    """
    name, colon, port = service.partition(":")
    if not name or (colon and re.fullmatch(_PORT, port) is None):
        raise Failure(f'"{service}" is not SERVICE or SERVICE:PORT', WRONG_INPUT)
    return [_mapping(word, port) for word in words] or [(None, port)]


def _mapping(word: str, port: str) -> tuple[int | None, str]:
    found = _MAPPING.fullmatch(word)
    if found is None and _LOCAL.fullmatch(word) is None:
        what = f'"{word}" is not LOCAL:PORT (8080:80), :PORT (any free local port) or LOCAL'
        raise Failure(what, WRONG_INPUT)
    local = int((found[1] if found else word) or 0)
    if local > admin.PORT_MAX:
        raise Failure(f"{local} is not a port: they go to {admin.PORT_MAX}", WRONG_INPUT)
    return local, found[2] if found else port


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise Failure(f'--address: "{text}" is not an IP address', WRONG_INPUT) from None
