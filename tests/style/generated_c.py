"""Finds Python's C API in the C that Cython made of functions which run without the GIL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.style.cython_source import Function
from tests.style.sources import Finding

_NO_CODE = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
_BODY = re.compile(r"^static [^\n;{]*?\b(__pyx_f_\w+)\([^;{]*\)\s*\{", re.MULTILINE)
_PYTHON = re.compile(r"\b(_?Py[A-Z]\w*|__Pyx_\w+)")
_POSITION = re.compile(r'/\* "([^"\n]+)":(\d+)\n')


class Body(NamedTuple):
    """One C function: where its braces are in the text of its file."""

    name: str
    start: int
    end: int


def mangled(module: str, function: Function) -> str:
    """The name that Cython gives a cdef function in C."""
    parts = [*module.split("."), *function.name.split(".")[:-1]]
    scope = "".join(f"{len(part)}{part}_" for part in parts)
    return f"__pyx_f_{scope}{function.name.split('.')[-1]}"


def without_gil(function: Function) -> bool:
    """Whether nothing of Python may be in it."""
    return function.kind != "def" and set(function.modifiers.split()) >= {"noexcept", "nogil"}


def code_of(text: str) -> str:
    """The C with comments and strings blanked out, every character where it was."""
    return _NO_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def bodies(code: str) -> list[Body]:
    """Every function that Cython made of a cdef function."""
    result = []
    for found in _BODY.finditer(code):
        depth, end = 1, found.end()
        while depth > 0:
            brace = re.compile(r"[{}]").search(code, end)
            if brace is None:
                break
            depth += 1 if brace[0] == "{" else -1
            end = brace.end()
        result.append(Body(found[1], found.end(), end))
    return result


def audit(path: Path, wanted: dict[str, tuple[str, int]]) -> tuple[list[Finding], set[str]]:
    """Uses of Python in the wanted functions (by C name: file and line) of one C file; those seen.

    A finding is at the Cython line that Cython names in its last comment before it, or else at the
    function's.
    """
    text = path.read_text()
    code = code_of(text)
    findings, seen = [], set()
    for body in bodies(code):
        if body.name not in wanted:
            continue
        seen.add(body.name)
        for found in _PYTHON.finditer(code, body.start, body.end):
            place = [*_POSITION.finditer(text, body.start, found.start())]
            source, line = (place[-1][1], int(place[-1][2])) if place else wanted[body.name]
            c_line = code.count("\n", 0, found.start()) + 1
            what = f"{found[1]} in {body.name}, which runs without the GIL ({path}:{c_line})"
            findings.append(Finding(source, line, what))
    return findings, seen
