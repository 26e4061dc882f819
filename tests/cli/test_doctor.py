"""`piagent doctor` and `piagent doctor broker`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from piagent.adapters import fence, host_checks
from piagent.cli import doctor, main
from tests import mosquitto
from tests.mosquitto import Mosquitto
from tests.net import free_port


@pytest.fixture
def good_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One with a fence, no time daemon, and no configuration."""
    monkeypatch.setattr(doctor, "DEFAULT_FILE", str(tmp_path / "none.toml"))
    monkeypatch.setattr(fence, "probe_support", lambda: None)
    monkeypatch.setattr(host_checks, "clock_rate_ppm", lambda: 12.0)
    monkeypatch.setattr(host_checks, "_running", lambda _root: set())


@pytest.mark.usefixtures("good_host")
def test_a_good_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["good", "fence:"], ["good", "clock:"]]


@pytest.mark.usefixtures("good_host")
def test_each_finding_has_what_why_and_cure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "probe_support", lambda: "no nf_tables: modprobe nf_tables")
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("error    fence: no fence, only the second net")
    assert "why:  a hung owner" in text
    assert "cure: modprobe nf_tables" in text
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["fit"]
    assert told["findings"][0]["cure"] == "modprobe nf_tables"


@pytest.mark.usefixtures("good_host")
def test_a_warning_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "_running", lambda _root: {"chronyd"})
    monkeypatch.setattr(host_checks, "_slew_rates", lambda _root: iter(()))
    assert main(["doctor"]) == 0


def test_a_file_that_is_named_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-c", "/nowhere/piagent.toml"]) == 2
    assert "/nowhere/piagent.toml" in capsys.readouterr().err


@pytest.mark.usefixtures("good_host")
def test_without_a_file_and_a_url_there_is_no_broker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "broker"]) == 2
    assert "give -c FILE or a URL" in capsys.readouterr().err


@pytest.mark.usefixtures("good_host")
def test_a_url_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "broker", "http://192.0.2.1"]) == 2
    assert "write mqtt://" in capsys.readouterr().err


@pytest.mark.usefixtures("good_host")
def test_a_broker_that_is_down_is_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "broker", f"mqtt://127.0.0.1:{free_port()}"]) == 1
    out, err = capsys.readouterr()
    assert "NOT FIT" in out
    assert "Connection refused" in out
    assert "b1: connecting" in err


@pytest.mark.skipif(mosquitto.WHY_NOT is not None, reason=mosquitto.WHY_NOT or "")
def test_the_brokers_of_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "pi.toml"
    with Mosquitto() as broker:
        file.write_text(f'[mqtt]\nbrokers = ["mqtt://127.0.0.1:{broker.port}"]\n')
        assert main(["doctor", "broker", "-c", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fit"]
    assert told["brokers"][0]["label"] == "b1"
    checks = [finding["check"] for finding in told["brokers"][0]["findings"]]
    assert {"process", "order", "queue", "latency"} <= set(checks)


def test_other_commands_do_not_pay_for_it() -> None:
    code = (
        "import sys; from piagent.cli import doctor; "
        "sys.exit(any(m in sys.modules for m in ('paho', 'ssl', 'ctypes', 'asyncio')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
