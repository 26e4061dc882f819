"""Where in a TOML text each key stands, for error messages.

A TOML parser gives values without their places. This one reads a text that such a parser has
already accepted, so it need not find errors, and only notes the line of each table, key and list
element.
"""

from __future__ import annotations

import contextlib
import re
from typing import Final

KeyPath = tuple[str | int, ...]
"""The way to a value: `("service", 2, "ports", 0, "port")`."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(
    r"""[ \t]*(?:"(?P<basic>(?:[^"\\\n]|\\.)*)"|'(?P<literal>[^'\n]*)'|(?P<bare>[\w-]+))[ \t]*"""
)
_STRING: Final = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_SCALAR: Final = re.compile(r"[^,\]}\n#]*")


def line_numbers(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of every table, key and list element of valid TOML."""
    scanner = _Scanner(text)
    # Not TOML after all, or nested beyond reason: what was found so far is still right.
    with contextlib.suppress(IndexError, RecursionError):
        scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._counted_to = 0
        self._line = 1
        self._lengths: dict[KeyPath, int] = {}
        """How many elements each array of tables has so far."""

    def document(self) -> None:
        """Read it all."""
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        line = self._line_here()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        parts = self._dotted()
        self._at += 2 if is_array else 1
        path: KeyPath = ()
        for i, part in enumerate(parts):
            path = (*path, part)
            if is_array and i == len(parts) - 1:
                self._lengths[path] = self._lengths.get(path, 0) + 1
                self.lines.setdefault(path, line)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        self.lines.setdefault(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line_here()
        path = table
        for part in self._dotted():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first == "[":
            self._elements(path)
        elif first == "{":
            self._at += 1
            self._skip(_BLANK)
            while self._text[self._at] != "}":
                self._pair(path)
                self._separator("}")
            self._at += 1
        else:
            self._skip(_STRING if first in "\"'" else _SCALAR)

    def _elements(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        index = 0
        while self._text[self._at] != "]":
            self.lines[*path, index] = self._line_here()
            self._value((*path, index))
            self._separator("]")
            index += 1
        self._at += 1

    def _separator(self, end: str) -> None:
        """Step over a comma, if one is there, and the space around it; never stand still."""
        self._skip(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_BLANK)
        elif self._text[self._at] != end:
            raise IndexError

    def _dotted(self) -> list[str]:
        parts: list[str] = []
        while True:
            found = _KEY.match(self._text, self._at)
            if found is None:
                raise IndexError
            parts.append(next(group for group in found.groups() if group is not None))
            self._at = found.end()
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise IndexError
        self._at = found.end()

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line
