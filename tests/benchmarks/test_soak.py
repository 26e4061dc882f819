"""The soak runs in a short form, and says so when something is not as it should be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.soak.__main__ import GROWTH_MAX_KIB, Outcome, Sample, grown, main

GOOD = Outcome(
    connections=10,
    failed=0,
    late=0,
    reloads=2,
    grown_kib=0.0,
    descriptors_before=20,
    descriptors_after=20,
    samples=[],
)


def test_every_trouble_is_said() -> None:
    assert GOOD.troubles() == []
    bad = GOOD._replace(failed=1, late=2, grown_kib=GROWTH_MAX_KIB + 1, descriptors_after=23)
    assert [trouble.split()[0] for trouble in bad.troubles()] == ["1", "2", "memory", "3"]


def test_memory_counts_from_when_it_is_warm() -> None:
    samples = [Sample(float(s), 1000 if s < 25 else 2000 + s, 20, 0) for s in range(100)]
    assert grown(samples, 100.0) == pytest.approx(50, abs=1)


@pytest.mark.skipif(
    shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin") is None,
    reason="mosquitto is not installed",
)
def test_the_short_form_carries_every_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin")
    out = tmp_path / "soak.json"
    code = main(["--seconds", "14", "--rate", "300", "--out", str(out)])
    found = json.loads(out.read_text())
    assert code == 0, capsys.readouterr().out
    assert found["connections"] > 500
    assert found["reloads"] >= 5
