"""`piagent flow explain`."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from piagent.admin.status import (
    CarriedFlow,
    FlowBackend,
    FlowStatus,
    ForwardBackend,
    ProgramRun,
)
from piagent.cli import main
from piagent.cli.flow import render
from piagent.core.flow import Flow, flow_of
from tests.cli.conftest import FLOW, FORWARD

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


# ---- what is forwarded ----


def of_forwarded(chosen: str | None = FLOW.chosen, **changes: object) -> list[str]:
    """From the third line on."""
    told = replace(FLOW, chosen=chosen, forward=replace(FORWARD, **changes))
    return said(told)[2:]


def test_of_a_packet_it_says_where_it_goes_and_what_is_another_one(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, "--socket", agent_socket, "--size", "1400", "--bpf"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        "comes to service api:80 at 10.0.0.9:80",
        "is forwarded by nat; if it is a new flow:",
        (
            "goes to 10.0.0.21:8080: maglev, the flow has hash 00000000000000ff, entry 255, "
            "which is 10.0.0.21:8080's"
        ),
        "leaves by eth0 to 02:00:00:00:00:21",
        "source 10.0.0.77 -> 10.0.0.9",
        "source port 51234 -> 50001 or the next that is free",
        "ttl 64 -> 63",
        "packets of up to 1500 bytes get through",
        "established flows are carried by tc: no native XDP",
        "the kernel's programs, with packets of such a flow when it is established",
        "xdp request carried as the forwarder",
        "backends",
        "10.0.0.21:8080 weight 2 up",
        "10.0.0.22:8080 weight 1 up cannot be reached from here: failed",
    ]


def test_as_json_the_frames_are_there(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, "--socket", agent_socket, "--bpf", "--json"]) == 0
    forward = json.loads(capsys.readouterr().out)["forward"]
    assert (forward["frame_in"], forward["frame_out"]) == ("00", "01")


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        ("no-backend", "no backend is usable and can be reached from here"),
        ("no-port", "no port is left that nat could connect from"),
        ("draining", "the VIP is on its way to another node, and only flows that are known go on"),
        ("expired", "its hop limit ends here, and its sender is told so"),
        ("unwritten", "nobody translates between IPv4 and IPv6"),
        ("no-flow", "it is part of nothing that is known"),
    ],
)
def test_a_packet_that_is_dropped_says_why(verdict: str, why: str) -> None:
    lines = of_forwarded(chosen=None, verdict=verdict, frame_out="", changes=(), mtu=None)
    assert lines[:2] == ["is forwarded by nat; if it is a new flow:", f"is dropped: {why}"]
    assert lines[2].startswith("established flows are carried")


def test_a_source_that_may_not_is_told_from_a_vip() -> None:
    forward = replace(FORWARD, verdict="source-not-allowed", frame_out="")
    lines = said(replace(FLOW, allowed=False, forward=forward))
    assert lines[3] == "is dropped: allowed_sources does not have 10.0.0.77"
    lines = said(replace(FLOW, allowed=True, forward=forward))
    assert lines[3] == "is dropped: 10.0.0.77 is a VIP, from whose own port nobody asks"


def test_a_packet_that_is_too_long_says_what_is_not() -> None:
    too_big = {"verdict": "too-big", "frame_out": "", "answer": "00", "answer_mtu": 1480}
    assert of_forwarded(**too_big)[1] == (
        "is dropped: it is too long for 10.0.0.21:8080, and its sender is told that 1480 bytes are"
        " not"
    )
    assert of_forwarded(**too_big | {"answer": ""})[1].endswith("too long for 10.0.0.21:8080")


def test_a_malformed_packet_says_what_is_wrong() -> None:
    lines = of_forwarded(verdict="malformed", kind="land", frame_out="")
    assert lines[1] == "is dropped: nobody should carry it (land)"


def test_an_entry_of_somebody_who_is_not_reached_is_the_next_ones() -> None:
    lines = of_forwarded(chosen="10.0.0.22:8080")
    assert lines[1].endswith("which is 10.0.0.21:8080's; the next one that it can get to")


def test_a_flow_that_the_kernel_carries_says_what_has_gone_by() -> None:
    carried = CarriedFlow(backend="10.0.0.22:8080", packets=12, bytes=3400, idle_ms=2900)
    line = (
        "this very flow is there, and the kernel carries it to 10.0.0.22:8080: 12 packets, "
        "3400 bytes, the last one 3 s ago"
    )
    assert line in of_forwarded(carried=carried)
    gone = replace(carried, backend=None, packets=0, bytes=0, idle_ms=None)
    assert any(
        each.endswith("to a backend that is none any more: 0 packets, 0 bytes")
        for each in of_forwarded(carried=gone)
    )


def test_a_client_that_may_be_remembered_is_said_to_be() -> None:
    line = "if 10.0.0.77 has a flow there, or had one lately, it goes where that went"
    assert of_forwarded(remembers_ms=60_000)[2] == line
    assert line not in of_forwarded()


def test_a_program_that_does_something_else_is_not_overlooked() -> None:
    runs = (
        ProgramRun(program="tc", way="answer", verdict="carried", same=False),
        ProgramRun(program="xdp", way="answer", verdict="passed", same=None),
    )
    lines = of_forwarded(bpf=runs)
    assert "tc answer carried OTHERWISE than the forwarder" in lines
    assert "xdp answer left to the forwarder" in lines
    assert any("never established" in each for each in of_forwarded(bpf=()))


def test_backends_that_get_nothing_new_say_why() -> None:
    def row(passed_over: str, *, up: bool = True) -> str:
        one = ForwardBackend(name="a", weight=1, up=up, passed_over=passed_over, reason="off-link")
        return of_forwarded(backends=(one,))[-1]

    assert row("") == "a weight 1 up"
    assert row("down", up=False) == "a weight 1 DOWN gets nothing new"
    assert row("weight").endswith("gets nothing new: its weight is 0")
    assert row("unreachable").endswith("cannot be reached from here: off-link")
    assert row("client").endswith("would take its own address for a forged one")
    assert of_forwarded(backends=())[-2:] == ["backends", "none"]
