"""The comparison of ways to forward runs, and its pieces judge as they say; not its figures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.forward import __main__ as bench
from benchmarks.forward import frames
from benchmarks.forward.report import Sample, judge, report
from benchmarks.forward.workloads import BARS, WORKLOADS
from tests.fastpath.packet.frames import UDP, Ports, ether, ip, udp

MISSING = bench.missing()


def rates(*found: float) -> list[Sample]:
    return [Sample(rate, 1e9 / rate, 1.0, 0.0) for rate in found]


def test_a_frame_is_one_that_was_built_field_by_field() -> None:
    made = frames.Datagram(("192.0.2.7", 1234), ("198.51.100.1", 80), 7).frame(b"abcdef", b"ghijkl")
    data = b"\0\0\0\7" + bytes(14)
    whole = ip("192.0.2.7", "198.51.100.1", UDP, udp(Ports(1234, 80), data))
    assert made[14:18] + made[20:24] == whole[:4] + whole[6:10]  # but for its id
    assert made[26:] == whole[12:]
    assert len(made) == frames.SIZE
    assert made[:14] == b"abcdefghijkl\x08\0"
    assert len(ether(whole)) == frames.SIZE


def test_what_is_read_of_a_frame_is_what_was_written() -> None:
    datagram = frames.asked(515, "198.51.100.1")
    assert frames.read(datagram.frame(bytes(6), bytes(6))) == datagram


def test_a_frame_with_a_wrong_checksum_is_not_taken_for_a_good_one() -> None:
    good = frames.asked(1, "198.51.100.1").frame(bytes(6), bytes(6))
    for at in (24, 40, 50):
        broken = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(frames.FlowError, match="wrong checksum"):
            frames.read(broken)


def test_flows_are_all_different() -> None:
    n = 60_000
    assert len({frames.client_of(number) for number in range(n)}) == n


def test_a_rate_is_judged_by_the_median_of_runs_that_were_side_by_side() -> None:
    runs = {"dsr-xdp": rates(30, 60, 90), "nat-tc": rates(12, 12, 12), "nft": rates(10, 10, 45)}
    xdp, tc = judge({"packets": runs})
    assert (xdp.bar.way, xdp.ratio.middle, xdp.holds) == ("dsr-xdp", 3.0, True)
    assert (tc.bar.way, tc.ratio.middle, tc.holds) == ("nat-tc", 1.2, True)
    assert not judge({"packets": runs | {"nat-tc": rates(11, 11, 11)}})[1].holds


def test_tcp_is_judged_by_the_forwarding_cpu_too() -> None:
    runs = {"nat-tc": [Sample(10, 4.0, 1, 0)], "nft": [Sample(10, 3.0, 1, 0)]}
    by_rate, by_cpu = judge({"bulk1": runs})
    assert (by_rate.ratio.middle, by_rate.holds) == (1.0, True)
    assert (by_cpu.ratio.middle, by_cpu.holds) == (0.75, False)
    assert "| bulk TCP, 1 by CPU: nat, tc / nftables |  0.75 |" in report({"bulk1": runs})


def test_every_bar_is_of_ways_that_have_that_workload() -> None:
    for bar in BARS:
        assert {bar.way, bar.peer} <= set(WORKLOADS[bar.workload].ways)


def test_a_report_has_a_row_for_each_way_and_says_which_bars_do_not_hold() -> None:
    runs = {"routing": rates(1e6), "nft": rates(5e5), "dsr-xdp": rates(2e6), "nat-tc": rates(5e5)}
    said = report({"packets": runs}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in said]
    assert cells[0] == ["median", "packets: M/s", "ns"]
    assert cells[2] == ["ip_forward", "1.00", "1000"]
    assert ["dsr, tc", "", ""] in cells
    assert cells[-2] == ["packets: dsr, XDP / nftables", "4.00", "4.00 to 4.00", ">= 3.00", "yes"]
    assert cells[-1] == ["packets: nat, tc / nftables", "1.00", "1.00 to 1.00", ">= 1.20", "NO"]


def test_rates_of_a_cpu_that_had_other_work_are_called_doubtful() -> None:
    packets = {"nft": rates(5e5), "dsr-xdp": rates(2e6), "nat-tc": [Sample(5e5, 900, 0.45, 0)]}
    said = report({"packets": packets}).splitlines()[-1]
    assert said.startswith("The forwarding CPU forwarded only 45% of the time (packets, nat, tc)")
    bulk = {"nft": [Sample(1e9, 0.5, 0.5, 0)], "nat-tc": [Sample(1e9, 0.5, 0.5, 0)]}
    assert "forwarded only" not in report({"bulk1": bulk})


def test_what_is_absent_is_said_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nft" else name)
    assert bench.main(["--quick"]) == 1
    said = capsys.readouterr().out
    assert "has not: nft" in said
    assert "run as root; apt install nftables" in said


def test_a_workload_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--only", "packets,bulk9"])
    assert ended.value.code == 2
    assert "no such workload: bulk9; there are packets, both" in capsys.readouterr().err


@pytest.mark.skipif(bool(MISSING), reason=f"this machine has not: {MISSING}")
def test_the_quick_form_has_every_way_forward_every_workload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # main() adds to it
    out = tmp_path / "bench.json"
    assert bench.main(["--quick", "--out", str(out)]) == 0, capsys.readouterr().out
    written = json.loads(out.read_text())
    assert list(written["results"]) == list(WORKLOADS)
    for name, workload in WORKLOADS.items():
        found = written["results"][name]
        assert set(found) == set(workload.ways)
        for way in found.values():
            median = way["median"]
            assert median["rate"] > 0
            assert median["cpu_ns"] > 0
            assert 0 <= median["lost"] < 1
    assert len(written["bars"]) == len(BARS)
    assert "packets: dsr, XDP / nftables" in capsys.readouterr().out
