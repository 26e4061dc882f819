"""`piagent vip list`."""

from __future__ import annotations

import json

import pytest

from piagent.cli import main


def test_vips_are_listed_with_owner_and_reason(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vip", "list", "--socket", agent_socket]) == 0
    first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert first[:3] == ["10.0.0.9", "owner", "pi-1"]
    assert second[-1] == "no-quorum"


def test_vips_as_json(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vip", "list", "--socket", agent_socket, "--json"]) == 0
    assert [vip["address"] for vip in json.loads(capsys.readouterr().out)] == [
        "10.0.0.9",
        "10.0.0.10",
    ]


def test_vip_without_an_action_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["vip"])
    assert ended.value.code == 2
