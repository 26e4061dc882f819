"""Tables written as TOML are read back as they were."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from piagent.cli.toml_text import LINE_MAX, array_table

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=6))
def test_what_is_read_back_is_what_was_written(table: dict[str, Any]) -> None:
    text = array_table("service", table)
    assert tomli.loads(text) == {"service": [table]}
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_service_looks_as_people_write_it() -> None:
    table = {"name": "web", "ports": [{"port": 80, "target_port": 8080}], "labels": {"a.b": "c"}}
    assert array_table("service", table) == (
        "[[service]]\n"
        'name = "web"\n'
        "ports = [{ port = 80, target_port = 8080 }]\n"
        'labels = { "a.b" = "c" }\n'
    )


def test_a_long_list_has_a_line_for_each_element() -> None:
    names = [f"backend-{number}" for number in range(20)]
    text = array_table("service", {"backends": names})
    assert max(map(len, text.splitlines())) <= LINE_MAX
    assert tomli.loads(text) == {"service": [{"backends": names}]}


@pytest.mark.parametrize(
    "text", ["\x7f", "\x1b[2J", "\u202e", "\u2028", '"\\', "é\n\t", "\U000e0001"]
)
def test_nothing_in_it_commands_a_terminal(text: str) -> None:
    written = array_table("service", {"name": text, text: 1})
    assert all(line.isprintable() for line in written.split("\n"))
    assert tomli.loads(written) == {"service": [{"name": text, text: 1}]}
