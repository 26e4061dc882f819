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
    known = "is no VIP, service or gateway of this node (10.0.0.9, 10.0.0.10, api, web"
    assert known in capsys.readouterr().err


def test_why_of_a_service_says_how_it_came_by_what_it_has(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", "web", "--socket", agent_socket]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    since = lines[8].removeprefix("10.0.0.21 weight 1 up for ")
    assert since.endswith(" d answers")
    assert lines == [
        "service web: applied, version 2",
        "its packets are forwarded: mode nat",
        "VIP 10.0.0.9: owned by pi-2",
        "VIP fd00::9: without an owner",
        "cluster address 10.96.0.1",
        "given from pool lan, reason lowest-free",
        "ports 80:30000",
        "backends",
        f"10.0.0.21 weight 1 up for {since}",
        "not as wished",
        "service/web exhausted vip: lan has none left",
    ]
    assert main(["why", "web", "--json", "--socket", agent_socket]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["of"], said["pool"]) == ("name", "lan")


def test_why_of_a_name_that_is_none_is_one_clear_line(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", "a/b?c#d\x1b[2J", "--socket", agent_socket]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no VIP, service or gateway" in line
    assert "\x1b" not in line
