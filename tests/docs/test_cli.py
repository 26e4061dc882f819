"""docs/reference/cli.md has a section for each command, with all its arguments."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.cli import COMMANDS, main

PAGE = Path("docs/reference/cli.md").read_text()
SECTIONS = {
    found[1]: found[2]
    for found in re.finditer(r"(?ms)^## `piagent ([\w-]+).*?`\n(.*?)(?=^## |\Z)", PAGE)
}


def words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option and action of a parser and of those below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield name
                yield from words(below)
        elif not isinstance(action, argparse._HelpAction):
            yield from action.option_strings


def test_the_page_has_a_section_for_each_command_and_no_other() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_section_names_every_argument(command: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"piagent.cli.{command.replace('-', '_')}").add_arguments(parser)
    missing = [
        word
        for word in words(parser)
        if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", SECTIONS[command])
    ]
    assert missing == []


def test_the_example_of_the_page_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"(?s)\$ piagent (route explain .*?)\n(.*?)```", PAGE)
    assert example is not None
    assert main(shlex.split(example[1])) == 0
    assert capsys.readouterr().out == example[2]
