"""`piagent endpoint`: a program joins a service for as long as it runs; and who did."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from piagent.cli import admin
from piagent.cli.output import WRONG_INPUT, Failure, columns, print_json

if TYPE_CHECKING:
    import argparse

    from piagent.admin.status import RegisterEndpoint

_PLACE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]*)):([0-9]{1,5})")
_WEIGHT_MAX: Final = 1000
_TTL_MIN_MS: Final = 1000
_TTL_MAX_MS: Final = 3_600_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    listing = "endpoints that registered themselves, at any node"
    admin.add_arguments(actions.add_parser("list", help=listing, description=listing))
    joining = "join a service until SIGINT or SIGTERM; what is killed leaves when its ttl is over"
    register = actions.add_parser("register", help=joining, description=joining)
    register.add_argument("service", metavar="SERVICE", help="the service to join")
    register.add_argument(
        "place", metavar="[ADDRESS]:PORT",
        help="where the program is reached; without ADDRESS: on the address of the agent's host",
    )  # fmt: skip
    register.add_argument(
        "--ttl", metavar="TIME", default="10s", help="how long it holds, from 1s to 1h; it is "
        "renewed three times as often (default: 10s)",
    )  # fmt: skip
    register.add_argument(
        "--port-name", metavar="NAME", help="the one port of the service that it serves, by name"
    )
    register.add_argument(
        "--weight", metavar="N", type=int, default=1,
        help="its share of new connections, up to 1000; 0: none (default: 1)",
    )  # fmt: skip
    admin.add_arguments(register)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    return _register(args) if args.action == "register" else _list(args)


def _list(args: argparse.Namespace) -> int:
    import msgspec

    from piagent.admin.status import EndpointStatus

    endpoints = admin.ask(args, "/api/v1/endpoints", tuple[EndpointStatus, ...])
    if args.json:
        print_json(msgspec.to_builtins(endpoints))
    elif endpoints:
        print(columns([(one.service, one.address, f"at {one.node}") for one in endpoints]))
    else:
        print("no endpoints: no program registered itself")
    return 0


def _register(args: argparse.Namespace) -> int:
    from piagent.cli.registering import Registration

    asked = _asked(args)
    return Registration(admin.place(args), asked, json=args.json).run()


def _asked(args: argparse.Namespace) -> RegisterEndpoint:
    """What the arguments ask for; Failure when it cannot be meant."""
    from piagent.admin.status import RegisterEndpoint
    from piagent.config.values import UnfitError, duration_ms

    found = _PLACE.fullmatch(args.place)
    if found is None or not 0 < (port := int(found[3])) <= admin.PORT_MAX:
        what = f'"{args.place}" is not :PORT, ADDRESS:PORT or [ADDRESS]:PORT'
        raise Failure(what, WRONG_INPUT)
    address = found[1] or found[2]
    if args.agent is not None and not address:
        what = f'with --node, name the address too: ":{port}" would be on the agent\'s host'
        raise Failure(what, WRONG_INPUT)
    if not 0 <= args.weight <= _WEIGHT_MAX:
        raise Failure(f"--weight: {args.weight} is not between 0 and {_WEIGHT_MAX}", WRONG_INPUT)
    try:
        ttl_ms = duration_ms(args.ttl)
    except UnfitError as error:
        raise Failure(f"--ttl: {error}", WRONG_INPUT) from None
    if not _TTL_MIN_MS <= ttl_ms <= _TTL_MAX_MS:
        raise Failure(f"--ttl: {args.ttl} is not between 1s and 1h", WRONG_INPUT)
    return RegisterEndpoint(
        service=args.service,
        port=port,
        address=address,
        only=args.port_name,
        weight=args.weight,
        ttl_ms=ttl_ms,
    )
