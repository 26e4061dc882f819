"""What is wrong with a file: where, what, and the cure."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from piagent.config.lines import KeyPath, line_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TEXT_MAX: Final = 300
"""Characters shown of one part of a problem."""


def key_path(path: KeyPath) -> str:
    """Write a path as people do: `service[2].ports[0].port`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


class Problem(Struct, frozen=True):
    """One thing to mend."""

    file: str
    line: int | None
    """Counted from 1; None when the file itself is the problem."""
    column: int | None
    """Known for syntax errors only."""
    key: str
    """The key path; "" when there is none."""
    what: str
    cure: str

    def __str__(self) -> str:
        """Give everything in one line: `file:line: key: what; cure`."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = ": ".join(part for part in (place, self.key, self.what) if part)
        return f"{text}; {self.cure}" if self.cure else text


class ConfigError(Exception):
    """The file cannot be used."""

    def __init__(self, errors: Iterable[Problem]) -> None:
        """Take everything that is wrong with it."""
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, self.errors)))


class Report:
    """Collects the problems of one file, so that one run names them all."""

    def __init__(self, file: str, text: str) -> None:
        """Take the file's name and content; the content is only read to find line numbers."""
        self._file = file
        self._text = text
        self._lines: dict[KeyPath, int] | None = None
        self._errors: list[Problem] = []
        self._warnings: list[Problem] = []

    def error(self, path: KeyPath, what: str, cure: str) -> None:
        """Note what makes the file unusable."""
        self._errors.append(self._problem(path, what, cure))

    def warn(self, path: KeyPath, what: str, cure: str) -> None:
        """Note what works but is hardly meant."""
        self._warnings.append(self._problem(path, what, cure))

    def has_errors_in(self, path: KeyPath) -> bool:
        """Tell whether something in the table at `path` has been reported."""
        inside = _readable(key_path(path)) + "."
        return any(problem.key.startswith(inside) for problem in self._errors)

    def warnings(self) -> tuple[Problem, ...]:
        """Return the warnings in the file's order; raises ConfigError when there are errors."""
        if self._errors:
            raise ConfigError(sorted(self._errors, key=_line))
        return tuple(sorted(self._warnings, key=_line))

    def _problem(self, path: KeyPath, what: str, cure: str) -> Problem:
        key, line = _readable(key_path(path)), self._line_of(path)
        return Problem(self._file, line, None, key, _readable(what), _readable(cure))

    def _line_of(self, path: KeyPath) -> int | None:
        if self._lines is None:
            self._lines = line_numbers(self._text)
        for end in range(len(path), 0, -1):
            if path[:end] in self._lines:
                return self._lines[path[:end]]
        return None


def _readable(text: str) -> str:
    """Make what came from a file fit for a terminal: one line, no control character, an end."""
    short = text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "…"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in short)


def _line(problem: Problem) -> int:
    return problem.line or 0


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is closest, else list them all."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known: {', '.join(words)}" if words else "there is none"


def elements(path: KeyPath, values: Iterable[object]) -> Iterator[tuple[KeyPath, object]]:
    """Yield each element of a list with its place."""
    return (((*path, i), value) for i, value in enumerate(values))


def unique(
    report: Report, values: Iterable[tuple[KeyPath, object]], cure: str = "one of them must change"
) -> None:
    """Report each value that is there already; blank ones may be."""
    first: dict[object, KeyPath] = {}
    for path, value in values:
        if value and value in first:
            report.error(path, f'"{value}" is already taken by {key_path(first[value])}', cure)
        elif value:
            first[value] = path
