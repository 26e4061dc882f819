"""What a check of a host or of a broker found: what, why it matters, and the cure."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """How bad it is."""

    GOOD = "good"
    """Checked, and as it should be."""
    WARNING = "warning"
    """It works, and less well or less safely than it could."""
    ERROR = "error"
    """piagent's promises do not hold like that."""


class Finding(Struct, frozen=True, kw_only=True):
    """One result."""

    level: Level
    check: str
    """Which check it comes from: one word."""
    what: str
    why: str = ""
    cure: str = ""
    """Commands or lines of configuration, ready to be copied."""


def good(check: str, what: str) -> Finding:
    """Say what was checked and is right."""
    return Finding(level=Level.GOOD, check=check, what=what)


def warning(check: str, what: str, *, why: str, cure: str) -> Finding:
    """Say what could be better."""
    return Finding(level=Level.WARNING, check=check, what=what, why=why, cure=cure)


def error(check: str, what: str, *, why: str, cure: str) -> Finding:
    """Say what must be changed."""
    return Finding(level=Level.ERROR, check=check, what=what, why=why, cure=cure)
