"""docs/reference/api.md names every path and every field of the admin API, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import Struct

from piagent.admin import status
from piagent.admin.api import FLOW, PATHS, TUNNEL, WHY, WRITES
from piagent.core.applying import Change, Order, Outcome, Result, Verdict

PAGE = Path("docs/reference/api.md").read_text()
SECTIONS = dict(re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^## |\Z)", PAGE))
STRUCTS = {
    name: kind
    for name, kind in vars(status).items()
    if isinstance(kind, type) and issubclass(kind, Struct) and kind is not Struct
} | {kind.__name__: kind for kind in (Order, Change, Verdict, Outcome)}


def first_cells(text: str) -> list[str]:
    return re.findall(r"(?m)^\| `([^`]+)` \|", text)


def test_the_page_has_every_path_and_no_other() -> None:
    assert first_cells(PAGE.partition("\n## ")[0]) == [*PATHS, WHY, FLOW, TUNNEL, *WRITES]


def test_the_page_has_a_section_for_each_value_and_no_other() -> None:
    assert SECTIONS.keys() == STRUCTS.keys()


@pytest.mark.parametrize("name", STRUCTS)
def test_a_section_has_every_field_and_no_other(name: str) -> None:
    assert first_cells(SECTIONS[name]) == list(STRUCTS[name].__struct_fields__)


def test_the_page_names_every_result_of_a_change() -> None:
    assert all(f"`{result}`" in SECTIONS["Outcome"] for result in Result)
