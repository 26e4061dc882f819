"""Does this host do what the leases assume of it? The fence, the clock, Wi-Fi."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from piagent.adapters import wireless
from piagent.core.finding import Finding, error, good, warning

ROOT: Final = Path("/")
RHO_PPM: Final = 20_000
"""How far the rates of two lease clocks may differ (rho, 2 %)."""
RATE_MAX_PPM: Final = RHO_PPM // 2
"""How far one may be off when another is as far off the other way."""
CHRONY_DEFAULT_PPM: Final = 83_333.333
"""chrony.conf(5), maxslewrate."""

_TIME_DAEMONS: Final = {
    "chronyd": "chronyd",
    "systemd-timesyn": "systemd-timesyncd",  # the kernel keeps 15 characters
    "ntpd": "ntpd",
}
_CHRONY_FILES: Final = ("etc/chrony/chrony.conf", "etc/chrony.conf")
_SLEW_CURE: Final = (
    "echo 'maxslewrate 500' | sudo tee /etc/chrony/conf.d/piagent.conf"
    " && sudo systemctl restart chrony"
)
_CLOCK_WHY: Final = (
    "an owner with a slow clock acts on while others with fast clocks believe its lease over;"
    f" {RHO_PPM} ppm between two nodes are allowed for"
)


def fence(support: Callable[[], str | None]) -> Finding:
    """Whether the kernel can silence a VIP whose owner is hung; `support`: fence.probe_support."""
    missing = support()
    if missing is None:
        return good("fence", "the kernel can silence a VIP when its lease ends (nftables, netdev)")
    what, _, cure = missing.partition(": ")
    if what == "not allowed" and os.geteuid() != 0:
        why = "only root may ask the kernel"
        return warning("fence", "not checked", why=why, cure="sudo piagent doctor")
    return error(
        "fence",
        f"no fence, only the second net (address lifetimes) holds: {what}",
        why="a hung owner answers for its VIPs up to a second longer than its lease",
        cure=cure or "Linux 5.16 or newer with nf_tables: sudo modprobe nf_tables",
    )


def clock(rate_ppm: float | None, root: Path = ROOT) -> list[Finding]:
    """Whether something turns the clock faster than the leases allow for; `rate_ppm`: now."""
    findings = [_daemon(name, root) for name in sorted(_running(root))]
    if rate_ppm is not None and abs(rate_ppm) > RATE_MAX_PPM:
        what = f"the kernel's clock is being slewed by {rate_ppm:.0f} ppm right now"
        cure = f"find who does it (chronyc tracking); for chrony: {_SLEW_CURE}"
        findings.append(error("clock", what, why=_CLOCK_WHY, cure=cure))
    return findings or [good("clock", "no time daemon is running, and the clock is not slewed")]


def wifi(
    interface: str | None, vips: Collection[str], sysfs: Path = wireless.SYSFS
) -> list[Finding]:
    """Whether the VIPs' interface is Wi-Fi, and has too many of them."""
    if not interface or not wireless.is_wireless(interface, sysfs):
        return []
    why = "the firmware answers ARP for the first of them only; nobody finds the others"
    crowd = wireless.crowded(interface, vips, sysfs)
    cure = f"sudo ip link set {interface} promisc on"
    findings = [warning("wifi", crowd, why=why, cure=cure)] if crowd else []
    sleep = "power save delays what arrives by up to some 100 ms"
    return [
        *findings,
        warning(
            "wifi",
            f"{interface} is Wi-Fi",
            why=f"losses and delays end leases; {sleep}",
            cure=f'[election] profile = "wifi"; sudo iw dev {interface} set power_save off',
        ),
    ]


def clock_rate_ppm() -> float | None:
    """How much faster than its crystal the kernel's clock runs (adjtimex(2)); None: unknown."""
    state = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(state)) < 0:
        return None
    # A tick is 10 ms, `freq` ppm with 16 binary digits behind the point.
    return (int(state.tick) - 10_000) * 100 + int(state.freq) / 65_536


class _Timex(ctypes.Structure):
    """The head of struct timex; the kernel writes more, so there is room for it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("rest", ctypes.c_long * 32),
    )


def _running(root: Path) -> set[str]:
    """Which time daemons are."""
    found = set()
    for comm in (root / "proc").glob("[0-9]*/comm"):
        try:
            name = comm.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue  # it has ended
        if name in _TIME_DAEMONS:
            found.add(_TIME_DAEMONS[name])
    return found


def _daemon(name: str, root: Path) -> Finding:
    if name != "chronyd":
        return good("clock", f"{name} is running: it slews by at most 500 ppm")
    rate, where = CHRONY_DEFAULT_PPM, "its default"
    for file, value in _slew_rates(root):
        rate, where = value, str(file)
    if rate <= RATE_MAX_PPM:
        return good("clock", f"chronyd slews by at most {rate:g} ppm ({where})")
    what = f"chronyd may slew the clock by {rate:.0f} ppm ({where})"
    return warning("clock", what, why=_CLOCK_WHY, cure=_SLEW_CURE)


def _slew_rates(root: Path) -> Iterator[tuple[Path, float]]:
    """Every `maxslewrate`; the last one counts."""
    for name in _CHRONY_FILES:
        if (root / name).exists():
            yield from _read_chrony(root / name, root, depth=0)
            return


def _read_chrony(file: Path, root: Path, depth: int) -> Iterator[tuple[Path, float]]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        key, *values = line.split() or [""]
        if not values or depth > 3:
            continue
        target = root / values[0].lstrip("/")
        if key.lower() == "maxslewrate":
            try:
                yield file, float(values[0])
            except ValueError:
                continue
        elif key.lower() == "confdir":
            for one in sorted(target.glob("*.conf")):
                yield from _read_chrony(one, root, depth + 1)
        elif key.lower() == "include":
            for one in sorted(root.glob(values[0].lstrip("/"))):
                yield from _read_chrony(one, root, depth + 1)
