"""What is applied: the [[service]], [[gateway]] and [[route]] tables of a file, each for itself.

Whether they fit what is in force already (names, addresses, what routes lead to) is the leader's to
say: `core.applying`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct

from piagent.config.build import build_gateway, build_route, build_service
from piagent.config.checks import check_policy, check_route, check_service
from piagent.config.entry import check_applied_entry, check_entry
from piagent.config.error_pages import refuse_pages
from piagent.config.file import decoded, toml
from piagent.config.kinds import List, Table
from piagent.config.problems import ConfigError, Problem, Report, elements, unique
from piagent.config.proxying import check_applied
from piagent.config.reader import read_table
from piagent.config.schema import File, Gateway, Route, Service
from piagent.config.users import refuse_users
from piagent.core.applying import Change
from piagent.core.catalog import Thing
from piagent.core.records import Kind, Record

VERSION = "version"
"""A key that only applied tables have: the version that is to be replaced."""
_VERSION_MAX = 2**31


class Applied(Struct, frozen=True, kw_only=True):
    """A file to apply."""

    service: Annotated[tuple[Service, ...], List(Annotated[Service, Table(Service)])] = ()
    gateway: Annotated[tuple[Gateway, ...], List(Annotated[Gateway, Table(Gateway)])] = ()
    route: Annotated[tuple[Route, ...], List(Annotated[Route, Table(Route)])] = ()


def load_applied(path: str | os.PathLike[str]) -> tuple[Change, ...]:
    """Read a file to apply; raises ConfigError with all that is wrong with it."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([Problem(str(path), None, None, "", f"cannot read it: {why}",
                                   "name a file that is there")]) from None  # fmt: skip
    return parse_applied(data, str(path))


def parse_applied(data: bytes, file: str) -> tuple[Change, ...]:
    """Read the content of a file to apply."""
    text = decoded(data, file)
    values = toml(text, file)
    report = Report(file, text)
    for key in values:
        if key in File.__struct_fields__ and key not in Applied.__struct_fields__:
            what = "is a node's own and cannot be applied"
            report.error((key,), what, "leave it in the node's file")
    own = {key: value for key, value in values.items() if key not in _node_keys()}
    versions = _take_versions(own, report)
    tables = read_table(Applied, own, (), report)
    _check(tables, report)
    if not any((tables.service, tables.gateway, tables.route)):
        report.error((), "there is nothing in it to apply", "write a [[service]]")
    report.warnings()
    return tuple(
        Change(kind=kind, name=table["name"], table=table, version=versions.get((kind, i)))
        for kind in Kind
        for i, table in enumerate(own.get(kind, ()))
    )


def read_record(record: Record) -> Thing | str:
    """Make a thing of what was applied, or say why that cannot be."""
    report = Report("", "")
    values: dict[str, Any] = {record.kind.value: [record.table]}
    try:
        tables = read_table(Applied, values, (), report)
        _check(tables, report)
        report.warnings()
    except ConfigError as error:
        return "; ".join(map(str, error.errors))
    thing: Thing
    if record.kind is Kind.SERVICE:
        thing = build_service(tables.service[0])
    elif record.kind is Kind.GATEWAY:
        thing = build_gateway(tables.gateway[0])
    else:
        thing = build_route(tables.route[0])
    return thing if thing.name == record.name else f'its name is "{thing.name}"'


def _node_keys() -> set[str]:
    return set(File.__struct_fields__) - set(Applied.__struct_fields__)


def _take_versions(values: dict[str, Any], report: Report) -> dict[tuple[str, int], int]:
    """Take the versions out of the tables: they are not part of what is applied."""
    found: dict[tuple[str, int], int] = {}
    for kind in Kind:
        tables = values.get(kind, ())
        for i, table in enumerate(tables if isinstance(tables, list) else ()):
            version = table.pop(VERSION, None) if isinstance(table, dict) else None
            if version is None:
                continue
            if (
                isinstance(version, int)
                and not isinstance(version, bool)
                and 0 <= version < _VERSION_MAX
            ):
                found[kind, i] = version
            else:
                what = "expected the version that it has now"
                report.error((kind, i, VERSION), what, "a number; 0: it is not there yet")
    return found


def _check(tables: Applied, report: Report) -> None:
    for kind in Kind:
        names = (((kind, i, "name"), t.name) for i, t in enumerate(getattr(tables, kind)))
        unique(report, names)
    for i, service in enumerate(tables.service):
        check_service(service, ("service", i), report)
        check_policy(service, ("service", i), (), report)
        check_applied(service, ("service", i), report)
    for i, gateway in enumerate(tables.gateway):
        unique(report, elements(("gateway", i, "listen"), (one.port for one in gateway.listen)))
        check_entry(gateway, ("gateway", i), report)
        check_applied_entry(gateway, ("gateway", i), report)
    for i, route in enumerate(tables.route):
        check_route(route, ("route", i), report)
        refuse_pages(route, ("route", i), report)
        refuse_users(route, ("route", i), report)
