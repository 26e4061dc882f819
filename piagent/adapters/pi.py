"""How this host is: supply voltage and temperature, as a Raspberry Pi's kernel reports them.

The firmware's own `get_throttled` file is left alone: reading it makes the kernel warn once a boot
(drivers/firmware/raspberrypi.c); the hwmon driver tells of under-voltage without that.
"""

from __future__ import annotations

from pathlib import Path

from piagent.core.vitals import Vitals

SYSFS = Path("/sys")


class Hardware:
    """Finds the sensors once, reads them when asked; what is not there is no trouble."""

    def __init__(self, sysfs: Path = SYSFS) -> None:
        """`sysfs`: where the kernel's files are."""
        self._alarms = [
            folder / "in0_lcrit_alarm"
            for folder in sorted(sysfs.glob("class/hwmon/hwmon*"))
            if _read(folder / "name") == "rpi_volt"
        ]
        self._zone = sysfs / "class/thermal/thermal_zone0/temp"

    def vitals(self, *, wireless: bool) -> Vitals:
        """What the sensors say now; `wireless`: what is known of the VIPs' interface."""
        return Vitals(
            under_voltage=any(_read(alarm) == "1" for alarm in self._alarms),
            temperature_mc=_number(_read(self._zone)),
            wireless=wireless,
        )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
