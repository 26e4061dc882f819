"""What a route asks of a request beside host and path, and the check that it makes sense."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol

METHODS = (
    "", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
)  # fmt: skip
"""Those with a number, in the order of http1.pxd's method_t."""

_PREDICATES_MAX = 16
_HEADER = 8
_CLASSES = 256


class Predicate(NamedTuple):
    """What a header or query parameter must be."""

    name: str
    """A header's in lower case."""
    value: bytes
    program: bytes = b""
    """A compiled regular expression (`piagent.core.patterns`) in place of the value."""


class Program(NamedTuple):
    """The parts of a compiled regular expression."""

    n_states: int
    n_classes: int
    first: int
    classes: bytes
    """The class of each byte."""
    accepts: bytes
    """Of each state, whether a value that ends there matches; padded to an even size."""
    table: array[int]
    """The next states, a row for each state."""


class Conditional(Protocol):
    """A route, as far as this file is concerned."""

    @property
    def methods(self) -> tuple[str, ...]:
        """None: every method."""

    @property
    def headers(self) -> tuple[Predicate, ...]:
        """All of them must fit."""

    @property
    def query(self) -> tuple[Predicate, ...]:
        """All of them must fit."""

    @property
    def program(self) -> bytes:
        """The path's."""


def check_conditions(place: str, route: Conditional) -> None:
    """Raise ValueError, naming the place, for what the engine could not run."""
    kinds: tuple[tuple[str, Sequence[object]], ...] = (
        ("methods", route.methods),
        ("headers", route.headers),
        ("query parameters", route.query),
    )
    for what, several in kinds:
        if len(several) > _PREDICATES_MAX:
            raise ValueError(f"{place}: {len(several)} {what}, {_PREDICATES_MAX} at most")
    for header in route.headers:
        if header.name != header.name.lower():
            raise ValueError(f"{place}: header {header.name!r} is not in lower case")
    for one in (*route.headers, *route.query):
        if one.program:
            check_program(f"{place}: {one.name!r}", one.program)
    if route.program:
        check_program(f"{place}: path", route.program)


def check_program(place: str, program: bytes) -> None:
    """Raise ValueError when a run of the program could leave its tables."""
    parts = parts_of(program) if len(program) >= _HEADER + _CLASSES else None
    if (
        parts is None
        or parts.n_states < 2
        or parts.first >= parts.n_states
        or len(parts.accepts) != parts.n_states + parts.n_states % 2
        or len(parts.table) != parts.n_states * parts.n_classes
        or max(parts.classes) >= parts.n_classes
        or max(parts.table) >= parts.n_states
    ):
        raise ValueError(f"{place}: not a compiled regular expression")


def parts_of(program: bytes) -> Program:
    """Take a program apart."""
    n_states, n_classes, first, _ = array("H", program[:_HEADER])
    accepts = _HEADER + _CLASSES
    table = accepts + n_states + n_states % 2
    rest = program[table:]
    return Program(
        n_states,
        n_classes,
        first,
        program[_HEADER:accepts],
        program[accepts:table],
        array("H", rest[: len(rest) // 2 * 2]),
    )
