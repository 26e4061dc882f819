"""What a gateway lets in and whom it believes: what a file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from piagent.config.applied import read_record
from piagent.core.entry import Entry, LogFormat, Underscores
from piagent.core.records import Kind, Record
from tests.config.conftest import Load, Problems

BASE = """
[cluster]
secret_file = "cluster.secret"
[mqtt]
brokers = ["mqtt://192.0.2.1"]
[[pool]]
name = "lan"
addresses = ["192.0.2.80"]
[[service]]
name = "app"
ports = [{ port = 80 }]
backends = ["192.0.2.11"]
[[route]]
name = "r"
gateway = "web"
backends = [{ service = "app" }]
[[gateway]]
name = "web"
address = "192.0.2.80"
listen = [{ port = 80 }]
"""


def test_a_gateway_lets_in_what_there_is_room_for_and_believes_nobody(load: Load) -> None:
    assert load(BASE).config.gateways[0].entry == Entry()


def test_limits_and_trust_are_the_file_s(load: Load) -> None:
    text = """
trusted_proxies = ["10.0.0.0/8", "2001:db8::1"]
underscore_headers = "reject"
limits = { header_size = "8KiB", header_count = 50, target_size = "2KiB", body_size = "1GiB", \
connections = 1000, connections_per_source = 20, header_time = "5s", idle_time = "1m" }
"""
    assert load(BASE + text).config.gateways[0].entry == Entry(
        trusted=("10.0.0.0/8", "2001:db8::1/128"),
        underscores=Underscores.REJECT,
        head_size=8192,
        fields=50,
        target_size=2048,
        body_size=1 << 30,
        connections=1000,
        connections_per_source=20,
        header_ms=5000,
        idle_ms=60_000,
    )


def test_an_access_log_is_relative_to_the_file_and_has_a_format(load: Load, folder: Path) -> None:
    text = 'access_log = "logs/web.log"\naccess_log_format = "combined"'
    assert load(BASE + text).config.gateways[0].entry == Entry(
        access_log=f"{folder}/logs/web.log", log_format=LogFormat.COMBINED
    )
    assert load(BASE + 'access_log = "-"').config.gateways[0].entry == Entry(access_log="-")


def test_a_format_without_a_log_is_a_warning(load: Load) -> None:
    (warning,) = load(BASE + 'access_log_format = "combined"').warnings
    assert (warning.key, warning.cure) == ("gateway[0].access_log_format", 'access_log = "-"')


def test_who_applies_a_gateway_writes_to_no_file() -> None:
    table = {"name": "web", "address": "192.0.2.80", "listen": [{"port": 80}]}
    said = {
        log: str(
            read_record(Record(kind=Kind.GATEWAY, name="web", table=table | {"access_log": log}))
        )
        for log in ("-", "/etc/passwd")
    }
    assert "may not write to files" in said["/etc/passwd"]
    assert "may not write to files" not in said["-"]


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("access_log = 'logs/'", "access_log", ""),
        ("access_log_format = 'combind'", "one of json, combined", 'did you mean "combined"?'),
        ("trusted_proxies = []", "is empty", "trusted_proxies = ["),
        ("trusted_proxies = ['a']", '"a" is neither a CIDR', ""),
        ("trusted_proxies = ['10.0.0.1', '10.0.0.1']", "already taken", "once is enough"),
        ("underscore_headers = 'kep'", "one of drop, keep, reject", 'did you mean "keep"?'),
        ("limits = { header_size = '17KiB' }", "is more than 16KiB", "there is room"),
        ("limits = { header_size = 5 }", "a size of at most 16KiB, got 5", '"16KiB"'),
        ("limits = { target_size = '9KiB' }", "is more than 8KiB", ""),
        ("limits = { header_count = 101 }", "1 to 100, got 101", ""),
        ("limits = { connections = 0 }", "a number of connections", ""),
        ("limits = { header_time = '0s' }", "is no time at all", ""),
        ("limits = { header_tme = '1s' }", "unknown key", 'did you mean "header_time"?'),
    ],
)
def test_what_cannot_be_says_why(errors: Problems, text: str, what: str, cure: str) -> None:
    (problem,) = errors(BASE + text)
    assert what in f"{problem.key}: {problem.what}"
    assert cure in f"{problem.what} {problem.cure}"


def test_one_client_with_more_connections_than_all_is_a_warning(load: Load) -> None:
    text = "limits = { connections = 5, connections_per_source = 6 }"
    assert [one.key for one in load(BASE + text).warnings if "limits" in one.key]
