"""What this host gives when the file leaves it out."""

from __future__ import annotations

import os
import socket

import netifaces
import pytest

from piagent.config.host import default_interface, this_host


def test_this_host_has_a_name_and_processors() -> None:
    host = this_host()
    assert host.name == socket.gethostname()
    assert 1 <= host.cpus <= (os.cpu_count() or 1)
    assert host.interface in {None, *netifaces.interfaces()}


@pytest.mark.parametrize(
    ("default", "interface"),
    [
        ({}, None),
        ({netifaces.AF_INET6: ("fe80::1", "wlan0")}, "wlan0"),
        ({netifaces.AF_INET6: ("fe80::1", "wlan0"), netifaces.AF_INET: ("192.0.2.1", "eth0")},
         "eth0"),
    ],
)  # fmt: skip
def test_the_default_interface_is_the_default_routes(
    monkeypatch: pytest.MonkeyPatch, default: dict[int, tuple[str, str]], interface: str | None
) -> None:
    monkeypatch.setattr(netifaces, "gateways", lambda: {"default": default})
    assert default_interface() == interface
