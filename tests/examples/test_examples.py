"""Every file in examples/ is one that an agent takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from piagent.config import load
from piagent.config.host import Host
from piagent.core.plan import plan

FOLDER = Path("examples")
HOST = Host(name="pi-9", interface="eth0", cpus=4)
WARNINGS = {
    "minimal.toml": {"cluster.secret_file", "mqtt.brokers"},
    "http.toml": {"cluster.secret_file", "mqtt.brokers"},
    "pi-1.toml": set(),
}
"""What each may be warned of: the small ones run on one host, for trying out."""


TESTED_ELSEWHERE = {"mosquitto.conf", "mosquitto.acl", "pi-1-tls.toml"}
"""By test_mosquitto.py, with a broker."""


def test_every_example_is_tested() -> None:
    assert {file.name for file in FOLDER.iterdir()} == WARNINGS.keys() | TESTED_ELSEWHERE


@pytest.mark.parametrize("name", WARNINGS)
def test_an_example_loads_and_makes_a_plan(name: str, tmp_path: Path) -> None:
    shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "cluster.secret").write_text("0" * 64)
    (tmp_path / "cluster.secret").chmod(0o640)
    loaded = load(tmp_path / name, HOST)
    assert {warning.key for warning in loaded.warnings} == WARNINGS[name]
    made = plan(loaded.config, frozenset(loaded.config.vips()), frozenset())
    assert made.listeners
    assert all(service.backends for service in made.services)


def test_the_minimal_example_is_about_ten_lines() -> None:
    lines = (FOLDER / "minimal.toml").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) <= 12
