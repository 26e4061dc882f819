"""The command line's frame: how commands are found, how they end."""

from __future__ import annotations

import argparse
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from piagent import __version__
from piagent.cli import COMMANDS, main
from piagent.cli.output import WRONG_INPUT, Failure, columns

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def greet(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Register a command `greet NAME`; the test says what it does."""

    def register(act: Callable[[], int]) -> None:
        module = ModuleType("piagent.cli.greet")

        def add_arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("name")

        def run(_args: argparse.Namespace) -> int:
            return act()

        vars(module).update(add_arguments=add_arguments, run=run)
        monkeypatch.setitem(sys.modules, "piagent.cli.greet", module)
        monkeypatch.setitem(COMMANDS, "greet", "say hello")

    return register


def test_without_arguments_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: piagent" in capsys.readouterr().out


def test_help_names_every_command(
    greet: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    greet(lambda: 0)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert all(f"{name} {line}" in words for name, line in COMMANDS.items())


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"piagent {__version__}\n"


@pytest.mark.parametrize("words", [["greett"], ["--nonsense"], ["greet"], ["greet", "a", "b"]])
def test_wrong_usage_is_exit_code_2(
    words: list[str], greet: Callable[[Callable[[], int]], None]
) -> None:
    greet(lambda: 0)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == WRONG_INPUT


def test_a_command_gives_the_exit_code(greet: Callable[[Callable[[], int]], None]) -> None:
    greet(lambda: 1)
    assert main(["greet", "you"]) == 1


def test_a_failure_is_one_message_on_stderr(
    greet: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise Failure("the file is not there", WRONG_INPUT)

    greet(fail)
    assert main(["greet", "you"]) == WRONG_INPUT
    assert capsys.readouterr() == ("", "the file is not there\n")


def test_ctrl_c_ends_quietly(
    greet: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    greet(interrupted)
    assert main(["greet", "you"]) == 130
    assert capsys.readouterr() == ("", "")


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "piagent.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"piagent {__version__}\n"


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"asyncio", "msgspec", "paho", "pyroute2", "netifaces", "tomli", "fastpath", "rich"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys, piagent.cli; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not heavy & set(done.stdout.split())


def test_columns_hold_no_command_to_the_terminal() -> None:
    assert columns([("pi\x1b[2J", "b\nc")]) == r"pi\x1b[2J  b\nc"


def test_columns_are_aligned() -> None:
    assert columns([("a", "bbb", "c"), ("aaaa", "b", "")]) == "a     bbb  c\naaaa  b"
