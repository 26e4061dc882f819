"""Every file in examples/ is one that an agent takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import fields

from piagent.config import load
from piagent.config.host import Host
from piagent.core.allocation import allocate
from piagent.core.model import ServiceType
from piagent.core.plan import plan
from piagent.core.proxying import Proxying
from piagent.core.wants import vip_request, wants_of

FOLDER = Path("examples")
HOST = Host(name="pi-9", interface="eth0", cpus=4)
WARNINGS = {
    "minimal.toml": {"cluster.secret_file", "mqtt.brokers"},
    "http.toml": {"cluster.secret_file", "mqtt.brokers"},
    "services.toml": {"cluster.secret_file", "mqtt.brokers"},
    "proxy.toml": {"cluster.secret_file", "mqtt.brokers"},
    "pi-1.toml": set(),
    "bgp.toml": set(),
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


def test_the_services_of_the_example_are_of_every_type_and_share_what_they_get(
    tmp_path: Path,
) -> None:
    shutil.copy(FOLDER / "services.toml", tmp_path)
    config = load(tmp_path / "services.toml", HOST).config
    assert {service.type for service in config.services} == set(ServiceType)
    requests = [
        request
        for key, want in wants_of(config.services, config.gateways).items()
        if (request := vip_request(key, want)) is not None
    ]
    given = allocate(config.pools, requests, {}).given
    assert {name: grant.addresses for name, grant in given.items()} == {
        "service/dns": ("192.168.1.240", "fd00:1::f0"),
        "service/syslog": ("192.168.1.240",),
    }


def test_the_example_of_proxying_shows_every_key_of_it(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "proxy.toml", tmp_path)
    services = load(tmp_path / "proxy.toml", HOST).config.services
    for field in fields(Proxying):
        assert any(getattr(one.proxying, field.name) != field.default for one in services), field


def test_the_minimal_example_is_about_ten_lines() -> None:
    lines = (FOLDER / "minimal.toml").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) <= 12
