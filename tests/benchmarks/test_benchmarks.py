"""The benchmarks run and their pieces parse; what they measure is not judged here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import idle, peers, tables, traffic
from benchmarks.__main__ import main
from piagent.cli.demo.site import LoopbackSite, Place
from piagent.config import load


def test_the_file_of_the_idle_agents_is_what_the_budget_speaks_of(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("0123456789abcdef" * 4)
    file = tmp_path / "pi-1.toml"
    node = Place("pi-1", "127.0.0.1", None)
    file.write_text(idle.node_file(LoopbackSite(3), node, secret, tmp_path / "sock"))
    config = load(str(file)).config
    assert len(config.services) == 20
    assert sum(len(service.backends) for service in config.services) == 40
    checks = [service.health for service in config.services if service.health is not None]
    assert [check.interval_ms for check in checks] == [2000] * 20
    assert len(config.vips()) == idle.VIPS


def test_threads_are_counted_from_proc() -> None:
    counts = idle.counts(os.getpid())
    assert counts[str(os.getpid())].cpu_ns > 0
    assert all(count.wakeups >= 0 for count in counts.values())


def test_a_table_is_markdown_with_aligned_columns() -> None:
    said = tables.table(["what", "us"], [["a request", "9.5"], ["b", "10.0"]])
    assert said.splitlines() == [
        "| what      |   us |",
        "| --------- | ---: |",
        "| a request |  9.5 |",
        "| b         | 10.0 |",
    ]


def test_the_ratio_is_to_the_better_peer_and_of_medians() -> None:
    def runs(*cpu_us: float) -> list[traffic.Sample]:
        return [traffic.Sample(us, 1000.0, 1.0) for us in cpu_us]

    samples = {"piagent": runs(10, 90, 11), "nginx": runs(20, 22, 24), "haproxy": runs(30, 30, 30)}
    row = traffic.report({"HTTP": samples}).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "HTTP", "11.0", "22.0", "30.0", "0.50",
    ]  # fmt: skip


@pytest.mark.skipif(bool(peers.missing()), reason=f"not installed: {', '.join(peers.missing())}")
def test_the_quick_form_compares_all_kinds_of_traffic_and_writes_every_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # main() adds to it
    out = tmp_path / "bench.json"
    assert main(["traffic", "--quick", "--connections", "4", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["machine"]["cpus"] >= 1
    assert set(written["traffic"]) == {kind.title for kind in traffic.KINDS}
    for kind in written["traffic"].values():
        assert all(len(samples) == 1 for samples in kind["samples"].values())
        assert all(median["cpu_us"] > 0 for median in kind["medians"].values())
    assert "piagent / better peer" in capsys.readouterr().out
