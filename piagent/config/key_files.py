"""The files that a configuration names: secrets, a password, keys, certificates, access logs."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report

SECRET_SIZE_MIN: Final = 16
SECRETS_MAX: Final = 3
SIZE_MAX: Final = 4096
STDOUT: Final = "-"
HOW_TO_MAKE_ONE: Final = "openssl rand -hex 32"


def resolve(name: str, folder: Path) -> Path:
    """Return the path that a name in the file stands for: relative to the file's folder."""
    return Path(os.path.normpath(folder / name))


def log_path(name: str | None, folder: Path | None) -> str | None:
    """Return where an access log goes; without a folder paths stay as they are."""
    return name if name in {None, STDOUT} or folder is None else str(resolve(name, folder))


def read_secrets(name: str, folder: Path, path: KeyPath, report: Report) -> tuple[bytes, ...]:
    """Read the cluster's secrets, one a line, the one that signs first.

    White space around them and empty lines do not count. No problem shows any of a secret.
    """
    file = resolve(name, folder)
    data = read(file, path, report)
    if data is None:
        return ()
    lines = [(i, line.strip()) for i, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    secrets = tuple(secret for _, secret in lines)
    for i, secret in lines:
        if len(secret) < SECRET_SIZE_MIN:
            size = f"has {len(secret)} bytes of secret: at least {SECRET_SIZE_MIN} are needed"
            cure = f"make one with `{HOW_TO_MAKE_ONE}`, the same for every node"
            report.error(path, f"{file} line {i} {size}", cure)
    if len(set(secrets)) < len(secrets):
        report.error(path, f"{file} has one secret twice", "each of its lines is another one")
    if not lines:
        what = f"{file} is empty: at least {SECRET_SIZE_MIN} bytes are needed"
        report.error(path, what, f"make one with `{HOW_TO_MAKE_ONE}`, the same for every node")
    if len(lines) > SECRETS_MAX:
        what = f"{file} has {len(lines)} lines, each of them a secret: at most {SECRETS_MAX}"
        report.error(path, what, "keep the one in use, and the next or the last one")
    return secrets


def read_password(name: str, folder: Path, path: KeyPath, report: Report) -> str | None:
    """Read the brokers' password: one line of UTF-8."""
    data = read(resolve(name, folder), path, report)
    if data is None:
        return None
    try:
        password = data.strip().decode()
    except UnicodeDecodeError:
        password = ""
    if not password.isprintable() or not password:
        what = f"{resolve(name, folder)} is not one line of text"
        report.error(path, what, "write the password into it, and nothing else")
        return None
    return password


def read_token(name: str, folder: Path, path: KeyPath, report: Report) -> str | None:
    """Read the admin API's token: one line that can stand in a header as it is (RFC 6750)."""
    file = resolve(name, folder)
    data = read(file, path, report)
    if data is None:
        return None
    token = data.strip().decode("latin-1")
    if re.fullmatch(r"[!-~]+", token) is None:
        what = f"{file} is not one line of visible ASCII without spaces"
        report.error(path, what, f"make it with `{HOW_TO_MAKE_ONE}`")
    elif len(token) < SECRET_SIZE_MIN:
        what = f"{file} has {len(token)} characters: at least {SECRET_SIZE_MIN} are needed"
        report.error(path, what, f"make it with `{HOW_TO_MAKE_ONE}`")
    return token


def read(
    file: Path, path: KeyPath, report: Report, *, size_max: int = SIZE_MAX, private: bool = True
) -> bytes | None:
    """Read a small file; None when it cannot be, which has been reported then.

    `private`: that everybody on this host can read it is a warning.
    """
    try:
        # Not blocking: opening a FIFO would wait for its writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        cure = (
            "write it, or name the one that is there"
            if isinstance(error, FileNotFoundError)
            else f"it must be a file that uid {os.geteuid()} can read"
        )
        report.error(path, f"cannot read {file}: {error.strerror}", cure)
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > size_max:
            what = f"{file} is not a file of at most {size_max} bytes"
            report.error(path, what, "name another one")
            return None
        if private and status.st_mode & stat.S_IROTH:
            report.warn(path, f"everybody on this host can read {file}", f"chmod o= {file}")
        return os.read(descriptor, size_max)
    finally:
        os.close(descriptor)
