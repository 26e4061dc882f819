"""The packet code's benchmark runs; how long it takes is not judged here."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

from benchmarks import packet


def test_every_case_is_measured_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    packet.main(["--flows=300", "--rounds=2", "--runs=1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 12
    assert all(list(steps) == list(packet.probe.STEPS) for steps in found.values())
    assert packet.report(found).count("\n") == 13
