"""A host's sensors, from files like the kernel's."""

from __future__ import annotations

from pathlib import Path

from piagent.adapters.pi import Hardware
from piagent.core.vitals import Vitals


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_pi_tells_of_its_supply_and_its_heat(tmp_path: Path) -> None:
    write(tmp_path / "class/hwmon/hwmon0/name", "cpu_thermal\n")
    write(tmp_path / "class/hwmon/hwmon1/name", "rpi_volt\n")
    write(tmp_path / "class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "48312\n")
    hardware = Hardware(tmp_path)
    assert hardware.vitals(wireless=True) == Vitals(temperature_mc=48312, wireless=True)
    write(tmp_path / "class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert hardware.vitals(wireless=False).under_voltage


def test_other_computers_have_no_trouble_that_is_known(tmp_path: Path) -> None:
    write(tmp_path / "class/thermal/thermal_zone0/temp", "too hot\n")
    assert Hardware(tmp_path).vitals(wireless=False) == Vitals()
    assert Hardware(tmp_path / "nowhere").vitals(wireless=False) == Vitals()
