"""What reaches a terminal or a log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pi-1: größer, 10 µs", "pi-1: größer, 10 µs"),
        ("a\x1b[2J\x07b", r"a\x1b[2J\x07b"),
        ("a\nINFO b", r"a\nINFO b"),
        ("\x9b31m\u2028\u202e", r"\x9b31m\u2028\u202e"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()
