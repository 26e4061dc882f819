"""What a service says of its connections: how it is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from piagent.config import ConfigError
from piagent.config.applied import parse_applied, read_record
from piagent.core import model
from piagent.core.proxying import (
    Balance,
    Ejection,
    Limits,
    ProxyHeader,
    Proxying,
    Timeouts,
)
from piagent.core.records import Kind, Record
from tests.config.conftest import Load, Problems
from tests.config.test_services import BOTH, GOOD, HTTP, ROUTE, TO, UDP, service

STAYS = 'affinity = "client-ip"'
ALL = (
    'mode = "proxy"',
    'balance = "maglev"',
    STAYS,
    'affinity_timeout = "20m"',
    'allowed_sources = ["192.168.0.0/16", "192.0.2.7", "2001:DB8::/32"]',
    'trusted_proxies = ["198.51.100.0/24"]',
    'proxy_protocol = "v2"',
    'source_addresses = ["192.0.2.2", "2001:db8::2"]',
    'limits = { connections = 1000, connections_per_source = 10, accept_rate = "100/s" }',
    'timeouts = { connect = "500ms", idle = "0s" }',
    'slow_start = "30s"',
    'drain_timeout = "1m"',
    'ejection = { failures = 3, time = "5s" }',
    'access_log = "logs/web.log"',
)


def test_everything_that_a_service_says_is_read(load: Load, folder: Path) -> None:
    (made,) = load(GOOD + service("load-balancer", HTTP, TO, *ALL)).config.services
    assert made.proxying == Proxying(
        affinity_ms=1_200_000,
        allowed=("192.168.0.0/16", "192.0.2.7/32", "2001:db8::/32"),
        trusted=("198.51.100.0/24",),
        header=ProxyHeader.V2,
        sources=("192.0.2.2", "2001:db8::2"),
        limits=Limits(connections=1000, connections_per_source=10, accept_rate=100),
        timeouts=Timeouts(connect_ms=500, idle_ms=0),
        slow_start_ms=30_000,
        drain_ms=60_000,
        ejection=Ejection(failures=3, time_ms=5_000),
        access_log=f"{folder}/logs/web.log",
    )


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("", Proxying()),
        (STAYS, Proxying(affinity_ms=10_800_000)),
        (f'{STAYS}\naffinity_timeout = "0s"', Proxying(affinity_ms=0)),
        ('ejection = "off"', Proxying(ejection=None)),
        ("ejection = {}", Proxying()),
        ("ejection = { failures = 1 }", Proxying(ejection=Ejection(failures=1))),
        ('timeouts = { idle = "1m" }', Proxying(timeouts=Timeouts(idle_ms=60_000))),
        ("limits = {}", Proxying()),
        ('access_log = "-"', Proxying(access_log="-")),
        ('access_log = "/var/log/web"', Proxying(access_log="/var/log/web")),
        ('drain_timeout = "0s"', Proxying(drain_ms=0)),
        ('proxy_protocol = "v1"', Proxying(header=ProxyHeader.V1)),
        *((f'balance = "{one}"', Proxying(balance=one)) for one in Balance),
    ],
)
def test_what_is_left_out_has_its_default(load: Load, line: str, made: Proxying) -> None:
    loaded = load(GOOD + service("load-balancer", HTTP, TO, line))
    assert loaded.warnings == ()
    assert [one.proxying for one in loaded.config.services] == [made]


FOREIGN = 'source_addresses = ["2001:db8::2"]'
V2 = 'proxy_protocol = "v2"'
EXTERNAL = 'external_name = "db.example.com"'

ERRORS = {
    # what is wrong: (text, key of the one error, part of what, part of the cure)
    "no such mode": (
        service("load-balancer", HTTP, TO, 'mode = "prxy"'), "mode",
        "one of proxy, nat, dsr", '"proxy"'),
    "no such balance": (
        service("load-balancer", HTTP, TO, 'balance = "leastconn"'), "balance",
        "one of maglev, round-robin", "least-connections"),
    "a timeout of nothing": (
        service("load-balancer", HTTP, TO, 'affinity_timeout = "1h"'), "affinity_timeout",
        "no client stays", 'affinity = "client-ip"'),
    "nobody allowed": (
        service("load-balancer", HTTP, TO, "allowed_sources = []"), "allowed_sources", "is empty",
        'allowed_sources = ["192.168.0.0/16"]'),
    "a prefix with too many bits": (
        service("load-balancer", HTTP, TO, 'allowed_sources = ["192.168.1.1/16"]'),
        "allowed_sources[0]", "has bits set after its prefix", 'write "192.168.0.0/16"'),
    "a prefix twice": (
        service("load-balancer", HTTP, TO, 'trusted_proxies = ["192.0.2.7", "192.0.2.7/32"]'),
        "trusted_proxies[1]", "already taken by service[0].trusted_proxies[0]", "once is enough"),
    "no version of the PROXY protocol": (
        service("load-balancer", HTTP, TO, "proxy_protocol = 2"), "proxy_protocol",
        "one of v1, v2", '"v1"'),
    "a rate by the minute": (
        service("load-balancer", HTTP, TO, 'limits = { accept_rate = "100/m" }'),
        "limits.accept_rate", "is not by the second", '"100/s"'),
    "a limit of none": (
        service("load-balancer", HTTP, TO, "limits = { connections = 0 }"), "limits.connections",
        "a number of connections, 1 to 1000000, got 0", "connections = 1000"),
    "a connect timeout of nothing": (
        service("load-balancer", HTTP, TO, 'timeouts = { connect = "0s" }'), "timeouts.connect",
        "no time at all", "a duration"),
    "a word for an ejection": (
        service("load-balancer", HTTP, TO, 'ejection = "no"'), "ejection",
        'a table or "off", got "no"', "ejection = { failures = 5 }"),
    "a number for an ejection": (
        service("load-balancer", HTTP, TO, "ejection = 5"), "ejection", "expected a table, got 5",
        "ejection = { failures = 5 }"),
    "a log that is a folder": (
        service("load-balancer", HTTP, TO, 'access_log = "/var/log/"'), "access_log",
        "is a folder", "a file in it"),
    "a source that moves": (
        service("load-balancer", HTTP, TO, 'source_addresses = ["192.0.2.241"]'),
        "source_addresses[0]", '192.0.2.241 is of pool "lan"', "only this node has"),
    "a source that is a VIP": (
        service("load-balancer", HTTP, TO, 'address = "127.0.0.9"',
                'source_addresses = ["127.0.0.9"]').replace("192.0.2.21", "127.0.0.1"),
        "source_addresses[0]", "127.0.0.9 is of service[0]", "only this node has"),
    "a source that nobody can answer to": (
        service("load-balancer", HTTP, TO, 'source_addresses = ["127.0.0.7"]'),
        "source_addresses", "backend 192.0.2.21 cannot answer to 127.0.0.7", "interface"),
    "more sources than the engine takes": (
        service("load-balancer", HTTP, TO, "source_addresses = ["
                + ", ".join(f'"198.51.100.{i}"' for i in range(17)) + "]"),
        "source_addresses", "17 addresses: at most 16", "28000 connections"),
    "a PROXY header by UDP": (
        service("load-balancer", UDP, TO, V2), "proxy_protocol", "no port of the service is TCP",
        "leave it out"),
    "trusted proxies by UDP": (
        service("load-balancer", UDP, TO, 'trusted_proxies = ["192.0.2.7"]'), "trusted_proxies",
        "no port of the service is TCP", "leave it out"),
    "timeouts of TCP by UDP": (
        service("load-balancer", UDP, TO, 'timeouts = { idle = "1m" }'), "timeouts",
        "no port of the service is TCP", "leave it out"),
    "a log by UDP": (
        service("load-balancer", UDP, TO, 'access_log = "-"'), "access_log",
        "no port of the service is TCP", "leave it out"),
    "an accept rate by UDP": (
        service("load-balancer", UDP, TO, 'limits = { accept_rate = "1/s" }'),
        "limits.accept_rate", "no port of the service is TCP", "leave it out"),
    "sources of a headless service": (
        service("cluster", "headless = true", HTTP, TO, 'allowed_sources = ["192.0.2.0/24"]')
        + service("node-port", HTTP, TO, name="b"),
        "allowed_sources", "connect to its backends themselves", "leave it out"),
    "balancing of an external service": (
        service("external", EXTERNAL, 'balance = "random-two"'), "balance",
        "nothing of an external service goes through a node", "leave it out"),
    "a log of an external service": (
        service("external", EXTERNAL, 'access_log = "-"'), "access_log",
        "nothing of an external service goes through a node", "leave it out"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key", "what", "cure"), ERRORS.values(), ids=ERRORS)
def test_it_is_refused_with_its_place_and_a_cure(
    errors: Problems, text: str, key: str, what: str, cure: str
) -> None:
    (problem,) = errors(GOOD + text)
    assert problem.key == f"service[0].{key}"
    assert problem.line is not None
    assert what in problem.what
    assert cure in problem.cure


def test_a_route_may_lead_to_backends_that_are_told_who_asks(load: Load) -> None:
    assert load(GOOD + service("cluster", HTTP, TO, V2) + ROUTE).warnings == ()


WARNINGS = {
    "a limit that another one never lets be reached": (
        service("load-balancer", HTTP, TO,
                "limits = { connections = 10, connections_per_source = 11 }"),
        "service[0].limits.connections_per_source", "more than the 10 of all"),
    "a policy that affinity leaves nothing to": (
        service("load-balancer", HTTP, TO, STAYS, 'balance = "round-robin"'),
        "service[0].balance", "the hash of the client's address that chooses"),
    "no source for the backends": (
        service("load-balancer", HTTP, TO, FOREIGN), "service[0].source_addresses",
        "none is IPv4, as backend 192.0.2.21 is"),
    "sources of what comes through a gateway": (
        service("cluster", HTTP, TO, 'allowed_sources = ["192.0.2.0/24"]') + ROUTE,
        "route[0].backends[0].service", 'allowed_sources of "a" does not count'),
    "limits of what comes through a gateway": (
        service("cluster", HTTP, TO, 'limits = { connections = 5, accept_rate = "9/s" }') + ROUTE,
        "route[0].backends[0].service", 'limits.accept_rate of "a" does not count'),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key", "what"), WARNINGS.values(), ids=WARNINGS)
def test_it_is_a_warning(load: Load, text: str, key: str, what: str) -> None:
    (warning,) = load(GOOD + text).warnings
    assert warning.key == key
    assert what in warning.what


FINE = {
    "all by UDP that means something there": service(
        "load-balancer", UDP, TO, 'balance = "random-two"', 'slow_start = "1s"',
        'allowed_sources = ["192.0.2.0/24"]', 'drain_timeout = "1m"', 'ejection = "off"',
        "limits = { connections = 5 }"),
    "all for the TCP port beside a UDP one": service("load-balancer", BOTH, TO, *ALL),
    "a loopback source for loopback backends": service(
        "load-balancer", HTTP, TO, 'source_addresses = ["127.0.0.7"]').replace(
            "192.0.2.21", "127.0.0.1"),
    "balancing for a gateway's requests": service(
        "cluster", "headless = true", HTTP, TO, 'balance = "random-two"') + ROUTE,
}  # fmt: skip


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_it_is_taken(load: Load, text: str) -> None:
    assert load(GOOD + text).warnings == ()


# ---- what is applied ----------------------------------------------------------------------------


def table(**keys: object) -> dict[str, object]:
    return {"name": "a", "ports": [{"port": 80}], "backends": ["192.0.2.21"], **keys}


def test_what_is_applied_says_the_same_of_its_connections() -> None:
    own = ("source_addresses", "access_log")
    lines = [line for line in ALL if not line.startswith(own)]
    text = service("load-balancer", HTTP, TO, *lines, 'access_log = "-"')
    (change,) = parse_applied(text.encode(), "web.toml")
    assert change.table is not None
    thing = read_record(Record(kind=Kind.SERVICE, name="a", table=change.table))
    assert isinstance(thing, model.Service)
    assert thing.proxying.limits.accept_rate == 100
    assert thing.proxying.access_log == "-"


@pytest.mark.parametrize(
    ("line", "key", "what"),
    [
        ('access_log = "web.log"', "access_log", "may not write to files of every node"),
        ('source_addresses = ["192.0.2.2"]', "source_addresses", "each node has addresses"),
    ],
)
def test_what_is_a_nodes_own_cannot_be_applied(line: str, key: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_applied(service("load-balancer", HTTP, TO, line).encode(), "web.toml")
    (problem,) = caught.value.errors
    assert problem.key == f"service[0].{key}"
    assert what in problem.what
    assert "nodes' files" in problem.cure


def test_a_leader_refuses_what_another_node_let_pass() -> None:
    record = Record(kind=Kind.SERVICE, name="a", table=table(access_log="/etc/passwd"))
    assert "may not write to files" in str(read_record(record))
