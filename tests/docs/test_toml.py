"""docs/reference/toml.md says what the schema says."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest
import tomli

from piagent.config.election import OVERRIDES, PROFILES
from piagent.config.kinds import List, Map, Table
from piagent.config.reader import kind_of, kinds
from piagent.config.schema import File
from piagent.config.values import Leaf

PAGE = Path("docs/reference/toml.md").read_text()
ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.*) \|")


def schema() -> dict[str, type[msgspec.Struct]]:
    """The heading of each table on the page -> its struct."""
    found: dict[str, type[msgspec.Struct]] = {}

    def add(place: str, struct: type[msgspec.Struct], *, is_list: bool) -> None:
        found[place if "." in place else f"[[{place}]]" if is_list else f"[{place}]"] = struct
        below(struct, f"{place}.")

    def below(struct: type[msgspec.Struct], prefix: str) -> None:
        for key, kind in kinds(struct).items():
            inner = kind_of(kind.of) if isinstance(kind, List | Map) else kind
            if isinstance(inner, Table):
                add(prefix + key, inner.struct, is_list=isinstance(kind, List))

    below(File, "")
    return found


def page() -> dict[str, dict[str, str]]:
    """Heading -> key -> default, as the page has them."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)[1:]:
        heading = section[1 : section.index("`", 1)]
        found[heading] = {key: default for key, default, _ in ROW.findall(section)}
    return found


def test_the_page_has_a_section_for_each_table_and_no_other() -> None:
    assert page().keys() == schema().keys()


@pytest.mark.parametrize("heading", schema())
def test_the_page_has_a_row_for_each_key_and_no_other(heading: str) -> None:
    assert page()[heading].keys() == kinds(schema()[heading]).keys()


@pytest.mark.parametrize("heading", schema())
def test_the_page_has_the_defaults_of_the_schema(heading: str) -> None:
    for field in msgspec.structs.fields(schema()[heading]):
        shown = page()[heading][field.name]
        assert (shown == "**required**") == field.required, field.name
        kind = kinds(schema()[heading])[field.name]
        if not shown.startswith("`") or field.default is None:
            continue
        value = tomli.loads(f"x = {shown.strip('`')}")["x"]
        if isinstance(kind, Leaf) and kind.source is str and isinstance(field.default, int):
            value = kind.read(value) if kind.read else value
        default = field.default
        if default is msgspec.NODEFAULT:
            default = field.default_factory()
        assert value == (default.value if isinstance(default, StrEnum) else _plain(default))


def _plain(default: object) -> object:
    return list(default) if isinstance(default, tuple) else default


def test_the_page_has_the_values_of_the_profiles() -> None:
    for name, timing in PROFILES.items():
        values = [f"{getattr(timing, f'{key}_ms')}ms" for key in OVERRIDES]
        assert f"| {name} | {' | '.join(values)} |" in PAGE
    assert f"| profile | {' | '.join(OVERRIDES)} |" in PAGE


def test_the_page_names_every_value_that_a_key_can_have() -> None:
    for heading, struct in schema().items():
        for key, kind in kinds(struct).items():
            if isinstance(kind, Leaf) and isinstance(kind.source, type):
                if not issubclass(kind.source, StrEnum):
                    continue
                row = next(line for line in section(heading).splitlines() if f"| `{key}` |" in line)
                assert all(f'`"{value}"`' in row for value in kind.source)


def section(heading: str) -> str:
    start = PAGE.index(f"# `{heading}`")
    end = PAGE.find("\n#", start)
    return PAGE[start : end if end > 0 else None]
