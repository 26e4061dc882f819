"""Writes tables as TOML: what JSON can say but null, each key of a table on a line of its own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE_MAX: Final = 88
"""A list that would be longer has a line for each element."""


def array_table(name: str, table: Mapping[str, Any]) -> str:
    """Write one element of an array of tables: `[[service]]` and its keys."""
    lines = [f"{_key(key)} = {_lines(value)}" for key, value in table.items()]
    return "\n".join((f"[[{_key(name)}]]", *lines)) + "\n"


def _lines(value: Any) -> str:
    line = _value(value)
    if len(line) <= LINE_MAX or not isinstance(value, list):
        return line
    return "[\n" + "".join(f"  {_value(one)},\n" for one in value) + "]"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    # The escapes of JSON are TOML's, too; what does not print is nothing for a terminal.
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)
