"""Reads Cython sources well enough for the checks: functions, their extent, and imports."""

from __future__ import annotations

import re
from typing import NamedTuple

# Whichever begins first wins, so quotes in comments and hashes in strings are no trouble.
_NO_CODE = re.compile(
    r"""#[^\n]*|\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_HEADER = re.compile(r"^(?P<indent> *)(?P<kind>def|cdef|cpdef)\b(?P<rest>[^\n]*)", re.MULTILINE)
_NO_FUNCTION = re.compile(
    r"\s*(?:(?:public|packed|readonly)\s+)*(?:extern|struct|union|enum|class)\b"
)
_CLASS = re.compile(r"^(?:cdef\s+)?class\s+(\w+)", re.MULTILINE)
_FROM = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_PLAIN = re.compile(r"^\s*c?import\s+([^\n]*)", re.MULTILINE)


class Function(NamedTuple):
    """A function with a body."""

    name: str
    """`Class.method` for a method."""
    kind: str
    """def, cdef or cpdef."""
    line: int
    last: int
    modifiers: str
    """What stands between the arguments and the colon: `noexcept nogil`."""


class Import(NamedTuple):
    """One name that another module gives."""

    line: int
    module: str
    name: str
    """Empty for `cimport module`."""


def code_of(text: str) -> str:
    """The text with comments and strings blanked out, every line and column where it was."""
    return _NO_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _closing(code: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for at in range(start, len(code)):
        depth += (code[at] in "([{") - (code[at] in ")]}")
        if depth == 0:
            return at
    return len(code) - 1


def _last_line(lines: list[str], header: int, indent: int) -> int:
    """The last line (from 1) of the block under the header that ends on line `header`."""
    last = header
    for number, line in enumerate(lines[header:], header + 1):
        if line.strip():
            if len(line) - len(line.lstrip()) <= indent:
                break
            last = number
    return last


def functions(text: str) -> list[Function]:
    """Every function that has a body here, declarations left out."""
    code = code_of(text)
    lines = text.splitlines()
    classes = [(found.start(), found[1]) for found in _CLASS.finditer(code)]
    result = []
    for found in _HEADER.finditer(code):
        name = re.search(r"(\w+)\s*(?:\[[^\]\n]*\])?\s*\(", found["rest"])
        if _NO_FUNCTION.match(found["rest"]) or name is None:
            continue
        end = _closing(code, found.start("rest") + name.end() - 1)
        tail = re.compile(r"([^:\n=]*):").match(code, end + 1)
        if tail is None:
            continue
        indent = len(found["indent"])
        owner = [label for at, label in classes if at < found.start()]
        header = code.count("\n", 0, end) + 1
        result.append(
            Function(
                f"{owner[-1]}.{name[1]}" if indent and owner else name[1],
                found["kind"],
                code.count("\n", 0, found.start()) + 1,
                _last_line(lines, header, indent),
                tail[1].strip(),
            )
        )
    return result


def imports(text: str) -> list[Import]:
    """Everything that is imported or cimported."""
    code = code_of(text)
    result = []
    for found in _FROM.finditer(code):
        line = code.count("\n", 0, found.start(1)) + 1
        names = [name.split()[0] for name in found[2].strip("() \n").split(",") if name.strip()]
        result += [Import(line, found[1], name) for name in names]
    for found in _PLAIN.finditer(code):
        line = code.count("\n", 0, found.start(1)) + 1
        result += [Import(line, name.split()[0], "") for name in found[1].split(",")]
    return result
