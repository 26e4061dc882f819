"""`piagent pool list` against a real admin server in another thread (conftest.py)."""

from __future__ import annotations

import json

import pytest

from piagent.cli import main
from tests.admin.known import ScriptedServices

LAN = "10.0.0.9-10.0.0.40, fd00::-fd00::ffff:ffff:ffff:ffff"


def test_pools_are_listed_with_what_they_have_left(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pool", "list", "--socket", agent_socket]) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        f"lan load-balancer {LAN} IPv4: 3 of 32 used, 29 free",
        "IPv6: 1 of over 2^53 used",
        "old cluster 10.96.0.0-10.96.0.3 IPv4: 4 of 4 used, 0 free disabled: gives no new ones",
    ]


def test_pools_as_json(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pool", "list", "--json", "--socket", agent_socket]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(pool["name"], pool["disabled"]) for pool in said] == [("lan", False), ("old", True)]


def test_no_pools_is_said(
    agent_socket: str,
    services: ScriptedServices,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(services, "pools", lambda: ())
    assert main(["pool", "list", "--socket", agent_socket]) == 0
    assert capsys.readouterr().out.startswith("no pools")
