"""The files that a configuration names and that hold secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report

SECRET_SIZE_MIN: Final = 16
SIZE_MAX: Final = 4096
HOW_TO_MAKE_ONE: Final = "openssl rand -hex 32"


def resolve(name: str, folder: Path) -> Path:
    """Return the path that a name in the file stands for: relative to the file's folder."""
    return Path(os.path.normpath(folder / name))


def read_secret(name: str, folder: Path, path: KeyPath, report: Report) -> bytes:
    """Read the cluster's secret; white space around it does not belong to it."""
    secret = _read(resolve(name, folder), path, report)
    if secret is not None and len(secret) < SECRET_SIZE_MIN:
        size = f"has {len(secret)} bytes of secret" if secret else "is empty"
        what = f"{resolve(name, folder)} {size}: at least {SECRET_SIZE_MIN} are needed"
        report.error(path, what, f"make one with `{HOW_TO_MAKE_ONE}`, the same for every node")
    return secret or b""


def read_password(name: str, folder: Path, path: KeyPath, report: Report) -> str | None:
    """Read the brokers' password: one line of UTF-8."""
    data = _read(resolve(name, folder), path, report)
    if data is None:
        return None
    try:
        password = data.decode()
    except UnicodeDecodeError:
        password = ""
    if not password.isprintable() or not password:
        what = f"{resolve(name, folder)} is not one line of text"
        report.error(path, what, "write the password into it, and nothing else")
        return None
    return password


def _read(file: Path, path: KeyPath, report: Report) -> bytes | None:
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
        if not stat.S_ISREG(status.st_mode) or status.st_size > SIZE_MAX:
            what = f"{file} is not a file of at most {SIZE_MAX} bytes"
            report.error(path, what, "name the file that holds the secret")
            return None
        if status.st_mode & stat.S_IROTH:
            report.warn(path, f"everybody on this host can read {file}", f"chmod o= {file}")
        return os.read(descriptor, SIZE_MAX).strip()
    finally:
        os.close(descriptor)
