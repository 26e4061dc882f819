"""The templates' TOML says exactly what the inventory's variables say, whatever is in them."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

jinja2 = pytest.importorskip("jinja2", reason="ansible is not installed")
filters = pytest.importorskip("ansible.plugins.filter.core", reason="ansible is not installed")

TEMPLATES = Path(__file__).parents[2] / "ansible/roles/piagent/templates"


class UnsayableError(Exception):
    """What the template's `undef()` raises."""


def undef(hint: str) -> None:
    raise UnsayableError(hint)


@functools.cache
def template() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, autoescape=False
    )
    environment.filters["to_json"] = filters.to_json
    environment.tests["match"] = lambda value, pattern: re.match(pattern, value) is not None
    environment.globals["undef"] = undef
    return environment.get_template("toml.j2")


def to_toml(tables: dict[str, Any]) -> str:
    return str(template().module.document(tables))


texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=12
)
tables = st.dictionaries(texts, values, min_size=1)


@given(st.dictionaries(st.sampled_from(["node", "mqtt"]), tables), st.lists(tables, max_size=3))
def test_reading_the_toml_gives_the_variables_back(
    single: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    given_tables = single | ({"service": several} if several else {})
    assert tomli.loads(to_toml(given_tables)) == given_tables


@pytest.mark.parametrize(
    "text",
    ['a"b', "a\\b", "a\nb", "'''", '"""', "\x00\x7f\x1f", "ä€😀", "# no comment", "true", ""],
)
def test_no_text_leaves_its_quotes(text: str) -> None:
    said = {"node": {text: text, "list": [text, {text: [text]}]}}
    assert tomli.loads(to_toml(said)) == said


def test_a_null_is_left_out_and_an_empty_table_too() -> None:
    said = to_toml({"node": {"name": "pi-1", "interface": None}, "election": {}, "pool": []})
    assert tomli.loads(said) == {"node": {"name": "pi-1"}}


def test_what_toml_cannot_say_is_refused_with_its_place() -> None:
    with pytest.raises(UnsayableError, match=re.escape("service[1].ports[0].name")):
        to_toml({"service": [{}, {"ports": [{"name": {1, 2}}]}]})
