"""How a problem reads."""

from __future__ import annotations

import pytest

from piagent.config.problems import ConfigError, Problem, Report, did_you_mean, key_path


def test_a_key_path_reads_like_toml() -> None:
    assert key_path(("service", 2, "ports", 0, "port")) == "service[2].ports[0].port"
    assert key_path(("node",)) == "node"
    assert key_path(()) == ""


def test_a_problem_is_one_line_with_what_is_known() -> None:
    assert str(Problem("f", 3, 7, "", "what", "cure")) == "f:3:7: what; cure"
    assert str(Problem("f", 3, None, "a.b", "what", "cure")) == "f:3: a.b: what; cure"
    assert str(Problem("f", None, None, "", "what", "")) == "f: what"


def test_a_close_word_is_suggested_and_else_all_are_listed() -> None:
    assert did_you_mean("wokers", ["workers", "name"]) == 'did you mean "workers"?'
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert did_you_mean("zzz", []) == "there is none"


def test_a_place_without_a_line_has_that_of_what_is_around_it() -> None:
    report = Report("f", "[a]\n\n[[b]]\nc = [1]\n")
    report.error(("b", 0, "c", 5, "x"), "third", "")
    report.error(("b", 0, "d"), "second", "")
    report.error(("zz",), "first", "")
    with pytest.raises(ConfigError) as caught:
        report.warnings()
    found = [(problem.what, problem.line) for problem in caught.value.errors]
    assert found == [("first", None), ("second", 3), ("third", 4)]


def test_what_came_from_the_file_cannot_control_the_terminal() -> None:
    report = Report("f", "")
    report.warn(("a\x1b[2J\n",), f'"{"x" * 9999}"', "\u202e")
    (problem,) = report.warnings()
    assert problem.key == "a\\u001b[2J\\u000a"
    assert len(problem.what) < 400
    assert str(problem).isprintable()


def test_warnings_come_back_when_there_is_no_error() -> None:
    report = Report("f", "a = 1\nb = 2\n")
    report.warn(("b",), "second", "")
    report.warn(("a",), "first", "")
    assert [problem.what for problem in report.warnings()] == ["first", "second"]
