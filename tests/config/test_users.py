"""The filter basic_auth: what a file may say, and the files of users that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from piagent.cli.check import resolve
from piagent.cli.output import to_plain
from piagent.config.applied import parse_applied
from piagent.config.problems import ConfigError
from piagent.core.filters import BasicAuth, Users
from piagent.core.plan import plan
from tests.config.conftest import Load, Problems
from tests.config.test_filters import BASE, TO_APP, filters, route

BCRYPT = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"
SHA512 = (
    "$6$rounds=1000$abc$MqEcPZUYRGGcOeq7PhMpfjfu/F0HrVEI0OlZBijWvO8mSG77iNUDP5MqFceKpJTBc8iITVtNy"
    "LiNTRNCxv6oh0"
)
FILTER = '{ basic_auth = { users_file = "users" } }'


def write(folder: Path, *lines: str, mode: int = 0o640) -> None:
    file = folder / "users"
    file.write_text("\n".join((*lines, "")))
    file.chmod(mode)


def test_users_are_read_with_the_file(load: Load, folder: Path) -> None:
    write(folder, "# of the family", "alice:" + BCRYPT, "", " bób:" + SHA512 + " ")
    users = Users({"alice": BCRYPT, "bób": SHA512})
    assert filters(load, FILTER).basic_auth == BasicAuth(realm="restricted", users=users)
    text = "{ basic_auth = { users_file = 'users', realm = 'Say \"please\"' } }"
    assert filters(load, text).basic_auth == BasicAuth(realm='Say "please"', users=users)
    write(folder, "alice:" + SHA512)
    changed = filters(load, FILTER).basic_auth
    assert changed is not None
    assert changed.users == Users({"alice": SHA512})


@pytest.mark.parametrize(
    "hashed",
    [
        BCRYPT.replace("$05$", "$04$"),
        BCRYPT.replace("$05$", "$14$"),
        BCRYPT.replace("$2y$", "$2a$"),
        BCRYPT.replace("$2y$", "$2b$"),
        SHA512.replace("rounds=1000$", ""),
        SHA512.replace("=1000$", "=1000000$"),
        SHA512.replace("$abc$", "$" + "s" * 16 + "$"),
    ],
)
def test_both_kinds_of_hashes_are_taken(load: Load, folder: Path, hashed: str) -> None:
    write(folder, f"a:{hashed}")
    found = filters(load, FILTER).basic_auth
    assert found is not None
    assert len(found.users) == 1


@pytest.mark.parametrize(
    ("hashed", "what", "cure"),
    [
        ("$apr1$abc$0123456789abcdef", "an MD5 hash of Apache's, which is not taken", "-B"),
        ("$1$abc$0123456789abcdef", "an MD5 hash, which is not taken", "mkpasswd -m sha-512"),
        ("$5$abc$0123456789abcdef", "a SHA-256 hash", "mkpasswd -m sha-512"),
        ("$y$j9T$abc$0123456789abcdef", "a yescrypt hash", "mkpasswd -m sha-512"),
        ("$argon2id$v=19$0123456789abcdef", "an argon2 hash", "htpasswd -B"),
        ("{SHA}0123456789abcdef", "a SHA-1 hash", "htpasswd -B"),
        ("0123456789abcdef", "is none of bcrypt or SHA-512", "htpasswd -B"),
        ("", "is none of bcrypt or SHA-512", "htpasswd -B"),
        (BCRYPT[:-1], "its hash is incomplete", "htpasswd -B"),
        (BCRYPT + ":0123456789abcdef", "something stands behind it", "htpasswd -B"),
        (BCRYPT[:28] + "C" + BCRYPT[29:], "its hash is incomplete", "htpasswd -B"),
        (SHA512 + "0", "its hash is incomplete", "htpasswd -B"),
        (BCRYPT.replace("$05$", "$15$"), "bcrypt with cost 15, not 4 to 14", "-C 5"),
        (BCRYPT.replace("$05$", "$03$"), "bcrypt with cost 3, not 4 to 14", "-C 5"),
        (SHA512.replace("=1000$", "=999$"), "SHA-512 with 999 rounds", "mkpasswd"),
        (SHA512.replace("=1000$", "=1000001$"), "SHA-512 with 1000001 rounds", "mkpasswd"),
    ],
)
def test_another_hash_is_refused_with_its_line_and_is_not_shown(
    errors: Problems, folder: Path, hashed: str, what: str, cure: str
) -> None:
    write(folder, f"good:{BCRYPT}", f"alice:{hashed}")
    (problem,) = errors(route(FILTER))
    assert problem.key == "route[0].filters[0].basic_auth.users_file"
    assert problem.line is not None
    assert f"{folder}/users line 2: " in problem.what
    assert what in problem.what
    assert cure in problem.cure
    for secret in ("0123456789abcdef", BCRYPT[10:25], SHA512[25:40]):
        assert secret not in str(problem)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("hunter2", "line 2: is not a name, a colon and a hash"),
        (f":{BCRYPT}", "line 2: is not a name, a colon and a hash"),
        (f"a\tb:{BCRYPT}", "line 2: its name has control characters"),
        ("é" * 128 + f":{BCRYPT}", "or more than 255 bytes"),
        (f"good:{SHA512}", 'line 2: "good" is in line 1 already'),
        (f"\udcff:{BCRYPT}", "line 2: is not UTF-8"),
    ],
)
def test_a_line_that_is_no_users_says_why(
    errors: Problems, folder: Path, line: str, what: str
) -> None:
    (folder / "users").write_bytes(f"good:{BCRYPT}\n{line}".encode(errors="surrogateescape"))
    (folder / "users").chmod(0o640)
    (problem,) = errors(route(FILTER))
    assert what in problem.what
    assert "hunter2" not in str(problem)


def test_a_file_of_another_kind_is_not_told_line_by_line(errors: Problems, folder: Path) -> None:
    write(folder, *["hunter2"] * 1000)
    problems = errors(route(FILTER))
    assert len(problems) == 6
    assert "995 more lines" in problems[-1].what
    # Nor once for each route that names it.
    other = route(FILTER) + '[[route]]\nname = "s"\ngateway = "web"\npath_prefix = "/s"\n'
    assert len(errors(f"{other}{TO_APP}filters = [{FILTER}]\n")) == 6


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{ users_file = "gone" }', "cannot read"),
        ('{ users_file = "folder" }', "is not a file of at most 1048576 bytes"),
        ('{ users_file = "large" }', "is not a file of at most 1048576 bytes"),
        ('{ users_file = "" }', "an empty path"),
        ('{ realm = "a" }', "missing"),
        ('{ users_file = "users", realm = "a\\nb" }', "no printable ASCII"),
        ('{ users_file = "users", realm = "café" }', "no printable ASCII"),
        (f'{{ users_file = "users", realm = "{"a" * 101}" }}', "100 at most"),
    ],
)
def test_a_filter_that_cannot_be_says_why(
    errors: Problems, folder: Path, text: str, what: str
) -> None:
    write(folder, f"a:{BCRYPT}")
    (folder / "folder").mkdir()
    (folder / "large").write_bytes(b"#" * ((1 << 20) + 1))
    (problem,) = errors(route(f"{{ basic_auth = {text} }}"))
    assert what in problem.what
    assert problem.cure
    assert problem.line is not None


def test_who_may_read_the_hashes_and_that_nobody_may_ask_is_said(load: Load, folder: Path) -> None:
    write(folder, "# nobody", mode=0o644)
    first, second = load(route(FILTER)).warnings
    assert "everybody on this host can read" in first.what
    assert "has no users" in second.what


def test_a_route_that_only_leads_to_another_one_may_ask(load: Load, folder: Path) -> None:
    write(folder, f"a:{BCRYPT}")
    assert filters(load, FILTER + ', { strip_prefix = "/x" }', "").basic_auth is not None


def test_what_is_applied_names_no_users_of_a_node() -> None:
    text = f"""
    [[route]]
    name = "r"
    gateway = "g"
    filters = [{FILTER}]
    """
    with pytest.raises(ConfigError) as error:
        parse_applied(text.encode(), "a.toml")
    (problem,) = error.value.errors
    assert "a file of one node" in problem.what


def test_nothing_that_is_shown_has_users_or_hashes(load: Load, folder: Path) -> None:
    write(folder, f"alice:{BCRYPT}")
    config = load(route(FILTER)).config
    made = plan(config, frozenset(config.vips()), frozenset())
    shown = resolve(config, made)
    assert shown["gateways"][0]["routes"][0]["filters"]["basic_auth"]["users"] == 1
    for text in (json.dumps(shown), json.dumps(to_plain(made)), repr(config), repr(made)):
        assert "alice" not in text
        assert BCRYPT[:6] not in text
    assert BASE in route(FILTER)
