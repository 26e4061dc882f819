"""What every command shares: how it fails, how it prints JSON and columns."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

from piagent.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FAILED = 1
WRONG_INPUT = 2
"""Exit code for wrong usage or configuration, as argparse gives it."""


class Failure(Exception):
    """Ends a command: its text goes to stderr, its code becomes the exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        """Take what to say, cure included, and the exit code."""
        super().__init__(text)
        self.code = code


def to_plain(value: object) -> Any:
    """What JSON can have of a value; of users of a route only their number."""
    import msgspec  # half of all commands need none of it

    from piagent.core.filters import Users

    def number(one: object) -> int:
        if isinstance(one, Users):
            return len(one)
        raise NotImplementedError

    return msgspec.to_builtins(value, enc_hook=number)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def columns(rows: Iterable[Sequence[str]], indent: str = "") -> str:
    """Align rows of text in columns two spaces apart, one line a row, whatever the text."""
    table = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
    return "\n".join(indent + line for line in lines)


def say(line: str) -> None:
    """Print a line at once; the work goes on when nobody reads it any more."""
    with contextlib.suppress(BrokenPipeError):
        print(printable(line), flush=True)


def warn(line: str) -> None:
    """Print a line to stderr at once."""
    with contextlib.suppress(BrokenPipeError):
        print(printable(line), file=sys.stderr, flush=True)
