"""What a value of a file may be beside a Leaf of `values`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from piagent.config.values import LabelName


class Table(Struct, frozen=True):
    """A value that is a table."""

    struct: type[Struct]
    short: str | None = None
    """The key that a bare value stands for: `"10.0.0.1"` for `{ address = "10.0.0.1" }`."""
    off: bool = False
    """Whether it may be "off" in place of a table; that is None, and so is no default."""


class List(Struct, frozen=True):
    """A value that is a list."""

    of: Any
    """The annotation of its elements: a Leaf's or a Table's."""
    at_least: int = 0
    bare: bool = False
    """Whether a value that is no list stands for a list of it alone."""


class Map(Struct, frozen=True):
    """A value that is a table whose keys are names of the user's own."""

    of: Any
    """The annotation of its values: a Leaf's or a Table's."""
    key: Any = LabelName
    """The annotation of its keys: a Leaf's."""
