"""`piagent flow explain`."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from piagent.admin.status import FlowBackend, FlowStatus
from piagent.cli import main
from piagent.cli.flow import render
from piagent.core.flow import Flow, flow_of
from tests.cli.conftest import FLOW

ASKED = ["flow", "explain", "--src", "10.0.0.77:51234", "--dst", "10.0.0.9:80"]
TCP = flow_of("10.0.0.77:51234", "10.0.0.9:80", "tcp")


def said(told: FlowStatus, flow: Flow = TCP) -> list[str]:
    return [" ".join(line.split()) for line in render(flow, told).splitlines()]


def test_it_says_where_a_flow_goes_and_why(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, "--socket", agent_socket]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "10.0.0.77:51234 -> 10.0.0.9:80/tcp",
        "comes to service api:80 at 10.0.0.9:80",
        (
            "goes to 10.0.0.21:8080: maglev, the flow has hash 00000000000000ff, entry 255, "
            "which is 10.0.0.21:8080's"
        ),
        "if that does not answer: 10.0.0.22:8080",
        "backends",
        "10.0.0.21:8080 weight 2 up 7 open",
        "10.0.0.22:8080 weight 1 up 0 open",
        "10.0.0.23:8080 weight 0 DOWN 0 open gets nothing new",
    ]


def test_as_json_it_is_what_the_agent_says(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, "--proto", "udp", "--socket", agent_socket, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["listener"] == "10.0.0.9:80/udp"


def test_a_place_that_is_none_is_wrong_input(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED[:-1], "10.0.0.9", "--socket", agent_socket]) == 2
    assert "'10.0.0.9' is not address:port" in capsys.readouterr().err


def test_a_vip_of_another_node_is_said_to_be_so() -> None:
    lines = said(replace(FLOW, vip=True, owner="pi-2"))
    assert lines[1] == "pi-2 owns the VIP 10.0.0.9; on pi-1 it would be so:"
    lines = said(replace(FLOW, vip=True, owner=None))
    assert lines[1] == "nobody owns the VIP 10.0.0.9; on pi-1 it would be so:"
    assert "VIP" not in said(replace(FLOW, vip=True, owner="pi-1"))[1]


def test_a_flow_that_nobody_listens_for() -> None:
    assert said(replace(FLOW, listener=None))[1:] == ["nobody listens there on pi-1"]


def test_a_gateways_flow_is_routed_by_requests() -> None:
    lines = said(replace(FLOW, gateway="web", service=None))
    assert lines[1] == "comes to gateway web at 10.0.0.9:80"
    assert "piagent route explain" in lines[2]


def test_who_is_turned_away_is_told_why() -> None:
    assert said(replace(FLOW, allowed=False))[2] == (
        "is turned away: allowed_sources does not have 10.0.0.77"
    )
    nobody = replace(FLOW, chosen=None, table=None, orders=((), ()), backends=())
    assert said(nobody)[2:] == [
        "is turned away: no backend gets anything new", "backends", "none"
    ]  # fmt: skip


def test_a_trusted_proxy_has_to_say_who_the_client_is() -> None:
    assert "10.0.0.77 is a trusted proxy" in said(replace(FLOW, header=True))[2]


def test_where_workers_differ_each_says_its_own() -> None:
    told = replace(FLOW, policy="round-robin", chosen=None, orders=(("a", "b"), ("b", "a")))
    assert said(told)[2:5] == [
        "goes where the worker that gets it sends it: round-robin",
        "one worker tries a, b",
        "one worker tries b, a",
    ]


def test_a_client_that_is_remembered_needs_no_hash() -> None:
    told = replace(FLOW, affinity=True, remembered=FLOW.chosen)
    assert said(told)[2] == "goes to 10.0.0.21:8080: the client had it last"
    assert "maglev, the client's address has hash" in said(replace(told, remembered=None))[2]


def test_backends_that_are_passed_over_say_for_how_long() -> None:
    def row(**changes: object) -> str:
        one = FlowBackend(
            name="a", weight=1, up=True, active=0, share=1, ejected_ms=0, passed_over=""
        )
        return said(replace(FLOW, backends=(replace(one, **changes),)))[-1]

    assert row() == "a weight 1 up 0 open"
    assert row(ejected_ms=8500, passed_over="ejected").endswith(" ejected for 8 s more")
    slow = row(share=0.4, passed_over="slow_start")
    assert slow.endswith(" starts slowly, has 40% of its share so far")
    assert row(share=0.4).endswith("open has 40% of its share so far")
