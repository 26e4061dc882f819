"""The measurement of routes measures what it says."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

from benchmarks import routes


def test_every_case_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert routes.main(["--runs", "1", "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == routes.CASES.keys()
    assert all(taken > 0 for case in found.values() for taken in case.values())


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert routes.main(["--runs", "1", "--rounds", "1"]) == 0
    assert capsys.readouterr().out.startswith("ns a look-up         1       100    10,000")
