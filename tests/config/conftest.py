"""Files to load: a folder with a secret, and a host that is the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from piagent.config import ConfigError, Loaded, Problem, parse
from piagent.config.host import Host

HOST = Host(name="pi-9", interface="eth9", cpus=3)
Load = Callable[[str], Loaded]
Problems = Callable[[str], tuple[Problem, ...]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with `cluster.secret`, 32 bytes that only its owner can read."""
    secret = tmp_path / "cluster.secret"
    secret.write_bytes(b"0123456789abcdef0123456789abcdef\n")
    secret.chmod(0o600)
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Load:
    """Return what loads a text as the file `pi.toml` of that folder."""
    return lambda text: parse(text.encode(), str(folder / "pi.toml"), HOST)


@pytest.fixture
def errors(load: Load) -> Problems:
    """Return what gives the errors of a text; none when it loads."""

    def find(text: str) -> tuple[Problem, ...]:
        try:
            load(text)
        except ConfigError as error:
            return error.errors
        return ()

    return find
