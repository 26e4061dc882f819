"""Which differences need a restart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from msgspec.structs import replace

from piagent.agent.reload import NO_ROTATION, TIMES, needs_restart, rotates
from piagent.config.election import PROFILES
from piagent.config.values import ProfileName
from piagent.core.forwarding import FlowCache
from piagent.core.model import (
    Broker,
    Config,
    Election,
    Gateway,
    Listen,
    Mqtt,
    Node,
    QuorumLoss,
    Timing,
)

OLD = Config(
    node=Node(name="n1", interface="eth0"),
    cluster="home",
    secrets=(b"0123456789abcdef",),
    mqtt=Mqtt(brokers=(Broker(label="b1", host="127.0.0.1", port=1883),)),
    election=Election(profile="normal", timing=PROFILES[ProfileName.NORMAL]),
    admin_socket="/run/admin.sock",
)


def test_routes_services_gateways_pools_and_what_places_vips_need_none() -> None:
    old = OLD
    new = replace(
        old,
        services=(),
        admin_token="another",
        gateways=(Gateway(name="g", vips=("10.0.0.9",), ports=(80,)),),
        node=replace(old.node, vip_weight=0, zone="z", labels={"rack": "a"}, wired_only=True),
        election=replace(
            old.election,
            on_quorum_loss=QuorumLoss.HOLD,
            preempt_ms=1000,
            rebalance_ms=None,
            drain_ms=0,
        ),
    )
    assert needs_restart(old, new) == ()


def longer(key: str, config: Config) -> Config:
    """The same with one of its times changed."""
    times = config.election.timing
    times = replace(times, **{f"{key}_ms": getattr(times, f"{key}_ms") + 1})
    return replace(config, election=replace(config.election, timing=times))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("node.name", lambda c: replace(c, node=replace(c.node, name="other"))),
        ("node.interface", lambda c: replace(c, node=replace(c.node, interface="eth1"))),
        ("node.workers", lambda c: replace(c, node=replace(c.node, workers=7))),
        ("cluster.name", lambda c: replace(c, cluster="other")),
        (NO_ROTATION, lambda c: replace(c, secrets=(b"x" * 16,))),
        ("mqtt.brokers", lambda c: replace(c, mqtt=replace(c.mqtt, brokers=()))),
        ("mqtt.password_file", lambda c: replace(c, mqtt=replace(c.mqtt, password="x"))),
        (
            "mqtt.embedded",
            lambda c: replace(
                c, mqtt=replace(c.mqtt, embedded=Listen(address="127.0.0.1", port=1))
            ),
        ),
        ("mqtt.ca_file", lambda c: replace(c, mqtt=replace(c.mqtt, ca_file="/x"))),
        ("mqtt.cert_file", lambda c: replace(c, mqtt=replace(c.mqtt, cert_file="/x"))),
        ("mqtt.key_file", lambda c: replace(c, mqtt=replace(c.mqtt, key_file="/x"))),
        *((f"election.{key}", partial(longer, key)) for key in TIMES),
        (
            "election.candidates",
            lambda c: replace(c, election=replace(c.election, candidates=("a",))),
        ),
        ("dns.listen", lambda c: replace(c, dns=Listen(address="127.0.0.54", port=53))),
        ("node.flow_cache", lambda c: replace(c, node=replace(c.node, flow_cache=FlowCache.OFF))),
        ("node.state_file", lambda c: replace(c, node=replace(c.node, state_file="/x"))),
        ("admin.socket", lambda c: replace(c, admin_socket="/elsewhere")),
        (
            "admin.listen",
            lambda c: replace(c, admin_listen=Listen(address="127.0.0.1", port=9180)),
        ),
    ],
)
def test_fixed_key_is_named(key: str, change: Callable[[Config], Config]) -> None:
    assert needs_restart(OLD, change(OLD)) == (key,)


def test_every_key_of_the_model_is_either_fixed_or_changeable() -> None:
    # Fails when the model grows: decide then whether a reload may change the new key.
    assert set(Config.__struct_fields__) == {
        "node", "cluster", "secrets", "mqtt", "election", "admin_socket",
        "admin_listen", "admin_token",
        "pools", "services", "gateways", "routes", "dns", "bgp",
    }  # fmt: skip
    assert set(Node.__struct_fields__) == {
        "name", "interface", "vip_weight", "workers", "zone", "labels", "wired_only", "state_file",
        "flow_cache",
    }  # fmt: skip
    assert set(Mqtt.__struct_fields__) == {
        "brokers", "password", "ca_file", "cert_file", "key_file", "embedded",
    }  # fmt: skip
    assert set(Election.__struct_fields__) == {
        "profile", "timing", "candidates", "on_quorum_loss", "preempt_ms", "rebalance_ms",
        "drain_ms",
    }  # fmt: skip
    derived = {"wait_ms"}  # from the lease
    assert set(Timing.__struct_fields__) == {f"{key}_ms" for key in TIMES} | derived


A, B, C = b"secret a", b"secret b", b"secret c"


@pytest.mark.parametrize(
    ("old", "new"),
    [((A,), (A,)), ((A,), (A, B)), ((A, B), (B, A)), ((B, A), (B,)),
     ((A, B), (A,)), ((B, A), (A, B)), ((A, C), (A, B))],
)  # fmt: skip
def test_a_step_of_a_rotation_forward_or_back_is_one(
    old: tuple[bytes, ...], new: tuple[bytes, ...]
) -> None:
    assert rotates(old, new)
    before = replace(OLD, secrets=old)
    assert needs_restart(before, replace(before, secrets=new)) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [((A,), (B,)),  # nothing in common
     ((A,), (B, A)),  # signs with what nobody accepts yet
     ((A, B), (B,)),  # refuses what others still sign with
     ((A, B), (B, C))],
)  # fmt: skip
def test_two_steps_of_a_rotation_at_once_are_refused_with_the_reason(
    old: tuple[bytes, ...], new: tuple[bytes, ...]
) -> None:
    assert not rotates(old, new)
    before = replace(OLD, secrets=old)
    (key,) = needs_restart(before, replace(before, secrets=new))
    assert key.startswith("cluster.secret_file")
    assert "rotate-the-secret" in key
