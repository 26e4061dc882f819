"""[[service]] health: what each kind of check needs, and what it must not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from piagent.config import ConfigError
from piagent.config.applied import parse_applied, read_record
from piagent.core import model
from piagent.core.records import Kind, Record
from tests.config.conftest import Load, Problems
from tests.config.test_services import GOOD, HTTP, TO, UDP, service

EXEC = 'health = { kind = "exec", command = ["/bin/true", "-x", ""], interval = "10s" }'


def test_a_check_by_a_program_is_taken_with_its_words_as_they_are(load: Load) -> None:
    loaded = load(GOOD + service("cluster", HTTP, TO, EXEC))
    assert loaded.warnings == ()
    assert loaded.config.services[0].health == model.HealthCheck(
        kind=model.HealthKind.EXEC, command=("/bin/true", "-x", ""), interval_ms=10_000
    )


def checked_port(load: Load, *lines: str) -> int:
    (made,) = load(GOOD + service("cluster", *lines)).config.services
    assert made.health is not None
    return model.checked_port(made, made.health, made.backends[0])


def test_a_program_is_told_the_first_port_of_whatever_protocol(load: Load) -> None:
    assert checked_port(load, UDP, TO, EXEC) == 53
    assert checked_port(load, UDP, TO, EXEC.replace("interval", "port = 9, interval")) == 9


ERRORS = {
    # what is wrong: (the check, key of the one error, part of what, part of the cure)
    "an unknown kind": ('kind = "exe", command = ["true"], path = "/x"', ".kind", "expected one of",
                        'did you mean "exec"'),
    "no program": ('kind = "exec"', ".command", "is missing", 'command = ["/usr/local/bin/check"]'),
    "no words": ('kind = "exec", command = []', ".command", "is empty", "command ="),
    "no path": ('kind = "exec", command = ["check"]', ".command[0]", "not the whole path",
                "no shell"),
    "a relative path": ('kind = "exec", command = ["./check"]', ".command[0]",
                        "not the whole path", "no shell"),
    "a line for a shell": ('kind = "exec", command = "/bin/true -x"', ".command",
                           "expected a list", "command = ["),
    "a NUL": ('kind = "exec", command = ["/bin/true", "a\\u0000b"]', ".command[1]", "NUL", "NUL"),
    "a number": ('kind = "exec", command = ["/bin/true", 1]', ".command[1]", "expected", ""),
    "a program beside tcp": ('command = ["/bin/true"]', ".command", "kind tcp runs no program",
                             'kind = "exec"'),
    "a program beside http": ('kind = "http", command = ["/bin/true"]', ".command",
                              "kind http runs no program", 'kind = "exec"'),
    "a path beside a program": ('kind = "exec", command = ["/bin/true"], path = "/x"', ".path",
                                "an exec check looks at no answer", 'kind = "http"'),
    "statuses beside a program": ('kind = "exec", command = ["/bin/true"], expect = [200]',
                                  ".expect", "an exec check looks at no answer", 'kind = "http"'),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_it_is_one_error_with_its_cure(errors: Problems, case: tuple[str, str, str, str]) -> None:
    check, key, what, cure = case
    (problem,) = errors(GOOD + service("cluster", HTTP, TO, f"health = {{ {check} }}"))
    assert problem.key == f"service[0].health{key}"
    assert what in problem.what
    assert cure in problem.cure


def test_a_program_that_cannot_run_here_is_a_warning(load: Load, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch(0o644)
    for name in ("/nowhere/check", str(plain), str(tmp_path)):
        line = f'health = {{ kind = "exec", command = ["{name}"] }}'
        (warning,) = load(GOOD + service("cluster", HTTP, TO, line)).warnings
        assert warning.key == "service[0].health.command[0]"
        assert name in warning.what


def test_who_may_apply_services_may_not_run_programs() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_applied(service("load-balancer", HTTP, TO, EXEC).encode(), "web.toml")
    (problem,) = caught.value.errors
    assert problem.key == "service[0].health.kind"
    assert "may not run programs" in problem.what
    assert "nodes' files" in problem.cure


def test_a_node_reads_no_program_from_what_is_retained_whoever_signed_it() -> None:
    table = {
        "name": "a",
        "ports": [{"port": 80}],
        "backends": ["192.0.2.21"],
        "health": {"kind": "exec", "command": ["/bin/true"]},
    }
    read = read_record(Record(kind=Kind.SERVICE, name="a", table=table))
    assert isinstance(read, str)
    assert "may not run programs" in read
