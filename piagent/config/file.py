"""One TOML file -> `core.model.Config`, or everything that is wrong with it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

import tomli
from msgspec import Struct
from msgspec.structs import replace

from piagent.config import certificates, key_files
from piagent.config.addresses import vips
from piagent.config.bgp import build_bgp
from piagent.config.build import build
from piagent.config.checks import check
from piagent.config.election import check_election
from piagent.config.error_pages import read_pages
from piagent.config.health import check_programs
from piagent.config.host import Host, this_host
from piagent.config.lines import KeyPath
from piagent.config.problems import ConfigError, Problem, Report
from piagent.config.reader import read_table
from piagent.config.schema import Admin as AdminTable
from piagent.config.schema import File
from piagent.config.schema import Mqtt as MqttTable
from piagent.config.users import read_users
from piagent.config.values import UnfitError
from piagent.config.values import name as read_name
from piagent.core.model import Config, Mqtt
from piagent.core.plan import is_loopback, plan
from piagent.core.route_reasons import shadows
from piagent.core.routing import DEFAULT

SOCKET_PATH_MAX: Final = 107
"""What struct sockaddr_un holds, without its NUL."""


class Loaded(Struct, frozen=True):
    """A file that can be used."""

    config: Config
    warnings: tuple[Problem, ...]


def load(path: str | os.PathLike[str], host: Host | None = None) -> Loaded:
    """Read a file; `host` (default: this one) gives what the file leaves out.

    Raises ConfigError with all that is wrong: the file's syntax, or else everything in it that
    cannot be so, in the file's order.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _broken(str(file), f"cannot read it: {why}", "name a file that is there") from None
    return parse(data, str(file), host or this_host())


def parse(data: bytes, file: str, host: Host) -> Loaded:
    """Read the content of a file; `file` names it, and its folder is what paths are relative to."""
    text = decoded(data, file)
    values = toml(text, file)
    report = Report(file, text)
    tables = read_table(File, values, (), report)
    check(tables, report)
    _check_node(tables, host, report)
    check_programs(tables, report)
    check_election(tables.election, tables.node.name or host.name, report)
    folder = Path(file).absolute().parent
    socket = _socket(tables.admin.socket, folder, report)
    secrets = _secrets(tables, folder, report)
    mqtt = _mqtt(tables.mqtt, folder, report)
    token = _token(tables.admin, folder, report)
    bgp = build_bgp(tables, host, folder, report)
    pages = read_pages(tables, folder, report)
    users = read_users(tables, folder, report)
    report.warnings()  # from here on the tables are whole
    config = build(
        tables,
        host,
        folder=folder,
        socket=socket,
        secrets=secrets,
        mqtt=mqtt,
        token=token,
        bgp=bgp,
        pages=pages,
        users=users,
    )
    _check_shadows(config, report)
    return Loaded(config, report.warnings())


def decoded(data: bytes, file: str) -> str:
    """The text of a file; raises ConfigError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        what = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise _broken(file, what, "save the file as UTF-8", line, column) from None


def toml(text: str, file: str) -> dict[str, Any]:
    """The values of a TOML text; raises ConfigError."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        what, _, place = str(error).rpartition(" (at ")
        found = re.fullmatch(r"line (\d+), column (\d+)\)", place)
        line, column = map(int, found.groups()) if found else (text.count("\n") + 1, None)
        what = what if found else f"{what} at the end of the file"
        raise _broken(file, f"not TOML: {what}", "mend its syntax", line, column) from None
    except (RecursionError, ValueError) as error:
        # Nested too deep, or a number longer than Python converts.
        raise _broken(file, f"not TOML: {error}", "mend its syntax") from None


def _broken(
    file: str, what: str, cure: str, line: int | None = None, column: int | None = None
) -> ConfigError:
    return ConfigError([Problem(file, line, column, "", what, cure)])


def _check_node(tables: File, host: Host, report: Report) -> None:
    if tables.node.name is None:
        try:
            read_name(host.name)
        except UnfitError as error:
            report.error(("node", "name"), f"the host's name: {error}", 'write name = "pi-1"')
    needs_interface = tables.node.vip_weight and not all(
        is_loopback(vip) for _, vip in vips(tables)
    )
    if needs_interface and tables.node.interface is None and host.interface is None:
        what = "no default route tells which interface VIPs belong to: this node cannot own one"
        report.warn(("node", "interface"), what, 'write interface = "eth0"')


def _socket(name: str, folder: Path, report: Report) -> Path:
    socket = key_files.resolve(name, folder)
    if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
        what = f"{socket} is longer than the {SOCKET_PATH_MAX} bytes of a socket's path"
        report.error(("admin", "socket"), what, "a shorter one")
    return socket


def _secrets(tables: File, folder: Path, report: Report) -> tuple[bytes, ...]:
    if not tables.cluster.secret_file:
        return (b"",)
    path = ("cluster", "secret_file")
    return key_files.read_secrets(tables.cluster.secret_file, folder, path, report)


def _mqtt(table: MqttTable, folder: Path, report: Report) -> Mqtt:
    password = None
    if table.password_file:
        path = ("mqtt", "password_file")
        password = key_files.read_password(table.password_file, folder, path, report)
    brokers = enumerate(filter(None, table.brokers), 1)
    return Mqtt(
        brokers=tuple(replace(broker, label=f"b{i}") for i, broker in brokers),
        password=password,
        embedded=table.embedded,
        **certificates.check_files(table, folder, report),
    )


def _token(table: AdminTable, folder: Path, report: Report) -> str | None:
    if not table.token_file:
        return None
    return key_files.read_token(table.token_file, folder, ("admin", "token_file"), report)


def _check_shadows(config: Config, report: Report) -> None:
    index = {route.name: i for i, route in enumerate(config.routes)}
    for gateway in plan(config, frozenset(), frozenset()).gateways:
        for shadow in shadows(gateway.routes):
            what = f'"{shadow.by}" takes all its requests for {shadow.host or "any host"}'
            cure = "equal routes go by name: change a host, the path, or drop one"
            place: KeyPath = ("route", index.get(shadow.route, 0))
            if shadow.route == DEFAULT:
                names = [one.name for one in config.gateways]
                place = ("gateway", names.index(gateway.name), "default_backend")
                cure = "leave one of the two out"
            report.warn(place, what, cure)
