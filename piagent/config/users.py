"""The filter basic_auth: the files with users and the hashes of their passwords.

One user a line, `name:hash`, as htpasswd writes it. No problem shows a hash or a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from piagent.config import key_files
from piagent.config.host import has_library
from piagent.core.filters import Users

if TYPE_CHECKING:
    from pathlib import Path

    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import File, Route

SIZE_MAX: Final = 1 << 20
NAME_SIZE_MAX: Final = 255
"""Bytes; as in the engine."""
COST_MAX: Final = 14
ROUNDS: Final = (1000, 1_000_000)
SHOWN_MAX: Final = 5
"""Problems of one file that are told; of a file of another kind each line is one."""
CURE: Final = "make it with `htpasswd -B` or `mkpasswd -m sha-512`"
_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_SHA512: Final = re.compile(
    r"\$6\$(?:rounds=([1-9][0-9]{0,8})\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}"
)
_OURS: Final = re.compile(r"\$(2[aby]|6)\$")
_OTHERS: Final = (
    (re.compile(r"\$apr1\$"), "an MD5 hash of Apache's"),
    (re.compile(r"\$1\$"), "an MD5 hash"),
    (re.compile(r"\$5\$"), "a SHA-256 hash"),
    (re.compile(r"\$y\$|\$gy\$"), "a yescrypt hash"),
    (re.compile(r"\$argon2"), "an argon2 hash"),
    (re.compile(r"\{S?SHA\}"), "a SHA-1 hash"),
)


def refuse_users(route: Route, path: KeyPath, report: Report) -> None:
    """Refuse what cannot be for all nodes: the file is on one, and hashes are not sent around."""
    for i, one in enumerate(route.filters):
        if one.basic_auth is not None:
            place = (*path, "filters", i, "basic_auth", "users_file")
            what = "it is a file of one node, and what is applied is for all"
            report.error(place, what, "write the route in the nodes' files")


def read_users(file: File, folder: Path, report: Report) -> dict[str, Users]:
    """Read the files; route -> its users. `folder`: what paths are relative to."""
    found: dict[str, Users] = {}
    known: dict[Path, Users] = {}
    for i, route in enumerate(file.route):
        for j, one in enumerate(route.filters):
            place: KeyPath = ("route", i, "filters", j, "basic_auth", "users_file")
            if one.basic_auth is None or not one.basic_auth.users_file:
                continue
            name = key_files.resolve(one.basic_auth.users_file, folder)
            if name not in known:
                known[name] = _read(name, place, report)
            found[route.name] = known[name]
    if found:
        _check_library(report)
    return found


def _check_library(report: Report) -> None:
    if not any(map(has_library, ("libcrypt.so.1", "libcrypt.so.2"))):
        report.error((), "basic_auth needs libcrypt.so.1, which is not there", "install libcrypt1")


def _read(file: Path, place: KeyPath, report: Report) -> Users:
    data = key_files.read(file, place, report, size_max=SIZE_MAX)
    if data is None:
        return Users({})
    hashes: dict[str, str] = {}
    first: dict[str, int] = {}
    problems = []
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        name, problem = _take(text, hashes)
        if not problem and name in first:
            problem = (f'"{name}" is in line {first[name]} already', "one line a user")
        first.setdefault(name, number)
        if problem:
            problems.append((number, *problem))
    for number, what, cure in problems[:SHOWN_MAX]:
        report.error(place, f"{file} line {number}: {what}", cure)
    if len(problems) > SHOWN_MAX:
        what = f"{file}: {len(problems) - SHOWN_MAX} more lines are as bad"
        report.error(place, what, "is it a file of users?")
    if not hashes and not problems:
        report.warn(place, f"{file} has no users, so nobody may ask", "add one with `htpasswd -B`")
    return Users(hashes)


def _take(line: bytes, hashes: dict[str, str]) -> tuple[str, tuple[str, str] | None]:
    """Read a line: the name, and what is wrong with it, and the cure."""
    try:
        name, colon, hashed = line.decode().partition(":")
    except UnicodeDecodeError:
        return "", ("is not UTF-8", "save the file as UTF-8")
    if not colon or not name:
        return "", ("is not a name, a colon and a hash", CURE)
    if not name.isprintable() or len(name.encode()) > NAME_SIZE_MAX:
        what = f"its name has control characters or more than {NAME_SIZE_MAX} bytes"
        return "", (what, "choose another name")
    problem = _hash_problem(hashed)
    if problem is None:
        hashes.setdefault(name, hashed)
    return name, problem


def _hash_problem(hashed: str) -> tuple[str, str] | None:
    if found := _BCRYPT.fullmatch(hashed):
        if 4 <= int(found[1]) <= COST_MAX:
            return None
        return f"bcrypt with cost {int(found[1])}, not 4 to {COST_MAX}", "`htpasswd -B -C 5`"
    if found := _SHA512.fullmatch(hashed):
        if found[1] is None or ROUNDS[0] <= int(found[1]) <= ROUNDS[1]:
            return None
        what = f"SHA-512 with {found[1]} rounds, not {ROUNDS[0]} to {ROUNDS[1]}"
        return what, "`mkpasswd -m sha-512`"
    if _OURS.match(hashed):
        return "its hash is incomplete, or something stands behind it", CURE
    for kind, what in _OTHERS:
        if kind.match(hashed):
            return f"{what}, which is not taken: only bcrypt and SHA-512 ($6$) are", CURE
    return "what stands for the hash is none of bcrypt or SHA-512 ($6$)", CURE
