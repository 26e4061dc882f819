"""Messages to a real datagram socket in systemd's place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.adapters.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = str(tmp_path / "n") if request.param == "path" else f"@piagent-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name.replace("@", "\0"))
        server.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield server


def test_every_state_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("serving\nWATCHDOG=trigger")
    assert manager.recv(500) == b"READY=1\nSTATUS=serving WATCHDOG=trigger"
    notifier.reloading()
    assert manager.recv(500).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notifier.stopping()
    assert manager.recv(500) == b"STOPPING=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready("serving")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    Notifier().ready("serving")
