"""Which differences need a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.agent.reload import needs_restart
from piagent.core.model import Config, Gateway, Listen
from tests.agent.nodes import config


def test_routes_services_gateways_pools_and_weight_need_none(tmp_path: Path) -> None:
    old = config(tmp_path)
    new = replace(
        old,
        services=(),
        gateways=(Gateway(name="g", address="10.0.0.9", ports=(80,)),),
        node=replace(old.node, vip_weight=0),
    )
    assert needs_restart(old, new) == ()


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("node.name", lambda c: replace(c, node=replace(c.node, name="other"))),
        ("node.interface", lambda c: replace(c, node=replace(c.node, interface="eth1"))),
        ("node.workers", lambda c: replace(c, node=replace(c.node, workers=7))),
        ("cluster.name", lambda c: replace(c, cluster="other")),
        ("cluster.secret_file", lambda c: replace(c, secrets=(b"x" * 16,))),
        ("mqtt.brokers", lambda c: replace(c, mqtt=replace(c.mqtt, brokers=()))),
        ("mqtt.password_file", lambda c: replace(c, mqtt=replace(c.mqtt, password="x"))),
        (
            "mqtt.embedded",
            lambda c: replace(
                c, mqtt=replace(c.mqtt, embedded=Listen(address="127.0.0.1", port=1))
            ),
        ),
        ("election", lambda c: replace(c, election=replace(c.election, candidates=("a",)))),
        ("admin.socket", lambda c: replace(c, admin_socket="/elsewhere")),
    ],
)
def test_fixed_key_is_named(tmp_path: Path, key: str, change: object) -> None:
    old = config(tmp_path)
    assert callable(change)
    assert needs_restart(old, change(old)) == (key,)


def test_every_key_of_the_model_is_either_fixed_or_changeable(tmp_path: Path) -> None:
    # Fails when the model grows: decide then whether a reload may change the new key.
    old = config(tmp_path)
    assert set(Config.__struct_fields__) == {
        "node", "cluster", "secret", "mqtt", "election", "admin_socket",
        "pools", "services", "gateways", "routes",
    }  # fmt: skip
    assert set(type(old.node).__struct_fields__) == {"name", "interface", "vip_weight", "workers"}
    assert set(type(old.mqtt).__struct_fields__) == {"brokers", "password", "embedded"}
