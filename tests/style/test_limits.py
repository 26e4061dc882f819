"""What keeps files short enough to read in one sitting."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.style import cython_source
from tests.style.sources import CODE, CYTHON, PYTHON, TEXT, Finding, files, read, report

LINES_MAX = 600
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
WITH_TABS = {".c", ".h"}
MARK = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b(?!\(#\d+\))")
# Words to the tools do not count, as in ruff.
PRAGMA = re.compile(r"\s*# (?:noqa|type:).*")


def long_lines(path: str, text: str) -> list[Finding]:
    """Lines that a window of 100 columns does not show whole."""
    return [
        Finding(path, number, f"{len(line)} columns, {COLUMNS_MAX} at most")
        for number, line in enumerate(text.splitlines(), 1)
        if len(PRAGMA.sub("", line)) > COLUMNS_MAX
    ]


def long_file(path: str, text: str) -> list[Finding]:
    """A file that wants to be two."""
    count = len(text.splitlines())
    return [Finding(path, 1, f"{count} lines, {LINES_MAX} at most")] if count > LINES_MAX else []


def python_functions(text: str) -> list[tuple[str, int, int]]:
    """Name, first and last line of every function."""
    return [
        (node.name, node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def long_functions(path: str, text: str) -> list[Finding]:
    """Functions that do more than one thing, by all likelihood."""
    if Path(path).suffix in PYTHON:
        spans = python_functions(text)
    else:
        spans = [(each.name, each.line, each.last) for each in cython_source.functions(text)]
    return [
        Finding(path, first, f"{name}: {last - first + 1} lines, {FUNCTION_LINES_MAX} at most")
        for name, first, last in spans
        if last - first + 1 > FUNCTION_LINES_MAX
    ]


def marks(path: str, text: str) -> list[Finding]:
    """Things left to do that no issue knows of."""
    return [
        Finding(path, number, f"{found[1]} without an issue: write {found[1]}(#12)")
        for number, line in enumerate(text.splitlines(), 1)
        if (found := MARK.search(line))
    ]


def tabs_and_blanks(path: str, text: str) -> list[Finding]:
    """What an editor may show in another way than it is."""
    findings = [
        Finding(path, number, what)
        for number, line in enumerate(text.split("\n"), 1)
        for what, wrong in (
            ("a tab", "\t" in line and Path(path).suffix not in WITH_TABS),
            ("blanks at the end", line != line.rstrip() and Path(path).suffix != ".md"),
        )
        if wrong
    ]
    if text and not text.endswith("\n"):
        findings.append(Finding(path, text.count("\n") + 1, "no line end at the end"))
    return findings


def no_docstring(path: str, text: str) -> list[Finding]:
    """A module that does not say what it is for."""
    if Path(path).suffix in PYTHON:
        has = ast.get_docstring(ast.parse(text)) is not None
    else:
        has = text.lstrip().startswith(('"""', 'r"""'))
    return [] if has else [Finding(path, 1, "no docstring: say what the module is for")]


CHECKS = [
    pytest.param(long_lines, CODE, id="no line is longer than 100 columns"),
    pytest.param(long_file, CODE, id="no file is longer than 600 lines"),
    pytest.param(long_functions, (*CYTHON, *PYTHON), id="no function is longer than 70 lines"),
    pytest.param(marks, TEXT, id="what is left to do has an issue"),
    pytest.param(tabs_and_blanks, TEXT, id="no stray tabs and blanks"),
    pytest.param(no_docstring, (*CYTHON, *PYTHON), id="every module says what it is for"),
]


@pytest.mark.parametrize(("check", "suffixes"), CHECKS)
def test_the_tree_holds_the_limits(check: object, suffixes: tuple[str, ...]) -> None:
    assert callable(check)
    paths = files(*suffixes)
    assert paths
    report([finding for path in paths for finding in check(str(path), read(path))])


BODY = "    pass\n" * FUNCTION_LINES_MAX
METHOD_BODY = BODY.replace("p", "    p")
UNDONE = "todo".upper()
BAD = [
    (long_lines, "a.py", "ok\n" + "x" * 101, 2),
    (long_file, "a.py", "x = 1\n" * 601, 1),
    (long_functions, "a.py", "\ndef f():\n" + BODY, 2),
    (long_functions, "a.pyx", "\ncdef int f(\n    int a,\n) noexcept nogil:\n" + BODY, 2),
    (long_functions, "a.pyx", "cdef class A:\n\n    def f(self):\n" + METHOD_BODY, 3),
    (marks, "a.md", f"\n# {UNDONE}: later\n", 2),
    (tabs_and_blanks, "a.py", "if x:\n\ty = 1\n", 2),
    (tabs_and_blanks, "a.py", "x = 1 \n", 1),
    (tabs_and_blanks, "a.py", "x = 1", 1),
    (no_docstring, "a.py", "x = 1\n", 1),
    (no_docstring, "a.pxd", "# a comment\ncdef int f()\n", 1),
]


@pytest.mark.parametrize(("check", "path", "text", "line"), BAD)
def test_each_check_finds_what_it_looks_for(check: object, path: str, text: str, line: int) -> None:
    assert callable(check)
    assert [(finding.path, finding.line) for finding in check(path, text)] == [(path, line)]


GOOD = [
    (long_file, "a.py", "x = 1\n" * 600),
    (long_functions, "a.py", "def f():\n" + BODY[9:]),
    (long_functions, "a.pyx", "cdef int f() noexcept nogil:\n" + BODY[9:] + "\n\nx = 1\n"),
    (marks, "a.py", f"# {UNDONE}(#12): later\n"),
    (tabs_and_blanks, "a.c", "\treturn 0;\n"),
    (no_docstring, "a.pyx", '"""Says it."""\n'),
]


@pytest.mark.parametrize(("check", "path", "text"), GOOD)
def test_each_check_lets_pass_what_is_right(check: object, path: str, text: str) -> None:
    assert callable(check)
    assert check(path, text) == []
