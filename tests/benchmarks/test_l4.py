"""The comparison of L4 proxies runs and its pieces judge as they say; not what it measures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.compared.load import Sample
from benchmarks.compared.report import judge, ratio, report
from benchmarks.l4 import __main__ as bench
from benchmarks.l4 import held
from benchmarks.l4.comparisons import COMPARISONS


def sample(cpu_us: float = 10, rate: float = 1, p99_us: float = 5) -> Sample:
    return Sample(cpu_us, cpu_us, 0.5, rate, 1.0, p99_us, 0.0)


def costs(*cpu_us: float) -> list[Sample]:
    return [sample(us) for us in cpu_us]


def test_a_ratio_is_the_median_of_runs_that_were_side_by_side() -> None:
    samples = {"piagent": costs(10, 40, 30), "haproxy": costs(20, 40, 10)}
    assert ratio(samples, "cpu_us", "haproxy") == (0.75, 1.0, 2.0)  # of 0.5, 1.0 and 3.0


def test_a_peer_that_did_nothing_is_not_divided_by() -> None:
    samples = {"piagent": [sample(p99_us=3)], "haproxy": [sample(p99_us=0)]}
    assert ratio(samples, "p99_us", "haproxy") == (0.0, 0.0, 0.0)


def test_the_better_peer_is_the_bar_for_each_figure_of_bulk_transfers() -> None:
    samples = {
        "piagent": [sample(cpu_us=9, rate=10)],
        "haproxy": [sample(cpu_us=10, rate=12)],
        "haproxy-auto": [sample(cpu_us=9, rate=11)],
        "haproxy-splice": [sample(cpu_us=8, rate=9)],
    }
    rate, cost = judge(COMPARISONS, {"bulk8": samples})
    assert (rate.field, rate.peer, rate.holds) == ("rate", "haproxy", False)
    assert (cost.field, cost.peer, cost.holds) == ("cpu_us", "haproxy-splice", False)
    assert (rate.ratio, cost.ratio) == (pytest.approx(10 / 12), pytest.approx(9 / 8))


def test_every_bar_that_there_is_has_a_figure_in_the_table() -> None:
    for comparison in COMPARISONS.values():
        shown = {figure.field for figure in comparison.figures}
        assert {bar.field for bar in comparison.bars} <= shown
        assert {peer for bar in comparison.bars for peer in bar.peers} <= set(comparison.peers)


def test_a_report_has_the_medians_and_says_which_bars_do_not_hold() -> None:
    samples = {
        "piagent": costs(10.6, 10.6, 90),
        "haproxy": costs(11, 11, 11),
        "nginx": costs(12, 12, 12),
        "relay": costs(10, 10, 10),
    }
    said = report(COMPARISONS, {"request": samples}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in said]
    assert cells[2] == ["request: CPU us per request", "10.60", "11.00", "12.00", "10.00"]
    assert cells[3] == ["request: engine's CPU us per request", "10.60", "", "", ""]
    assert cells[-2] == ["request: CPU / haproxy's", "0.96", "0.96 to 4.57", "<= 1.00", "yes"]
    assert cells[-1] == ["request: CPU / relay's", "1.06", "1.06 to 5.03", "<= 1.05", "NO"]


def test_what_is_absent_is_said_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setattr(peers, "missing", lambda: ["haproxy"])
    monkeypatch.setattr(peers, "nginx_modules", lambda: "")
    assert bench.main(["--quick"]) == 1
    said = capsys.readouterr().out
    assert "haproxy, nginx's stream module" in said
    assert "apt install nginx libnginx-mod-stream haproxy" in said


def test_a_comparison_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--only", "request,bulk9"])
    assert ended.value.code == 2
    assert "no such comparison: bulk9; there are request, connect" in capsys.readouterr().err


@pytest.mark.skipif(bool(bench.missing()), reason=f"this machine has not: {bench.missing()}")
def test_the_quick_form_runs_every_comparison_and_writes_every_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # main() adds to it
    out = tmp_path / "bench.json"
    assert bench.main(["--quick", "--out", str(out)]) == 0, capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written["machine"]["cpus"] >= 2
    assert list(written["results"]) == list(COMPARISONS)
    for name, comparison in COMPARISONS.items():
        found = written["results"][name]
        assert set(found["samples"]) == set(comparison.peers)
        for median in found["medians"].values():
            assert median["cpu_us"] >= median["engine_us"] > 0
            assert median["rate"] > 0
    assert len(written["bars"]) == sum(len(c.bars) for c in COMPARISONS.values())
    assert "request: CPU / relay's" in capsys.readouterr().out


@pytest.mark.skipif(bool(bench.missing()), reason=f"this machine has not: {bench.missing()}")
def test_connections_that_are_held_are_measured_beside_haproxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")
    out = tmp_path / "held.json"
    assert held.main(["--connections", "200", "--seconds", "0.5", "--out", str(out)]) == 0
    assert {peer: one["connections"] for peer, one in json.loads(out.read_text()).items()} == {
        "piagent": 200,
        "haproxy": 200,
    }
