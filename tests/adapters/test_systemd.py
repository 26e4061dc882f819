"""Messages to a real datagram socket in systemd's place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.adapters.systemd import Notifier, watchdog_interval_s


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
    notifier.status("no broker")
    assert manager.recv(500) == b"STATUS=no broker"
    notifier.watchdog()
    assert manager.recv(500) == b"WATCHDOG=1"
    notifier.stopping()
    assert manager.recv(500) == b"STOPPING=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready("serving")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    Notifier().ready("serving")


@pytest.mark.parametrize(
    ("allowed", "meant", "interval"),
    [("10000000", None, 5.0), ("10000000", "1", None), (None, None, None), ("x", None, None)],
)
def test_the_watchdog_is_due_at_half_the_allowed_time(
    monkeypatch: pytest.MonkeyPatch, allowed: str | None, meant: str | None, interval: float | None
) -> None:
    for key, value in (("WATCHDOG_USEC", allowed), ("WATCHDOG_PID", meant)):
        if value is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, value)
    assert watchdog_interval_s() == interval
