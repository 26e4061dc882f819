"""The packet code's benchmark runs; how long it takes is not judged here."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastpath.packet._aim_probe", reason="built with PIAGENT_PROBE=1 only")

from benchmarks import packet


def test_every_case_is_measured_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    packet.main(["--flows=300", "--rounds=2", "--runs=1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["packets"]) == 12
    assert all(list(steps) == list(packet.probe.STEPS) for steps in found["packets"].values())
    assert packet.report(found["packets"]).count("\n") == 13
    assert list(found["maglev"]) == ["3 backends", "32 backends", "1000 backends"]
    assert all(value > 0 for its in found["maglev"].values() for value in its.values())


def test_a_bar_is_held_by_the_case_that_takes_longest() -> None:
    packets = {"dsr": {"copy": 10.0, "parse": 40.0}, "nat": {"copy": 10.0, "parse": 170.0}}
    maglev = {"1000 backends": {"make, ms": 5.0, "choose, ns": 10.5}}
    said = packet.report_bars(packet.judge(packets, maglev)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in said]
    assert cells[2:] == [
        ["a packet, ns", "160.00", "<= 150", "NO"],
        ["a table of 1000, ms", "5.00", "<= 5", "yes"],
        ["a choice of 1000, ns", "10.50", "<= 10", "NO"],
    ]
