"""`piagent route list` and `piagent route explain`: which route a request takes, and why."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Final

from piagent.cli.config_file import add_config_argument, load_or_fail
from piagent.cli.output import WRONG_INPUT, Failure, columns, print_json, to_plain

if TYPE_CHECKING:
    from piagent.core.filters import Filters
    from piagent.core.model import Config
    from piagent.core.route_reasons import Explanation, Shadow
    from piagent.core.routing import PlannedGateway, PlannedRoute

URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][\w.+-]*://)?(?P<host>[^/?#]*)(?P<target>[^#]*)(?:#.*)?", re.DOTALL
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="list | explain")
    lists = what.add_parser("list", help="each gateway's routes in the order they are tried")
    explains = what.add_parser("explain", help="which route a request takes, and why")
    explains.add_argument("method", metavar="METHOD")
    explains.add_argument("url", metavar="URL", help='http://host/path, or "*" with OPTIONS')
    explains.add_argument(
        "-H", "--header", metavar="'K: V'", action="append", default=[], type=_header,
        help="a header of the request; Host takes the place of the URL's",
    )  # fmt: skip
    for sub in (lists, explains):
        add_config_argument(sub)
        sub.add_argument("--gateway", metavar="NAME", help="this gateway only")
        sub.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List, or explain."""
    from piagent.core.plan import plan

    config = load_or_fail(args.config).config
    gateways = plan(config, frozenset(), frozenset()).gateways
    if args.gateway is not None:
        gateways = tuple(one for one in gateways if one.name == args.gateway)
        if not gateways:
            names = ", ".join(one.name for one in config.gateways) or "none"
            raise Failure(f'there is no gateway "{args.gateway}"; there are: {names}', WRONG_INPUT)
    if args.what == "list":
        return _list(gateways, as_json=args.json)
    return _explain(args, config, gateways)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not 'Name: value'")
    return name.lower(), value.strip(" \t")


def _list(gateways: tuple[PlannedGateway, ...], *, as_json: bool) -> int:
    from piagent.core.route_reasons import shadows

    if as_json:
        found = [{**to_plain(one), "shadows": to_plain(shadows(one.routes))} for one in gateways]
        print_json(found)
        return 0
    for gateway in gateways:
        print(f"Gateway {gateway.name} ({gateway.wildcard} wildcards) tries in this order")
        print(route_table(gateway, shadows(gateway.routes)))
    return 0


def route_table(gateway: PlannedGateway, hidden: tuple[Shadow, ...] = ()) -> str:
    """Write a gateway's match table, one line an entry."""
    by = {(shadow.route, shadow.host): f"never: {shadow.by} comes first" for shadow in hidden}
    rows = [
        (*_request(route), "->", route.name, _service(route), by.get((route.name, route.host), ""))
        for route in gateway.routes
    ]
    return columns(rows, "  ") if rows else "  nothing: it answers 404 to every request"


def _request(route: PlannedRoute) -> tuple[str, str]:
    path = f"{route.path} exactly" if route.exact else route.path
    path = f"~ {path}" if route.regex and path else path or "whatever is left"
    asks = (",".join(route.methods), *map(str, route.headers), *(f"?{one}" for one in route.query))
    return route.host or "any host", " ".join(filter(None, (path, *asks)))


def _service(route: PlannedRoute) -> str:
    total = sum(target.weight for target in route.targets)
    if total == 0:
        return "no backend: 500"
    used = [target for target in route.targets if target.weight]
    names = [target.service or "nothing (500)" for target in used]
    if len(used) > 1:
        shares = [f"{round(100 * target.weight / total, 2):g} %" for target in used]
        names = [f"{name} ({share})" for name, share in zip(names, shares, strict=True)]
    return ", ".join(names) + _beside(route.filters)


def _beside(filters: Filters) -> str:
    """What requests go to beside the backends."""
    auth, mirror = filters.forward_auth, filters.mirror
    text = ""
    if auth is not None:
        text = (
            f" if {auth.service} says so" if auth.service else ", but nobody is there to ask: 500"
        )
    if mirror is not None:
        text += f"; {mirror.percent} % copied to {mirror.service or 'nothing'}"
    return text


def _explain(args: argparse.Namespace, config: Config, gateways: tuple[PlannedGateway, ...]) -> int:
    from piagent.core.route_reasons import explain

    host, target = _split(args.url)
    hosts = [value for name, value in args.header if name == "host"] or [host]
    if len(hosts) > 1:
        raise Failure("more than one Host header: the gateway answers 400", WRONG_INPUT)
    headers = tuple((name, value.encode(errors="surrogateescape")) for name, value in args.header)
    gateway = _gateway(host, config, gateways)
    ports = next(one.hosts for one in config.gateways if one.name == gateway.name)
    served = ports.get(_port(host), ())
    told = explain(gateway, args.method, hosts[0], target, headers, served=served)
    if args.json:
        print_json(to_plain(told))
    else:
        print(_describe(told))
    return 0


def _split(url: str) -> tuple[str, str]:
    """Split a URL into the Host field and the request target, as a client does: byte by byte."""
    if url == "*":
        return "", "*"
    found = URL.fullmatch(url)
    if found is None or (found["scheme"] or "http://").lower() != "http://":
        raise Failure(f'"{url}" is not an http:// URL', WRONG_INPUT)
    target = found["target"]
    return found["host"], target if target.startswith("/") else f"/{target}"


def _gateway(host: str, config: Config, gateways: tuple[PlannedGateway, ...]) -> PlannedGateway:
    """Choose the gateway that a request goes to: the only one, or the one on the URL's port."""
    number = _port(host)
    on_port = {one.name for one in config.gateways if number in one.ports}
    for choice in (gateways, [one for one in gateways if one.name in on_port]):
        if len(choice) == 1:
            return choice[0]
    if not gateways:
        raise Failure("the file has no gateway", WRONG_INPUT)
    names = ", ".join(one.name for one in gateways)
    raise Failure(f"which gateway? Say --gateway with one of: {names}", WRONG_INPUT)


def _port(host: str) -> int:
    port = host.rpartition(":")[2]
    return int(port) if port.isdecimal() else 80


def _describe(told: Explanation) -> str:
    path = told.path if told.path == told.sent else f"{told.path} (sent as {told.sent})"
    lines = [f"Gateway {told.gateway}: {told.method} for {told.host or 'no host'}, path {path}"]
    if told.winner is not None:
        host, path = _request(told.winner)
        lines.append(f"takes route {told.winner.name} ({host}, {path}) to {_service(told.winner)}")
    if told.problem is not None:
        lines.append(f"is answered with {told.status}: {told.problem}")
    if told.losers:
        rows = [(loser.entry.name, *_request(loser.entry), loser.criterion.value)
                for loser in told.losers]  # fmt: skip
        lines.append("The other routes\n" + columns(rows, "  "))
    return "\n".join(lines)
