"""TOML values -> the tables of `schema`, with every problem noted and none fatal."""

from __future__ import annotations

import typing
from enum import StrEnum
from functools import cache
from typing import Any, Final, TypeVar

import msgspec

from piagent.config.kinds import List, Map, Table
from piagent.config.later import LATER, LATER_KEYS
from piagent.config.lines import KeyPath
from piagent.config.problems import Report, did_you_mean, key_path
from piagent.config.schema import Kind
from piagent.config.values import OFF, Leaf, UnfitError

S = TypeVar("S", bound=msgspec.Struct)


@cache
def kinds(struct: type[msgspec.Struct]) -> dict[str, Kind]:
    """Return what each key of a table holds."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return {field.name: kind_of(hints[field.name]) for field in msgspec.structs.fields(struct)}


@cache
def required(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the keys that a table must have."""
    return tuple(field.name for field in msgspec.structs.fields(struct) if field.required)


def kind_of(annotation: Any) -> Kind:
    """Find the Leaf, Table, List or Map in an annotation, also in one that allows None."""
    for part in (annotation, *typing.get_args(annotation)):
        for extra in getattr(part, "__metadata__", ()):
            if isinstance(extra, Leaf | Table | List | Map):
                return extra
    raise TypeError(f"{annotation} says nothing about its values")


def read_table(struct: type[S], value: object, path: KeyPath, report: Report) -> S:
    """Read a table. What cannot be read is reported and left blank (see `Leaf.blank`)."""
    known = kinds(struct)
    found = value if isinstance(value, dict) else {}
    if found is not value:
        what = f"expected a table, got {_shown(value)}"
        report.error(path, what, f"write {_example(Table(struct), path)}")
    for key in found:
        if key not in known:
            _unknown(key, path, known, report)
    fields = {}
    for name, kind in known.items():
        place = (*path, name)
        if name in found:
            fields[name] = _read(kind, found[name], place, report)
        elif name in required(struct):
            if found is value:
                report.error(place, "is missing", f"write {_example(kind, place)}")
            fields[name] = _blank(kind)
    return struct(**fields)


def _read(kind: Kind, value: object, path: KeyPath, report: Report) -> Any:
    if isinstance(kind, Leaf):
        return _read_leaf(kind, value, path, report)
    if isinstance(kind, List):
        return _read_list(kind, value, path, report)
    if isinstance(kind, Map):
        return _read_map(kind, value, path, report)
    if kind.off and isinstance(value, str):
        if value != OFF:
            what = f'expected a table or "{OFF}", got {_shown(value)}'
            report.error(path, what, f"write {_example(kind, path)}")
        return None
    if kind.short is not None and not isinstance(value, dict):
        short = kinds(kind.struct)[kind.short]
        return kind.struct(**{kind.short: _read(short, value, path, report)})
    return read_table(kind.struct, value, path, report)


def _read_list(kind: List, value: object, path: KeyPath, report: Report) -> tuple[Any, ...]:
    if kind.bare and not isinstance(value, list):
        return (_read(kind_of(kind.of), value, path, report),)
    if not isinstance(value, list):
        what = f"expected a list, got {_shown(value)}"
        report.error(path, what, f"write {_example(kind, path)}")
        return ()
    if len(value) < kind.at_least:
        report.error(path, "is empty", f"write {_example(kind, path)}")
    element = kind_of(kind.of)
    return tuple(_read(element, one, (*path, i), report) for i, one in enumerate(value))


def _read_map(kind: Map, value: object, path: KeyPath, report: Report) -> dict[str, Any]:
    if not isinstance(value, dict):
        what = f"expected a table, got {_shown(value)}"
        report.error(path, what, f"write {_example(kind, path)}")
        return {}
    element, leaf = kind_of(kind.of), kind_of(kind.key)
    found: dict[str, Any] = {}
    for key, one in value.items():
        place = (*path, key)
        try:
            name = leaf.read(key) if isinstance(leaf, Leaf) and leaf.read else key
        except UnfitError as unfit:
            cure = unfit.cure or f"write {_example(kind, path)}"
            report.error(place, f"the key {unfit}", cure)
            continue
        if name in found:
            report.error(place, f'"{name}" is there already', "leave one of them out")
        found[name] = _read(element, one, place, report)
    return found


def _read_leaf(leaf: Leaf, value: object, path: KeyPath, report: Report) -> Any:
    try:
        plain = msgspec.convert(value, leaf.source)
    except msgspec.ValidationError:
        report.error(path, f"expected {leaf.wants}, got {_shown(value)}", _cure(leaf, value, path))
        return leaf.blank
    try:
        return plain if leaf.read is None else leaf.read(plain)
    except UnfitError as unfit:
        cure = unfit.cure or f"expected {leaf.wants}, as in {leaf.example}"
        report.error(path, str(unfit), cure)
        return leaf.blank


def _cure(leaf: Leaf, value: object, path: KeyPath) -> str:
    if (
        isinstance(leaf.source, type)
        and issubclass(leaf.source, StrEnum)
        and isinstance(value, str)
    ):
        return did_you_mean(value, list(leaf.source))
    return f"write {_example(leaf, path)}"


def _unknown(key: str, path: KeyPath, known: dict[str, Kind], report: Report) -> None:
    later = LATER_KEYS.get(_pattern(path), {})
    if key in later:
        report.error((*path, key), LATER, later[key] or "leave it out")
    else:
        where = f"[{key_path(path)}]" if path else "a file"
        report.error((*path, key), f"unknown key in {where}", did_you_mean(key, known))


def _blank(kind: Kind) -> Any:
    if isinstance(kind, Leaf):
        return kind.blank
    if isinstance(kind, List):
        return ()
    if isinstance(kind, Map):
        return {}
    known = kinds(kind.struct)
    return kind.struct(**{name: _blank(known[name]) for name in required(kind.struct)})


def _pattern(path: KeyPath) -> str:
    """Write a path without its list indices, as LATER_KEYS does."""
    return ".".join(part for part in path if isinstance(part, str))


def _example(kind: Kind, path: KeyPath) -> str:
    """Write an example of a key and its value in TOML; of the value alone for a list's element."""
    key = path[-1] if path else ""
    if len(path) == 1 and isinstance(kind, Table):
        return f"[{key}]"
    if len(path) == 1 and isinstance(kind, List):
        return f"[[{key}]]"
    return _example_value(kind) if isinstance(key, int) else f"{key} = {_example_value(kind)}"


def _example_value(kind: Kind) -> str:
    if isinstance(kind, Leaf):
        return kind.example
    if isinstance(kind, List):
        one = _example_value(kind_of(kind.of))
        return one if kind.bare else f"[{one}]"
    if isinstance(kind, Map):
        key = _example_value(kind_of(kind.key)).strip('"')
        return f"{{ {key} = {_example_value(kind_of(kind.of))} }}"
    known = kinds(kind.struct)
    keys = required(kind.struct) or list(known)[:1]
    pairs = (f"{key} = {_example_value(known[key])}" for key in keys)
    return "{ " + ", ".join(pairs) + " }"


SHOWN_MAX: Final = 60


def _shown(value: object) -> str:
    """Show a TOML value in an error message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= SHOWN_MAX else value[:SHOWN_MAX] + "…"
        return f'"{text}"'
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return str(value)[:SHOWN_MAX]
