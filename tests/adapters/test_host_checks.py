"""The checks of a host, on trees of files like those that a kernel and chrony have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from piagent.adapters import host_checks
from piagent.core.finding import Finding, Level


def _running(root: Path, *names: str) -> Path:
    for number, name in enumerate(names, 100):
        folder = root / "proc" / str(number)
        folder.mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
    return root


def _chrony(root: Path, text: str, **parts: str) -> Path:
    folder = root / "etc/chrony"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "chrony.conf").write_text(text)
    for name, part in parts.items():
        (folder / "conf.d" / f"{name}.conf").write_text(part)
    return _running(root, "chronyd")


def _only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# ---- the fence ----


def test_a_working_fence_is_good() -> None:
    assert host_checks.fence(lambda: None).level is Level.GOOD


def test_without_a_fence_the_second_net_is_named_with_the_cure() -> None:
    finding = host_checks.fence(lambda: "this kernel has no nf_tables (x): modprobe nf_tables")
    assert finding.level is Level.ERROR
    assert "only the second net (address lifetimes) holds" in finding.what
    assert finding.cure == "modprobe nf_tables"


def test_only_root_can_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def support() -> str:
        return "not allowed: the fence needs CAP_NET_ADMIN"

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert host_checks.fence(support).cure == "sudo piagent doctor"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert host_checks.fence(support).level is Level.ERROR


# ---- the clock ----


@pytest.mark.parametrize("name", ["systemd-timesyn", "ntpd"])
def test_daemons_that_slew_slowly_are_good(tmp_path: Path, name: str) -> None:
    finding = _only(host_checks.clock(0.0, _running(tmp_path, "init", name)))
    assert finding.level is Level.GOOD
    assert "500 ppm" in finding.what


def test_no_daemon_is_good(tmp_path: Path) -> None:
    assert _only(host_checks.clock(None, _running(tmp_path, "init"))).level is Level.GOOD


@pytest.mark.parametrize(
    "text", ["", "# maxslewrate 500\n", "maxslewrate\n", "maxslewrate much\n", "maxslewrate 10001"]
)
def test_chrony_slews_too_fast_if_not_told_otherwise(tmp_path: Path, text: str) -> None:
    finding = _only(host_checks.clock(0.0, _chrony(tmp_path, text)))
    assert finding.level is Level.WARNING
    assert "maxslewrate 500" in finding.cure
    assert "20000 ppm" in finding.why


@pytest.mark.parametrize("text", ["maxslewrate 500\n", "MaxSlewRate 10000", "\n  maxslewrate 1.5"])
def test_chrony_with_a_limit_is_good(tmp_path: Path, text: str) -> None:
    assert _only(host_checks.clock(0.0, _chrony(tmp_path, text))).level is Level.GOOD


def test_the_last_limit_counts_wherever_it_is_included(tmp_path: Path) -> None:
    main = "maxslewrate 90000\nconfdir /etc/chrony/conf.d\n"
    root = _chrony(tmp_path, main, a="maxslewrate 80000", b="maxslewrate 500")
    finding = _only(host_checks.clock(0.0, root))
    assert finding.level is Level.GOOD
    assert "b.conf" in finding.what


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    main = "include /etc/chrony/*.conf\nmaxslewrate 500\n"
    assert _only(host_checks.clock(0.0, _chrony(tmp_path, main))).level is Level.GOOD


def test_the_configuration_of_a_daemon_that_does_not_run_does_not_matter(tmp_path: Path) -> None:
    _chrony(tmp_path, "")
    (tmp_path / "proc/100/comm").write_text("cat\n")
    assert _only(host_checks.clock(0.0, tmp_path)).level is Level.GOOD


@pytest.mark.parametrize("rate", [83_333.0, -20_000.0])
def test_a_clock_that_is_being_slewed_fast_is_an_error(tmp_path: Path, rate: float) -> None:
    finding = _only(host_checks.clock(rate, tmp_path))
    assert finding.level is Level.ERROR
    assert f"{rate:.0f} ppm" in finding.what


def test_the_kernel_tells_a_plausible_rate() -> None:
    rate = host_checks.clock_rate_ppm()
    assert rate is not None
    assert abs(rate) < 100_001  # what adjtimex(2) allows a tick to be


# ---- Wi-Fi ----


def _interface(sysfs: Path, name: str, driver: str, *, wireless: bool) -> Path:
    folder = sysfs / "class/net" / name
    (sysfs / "drivers" / driver).mkdir(parents=True)
    (folder / "device").mkdir(parents=True)
    (folder / "device/driver").symlink_to(sysfs / "drivers" / driver)
    if wireless:
        (folder / "wireless").mkdir()
    return sysfs


def test_a_wired_interface_needs_no_word(tmp_path: Path) -> None:
    sysfs = _interface(tmp_path, "eth0", "bcmgenet", wireless=False)
    assert host_checks.wifi("eth0", [f"10.0.0.{n}" for n in range(20)], sysfs) == []
    assert host_checks.wifi(None, [], sysfs) == []


def test_more_than_seven_addresses_on_a_pi_s_wifi_are_told(tmp_path: Path) -> None:
    sysfs = _interface(tmp_path, "wlan0", "brcmfmac", wireless=True)
    few, many = ([f"10.0.0.{n}" for n in range(count)] for count in (7, 8))
    assert [finding.what for finding in host_checks.wifi("wlan0", few, sysfs)] == ["wlan0 is Wi-Fi"]
    crowd, _ = host_checks.wifi("wlan0", many, sysfs)
    assert "8 IPv4 VIPs" in crowd.what
    assert crowd.cure == "sudo ip link set wlan0 promisc on"
