"""[admin]: where the API listens by TCP, and its token."""

from __future__ import annotations

from pathlib import Path

import pytest

from piagent.cli.check import describe, resolve
from piagent.core.model import Listen
from piagent.core.plan import plan
from tests.config.conftest import Load, Problems

BASE = """\
[cluster]
secret_file = "cluster.secret"
[mqtt]
brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]
[[pool]]
name = "lan"
addresses = ["192.0.2.240/28"]
[[gateway]]
name = "web"
address = "192.0.2.241"
listen = [{ port = 80 }]
[[route]]
name = "r"
gateway = "web"
[admin]
"""
LINE = BASE.count("\n") + 1
TOKEN = b"0123456789abcdef"


def write(folder: Path, data: bytes, mode: int = 0o600) -> None:
    (folder / "admin.token").write_bytes(data)
    (folder / "admin.token").chmod(mode)


def test_without_keys_there_is_the_socket_only(load: Load) -> None:
    config = load(BASE).config
    assert (config.admin_listen, config.admin_token) == (None, None)


def test_this_host_needs_no_token(load: Load) -> None:
    for text, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
        loaded = load(f'{BASE}listen = "{text}:9180"')
        assert loaded.config.admin_listen == Listen(address=address, port=9180)
        assert loaded.config.admin_token is None
        assert not [one for one in loaded.warnings if one.key.startswith("admin")]


def test_the_token_is_one_line_of_its_file(load: Load, folder: Path) -> None:
    write(folder, b" " + TOKEN + b"\r\n\n")
    loaded = load(f'{BASE}listen = "127.0.0.1:9180"\ntoken_file = "admin.token"')
    assert loaded.config.admin_token == TOKEN.decode()


def test_check_shows_that_there_is_a_token_and_not_which(load: Load, folder: Path) -> None:
    write(folder, TOKEN)
    config = load(f'{BASE}listen = "127.0.0.1:9180"\ntoken_file = "admin.token"').config
    made = plan(config, frozenset(), frozenset())
    assert resolve(config, made)["config"]["admin_token"] is True
    assert TOKEN.decode() not in f"{resolve(config, made)} {describe(config, made)}"


def test_others_are_served_with_a_token_and_a_warning_that_it_can_be_heard(
    load: Load, folder: Path
) -> None:
    write(folder, TOKEN)
    for text in ("0.0.0.0", "[::]", "192.0.2.11"):
        loaded = load(f'{BASE}listen = "{text}:9180"\ntoken_file = "admin.token"')
        (warning,) = [one for one in loaded.warnings if one.key.startswith("admin")]
        assert "unencrypted" in warning.what
        assert loaded.config.admin_token == TOKEN.decode()


@pytest.mark.parametrize("text", ["0.0.0.0", "[::]", "192.0.2.11", "[2001:db8::1]"])
def test_others_are_not_served_without_one(errors: Problems, text: str) -> None:
    (problem,) = errors(f'{BASE}listen = "{text}:9180"')
    assert (problem.key, problem.line) == ("admin.listen", LINE)
    assert "there is no token" in problem.what
    assert "token_file" in problem.cure


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is not one line"),
        (b"\n \n", "is not one line"),
        (TOKEN + b"\n" + TOKEN, "is not one line"),
        (b"0123456789 abcdef", "is not one line"),
        (b"0123456789abc\xffdef", "is not one line"),
        (b"0123456789abcde", "has 15 characters: at least 16"),
        (TOKEN * 1000, "is not a file of at most"),
    ],
)
def test_a_token_that_is_none_is_an_error_that_shows_nothing_of_it(
    errors: Problems, folder: Path, data: bytes, what: str
) -> None:
    write(folder, data)
    (problem,) = errors(f'{BASE}listen = "127.0.0.1:9180"\ntoken_file = "admin.token"')
    assert (problem.key, problem.line) == ("admin.token_file", LINE + 1)
    assert what in problem.what
    assert problem.cure
    assert "0123456789" not in str(problem)


def test_a_token_file_that_is_not_there_or_for_everybody_is_told(
    load: Load, errors: Problems, folder: Path
) -> None:
    text = f'{BASE}listen = "127.0.0.1:9180"\ntoken_file = "admin.token"'
    (problem,) = errors(text)
    assert "No such file" in problem.what
    write(folder, TOKEN, 0o644)
    (warning,) = [one for one in load(text).warnings if one.key == "admin.token_file"]
    assert warning.cure.startswith("chmod o= ")


def test_a_token_that_nobody_asks_for_is_an_error(errors: Problems, folder: Path) -> None:
    write(folder, TOKEN)
    (problem,) = errors(f'{BASE}token_file = "admin.token"')
    assert problem.key == "admin.token_file"


@pytest.mark.parametrize(
    ("listen", "key"),
    [
        ("192.0.2.241:80", "admin.listen"),
        ("0.0.0.0:80", "admin.listen"),
        ("[::]:80", "admin.listen"),
    ],
)
def test_a_port_that_a_gateway_has_is_an_error(
    errors: Problems, folder: Path, listen: str, key: str
) -> None:
    write(folder, TOKEN)
    (problem,) = errors(f'{BASE}listen = "{listen}"\ntoken_file = "admin.token"')
    assert problem.key == key
    assert "gateway[0].listen[0]" in problem.what


def test_one_place_for_broker_and_api_is_one_error(errors: Problems, folder: Path) -> None:
    write(folder, TOKEN)
    text = BASE.replace("[[pool]]", 'embedded = "0.0.0.0:9180"\n[[pool]]')
    (problem,) = errors(f'{text}listen = "0.0.0.0:9180"\ntoken_file = "admin.token"')
    assert "mqtt.embedded" in problem.what
