"""Secrets in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from piagent.config.key_files import SIZE_MAX
from tests.config.conftest import Load, Problems

BASE = '[mqtt]\nbrokers = ["mqtt://me@192.0.2.1"]\n'
SECRET = BASE + '[cluster]\nsecret_file = "{}"\n'
PASSWORD = SECRET.format("cluster.secret").replace("[mqtt]", '[mqtt]\npassword_file = "{}"')


def write(file: Path, data: bytes, mode: int = 0o600) -> Path:
    file.write_bytes(data)
    file.chmod(mode)
    return file


def test_a_secret_is_named_relative_to_the_file_or_from_the_root(load: Load, folder: Path) -> None:
    (folder / "keys").mkdir()
    write(folder / "keys" / "a", b" \t0123456789abcdef\r\n")
    for name in ("keys/a", "./keys/../keys/a", str(folder / "keys" / "a")):
        assert load(SECRET.format(name)).config.secrets == (b"0123456789abcdef",)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"0123456789abcde\n", "line 1 has 15 bytes of secret: at least 16 are needed"),
        (b"\n0123456789abcdef\nshort\n", "line 3 has 5 bytes of secret: at least 16 are needed"),
        (b"0123456789abcdef\n 0123456789abcdef\n", "has one secret twice"),
        (b"".join(b"0123456789abcde%d\n" % i for i in range(4)), "has 4 lines, each of them"),
        (b"x" * (SIZE_MAX + 1), "is not a file of at most 4096 bytes"),
    ],
)
def test_a_secret_that_is_none_is_an_error(
    errors: Problems, folder: Path, data: bytes, what: str
) -> None:
    write(folder / "bad", data)
    (problem,) = errors(SECRET.format("bad"))
    assert (problem.key, problem.line) == ("cluster.secret_file", 4)
    assert what in problem.what
    assert problem.cure


def test_a_file_may_hold_several_secrets_one_a_line(load: Load, folder: Path) -> None:
    new, old = b"fedcba9876543210", b"0123456789abcdef"
    write(folder / "both", b"\n" + new + b"  \r\n\n\t" + old)
    assert load(SECRET.format("both")).config.secrets == (new, old)


def test_no_problem_with_secrets_shows_any_of_them(errors: Problems, folder: Path) -> None:
    write(folder / "bad", b"confidential\nconfidential\nclassified")
    assert len(errors(SECRET.format("bad"))) == 4
    assert not any(
        "conf" in str(one) or "class" in str(one) for one in errors(SECRET.format("bad"))
    )


def test_what_is_not_a_readable_file_is_an_error(errors: Problems, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for name, what in {"none": "No such file", "fifo": "not a file", ".": "not a file"}.items():
        (problem,) = errors(SECRET.format(name))
        assert what in problem.what
    (problem,) = errors(SECRET.format("/dev/zero"))
    assert "not a file" in problem.what
    (problem,) = errors(SECRET.format(""))
    assert "an empty path" in problem.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_without_permission_is_an_error(errors: Problems, folder: Path) -> None:
    write(folder / "mine", b"0123456789abcdef", 0)
    (problem,) = errors(SECRET.format("mine"))
    assert "Permission denied" in problem.what
    assert f"uid {os.geteuid()}" in problem.cure


def test_a_secret_that_everybody_can_read_is_a_warning(load: Load, folder: Path) -> None:
    write(folder / "open", b"0123456789abcdef", 0o644)
    loaded = load(SECRET.format("open"))
    assert loaded.config.secrets == (b"0123456789abcdef",)
    warning = next(one for one in loaded.warnings if one.key)
    assert warning.key == "cluster.secret_file"
    assert warning.cure == f"chmod o= {folder / 'open'}"


def test_a_password_is_one_line_of_text(load: Load, errors: Problems, folder: Path) -> None:
    write(folder / "good", "pässword 1\n".encode())
    assert load(PASSWORD.format("good")).config.mqtt.password == "pässword 1"
    for data in (b"", b"a\nb", b"\xff", b"a\0b"):
        write(folder / "bad", data)
        (problem,) = errors(PASSWORD.format("bad"))
        assert problem.key == "mqtt.password_file"
        assert "not one line of text" in problem.what
