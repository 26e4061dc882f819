"""Where the DNS responder may listen, and names that it could not say."""

from __future__ import annotations

import pytest

from piagent.config.problems import Problem
from piagent.core.model import Listen
from tests.config.conftest import Load, Problems

FILE = """
[cluster]
secret_file = "cluster.secret"

[mqtt]
brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]

[dns]
listen = "127.0.0.55:53"

[[pool]]
name = "lan"
addresses = ["192.0.2.240-192.0.2.249"]

[[service]]
name = "web"
type = "load-balancer"
address = "192.0.2.240"
ports = [{ port = 53 }, { port = 5300, protocol = "udp", node_port = 30053 }]
backends = ["192.0.2.21"]
"""


def test_the_responder_listens_where_the_file_says(load: Load) -> None:
    loaded = load(FILE)
    assert loaded.config.dns == Listen(address="127.0.0.55", port=53)
    assert loaded.warnings == ()
    assert load(FILE.replace('[dns]\nlisten = "127.0.0.55:53"', "")).config.dns is None


@pytest.mark.parametrize(
    ("listen", "what", "cure"),
    [
        ("0.0.0.0:53", "another address than the one that was asked", "127.0.0.55:53"),
        ("[::]:53", "another address than the one that was asked", "127.0.0.55:53"),
        ("192.0.2.240:53", "already taken by service[0].ports[0]", "another port or address"),
        ("192.0.2.240:5300", "already taken by service[0].ports[1]", "another port or address"),
        ("127.0.0.55:30053", "is service[0].ports[1].node_port", "another port"),
    ],
)
def test_a_place_that_cannot_be_had_is_an_error(
    errors: Problems, listen: str, what: str, cure: str
) -> None:
    (problem,) = errors(FILE.replace("127.0.0.55:53", listen))
    assert problem.key == "dns.listen"
    assert what in problem.what
    assert cure in problem.cure


def test_a_table_without_a_place_is_an_error(errors: Problems) -> None:
    (problem,) = errors(FILE.replace('listen = "127.0.0.55:53"', ""))
    assert problem.key == "dns.listen"


def warned(load: Load, text: str) -> list[Problem]:
    return [one for one in load(text).warnings if "DNS" in one.what]


def test_a_name_that_the_dns_cannot_say_is_a_warning(load: Load) -> None:
    assert [one.key for one in warned(load, FILE.replace('"web"', '"we..b"'))] == [
        "service[0].name"
    ]
    assert warned(load, FILE.replace('"web"', '"we..b"').replace("[dns]\nlisten", "#")) == []


def test_names_that_differ_in_case_only_are_a_warning(load: Load) -> None:
    other = """
[[service]]
name = "Web"
ports = [{ port = 81 }]
backends = ["192.0.2.21"]
"""
    (problem,) = warned(load, FILE + other)
    assert problem.key == "service[1].name"
    assert "service[0].name" in problem.what


def test_a_cluster_that_the_dns_cannot_say_is_an_error(errors: Problems) -> None:
    (problem,) = errors(FILE.replace("[cluster]", '[cluster]\nname = "my..home"'))
    assert problem.key == "cluster.name"
