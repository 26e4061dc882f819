"""`piagent vip`, `node` and `why`."""

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


def test_move_says_where_the_vip_is_now(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vip", "move", "10.0.0.9", "pi-2", "--socket", agent_socket]) == 0
    assert capsys.readouterr().out == "10.0.0.9 is on pi-2\n"


def test_move_that_cannot_be_says_why(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vip", "move", "10.0.0.9", "pi-7", "--socket", agent_socket]) == 1
    assert "node pi-7 is not there" in capsys.readouterr().err


def test_nodes_are_drained_and_take_part_again(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", "drain", "--socket", agent_socket]) == 0
    assert main(["node", "undrain", "pi-2", "--socket", agent_socket]) == 0
    assert main(["node", "drain", "pi-7", "--socket", agent_socket]) == 1
    captured = capsys.readouterr()
    assert captured.out == "this node hands its VIPs over\npi-2 takes part again\n"
    assert "node pi-7 is not there" in captured.err


def test_why_names_the_owner_and_where_the_others_lost(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", "10.0.0.9", "--socket", agent_socket]) == 0
    said = capsys.readouterr().out
    assert said.startswith("10.0.0.9 is owned by pi-1, epoch 17\n")
    assert "02:00:00:00:00:99" in said
    assert "pi-2  no-room  has 1 of at most 1" in said
    assert main(["why", "10.9.9.9", "--socket", agent_socket]) == 1
    assert "is not a VIP of this node (10.0.0.9, 10.0.0.10)" in capsys.readouterr().err
