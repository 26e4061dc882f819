"""`piagent check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from piagent.cli import main

GOOD = """
node.name = "pi-1"
node.interface = "eth0"
[cluster]
secret_file = "secret"
[mqtt]
brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]
embedded = "192.0.2.1:1883"
[[pool]]
name = "lan"
addresses = ["192.0.2.240/28"]
[[service]]
name = "dns"
type = "load-balancer"
address = "192.0.2.241"
ports = [{ port = 53, target_port = 5353 }, { port = 54 }]
backends = ["192.0.2.21"]
health = { kind = "tcp" }
[[gateway]]
name = "web"
address = "192.0.2.242"
listen = [{ port = 80 }]
[[route]]
name = "dead"
gateway = "web"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("hush-hush-hush-hush")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "pi.toml").write_text(GOOD)
    return tmp_path / "pi.toml"


def test_a_good_file_prints_what_this_node_does(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    for part in (
        "pi-1 in cluster home",
        "192.0.2.241, 192.0.2.242 (weight 100)",
        "192.0.2.2 port 1883, 192.0.2.3",
        "Own broker  192.0.2.1 port 1883",
        "normal: lease 1500 ms, renewed each 300 ms; candidates: all",
        "192.0.2.241 port 53  ->  service dns:53",
        "192.0.2.242 port 80  ->  gateway web",
        "Service dns (load-balancer), port 53 -> 5353, 54, backends checked by tcp",
        "any host  /  ->  dead  no backend: 500",
    ):
        assert part in out
    what = "route[0]: has no backend: its requests are answered with 500"
    assert err.startswith(f"warning: {file}:23: {what}; ")


PROXYING = """
balance = "round-robin"
allowed_sources = ["192.0.2.0/24", "2001:db8::/32"]
trusted_proxies = ["198.51.100.7"]
proxy_protocol = "v2"
source_addresses = ["192.0.2.1"]
limits = { connections = 100, connections_per_source = 10, accept_rate = "5/s" }
timeouts = { connect = "1s", idle = "5m" }
slow_start = "30s"
drain_timeout = "1m"
ejection = { failures = 2, time = "20s" }
access_log = "dns.log"
"""


def test_what_a_service_says_of_its_connections_shows(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace('health = { kind = "tcp" }\n', PROXYING))
    assert main(["check", str(file)]) == 0
    wanted = (
        "balanced by round-robin; only from 192.0.2.0/24, 2001:db8::/32; "
        "PROXY headers from 198.51.100.7/32; "
        "PROXY header v2 to backends; to backends from 192.0.2.1; at most 100 connections; "
        "at most 10 of one client; at most 5 new ones a second; connects in 1000 ms; "
        "idle for 300000 ms; slow start in 30000 ms; drains for 60000 ms; "
        f"ejects a backend after 2 failures for 20000 ms; logged to {file.parent}/dns.log"
    )
    assert f"\n  {wanted}\n" in capsys.readouterr().out
    assert main(["check", "--json", str(file)]) == 0
    made = json.loads(capsys.readouterr().out)["plan"]["config"]["services"][0]["proxying"]
    assert made["limits"] == {"connections": 100, "connections_per_source": 10, "accept_rate": 5}


def test_a_service_that_says_nothing_of_its_connections_shows_nothing_of_them(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    title = next(i for i, line in enumerate(lines) if line.startswith("Service dns"))
    assert lines[title + 1] == "  192.0.2.21  weight 1"


def test_what_is_forwarded_shows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mode = 'mode = "dsr"\nencapsulation = "ipip"\n'
    text = GOOD.replace('health = { kind = "tcp" }\n', mode).replace(", target_port = 5353", "")
    file.write_text(text)
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    listens, _, forwards = out.partition("It forwards (on a VIP that it owns) packets to\n")
    assert "192.0.2.241 port 53  ->  service dns:53" not in listens
    assert "192.0.2.241 port 53  ->  service dns:53@ipv4\n" in forwards
    assert "\n  forwarded by dsr in ipip\n" in out
    assert main(["check", "--json", str(file)]) == 0
    (forward, _) = json.loads(capsys.readouterr().out)["plan"]["forwards"]
    assert forward["how"] == {"mode": "dsr", "encapsulation": "ipip"}


def test_what_is_not_the_default_shows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "secret").write_text("hush-hush-hush-hush\nhush-hush-hush-hash\n")
    text = GOOD.replace('node.name = "pi-1"', NODE + 'node.name = "pi-1"')
    text = text.replace("mqtt://192.0.2.2", "mqtts://me@192.0.2.2")
    text = text.replace('addresses = ["192.0.2.240/28"]', POOL)
    text = text.replace('backends = ["192.0.2.21"]', LOCAL)
    file.write_text(text + ELECTION)
    assert main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    for part in (
        "pi-1 in cluster home, zone z, disk = ssd, rack = a",
        "2 are accepted, the first one signs",
        "(weight 100, wired only)",
        "192.0.2.1 port 1883, 192.0.2.2 port 8883 by TLS",
        "hold the VIPs",
        "back to a preferred node after 60000 ms, to even the shares never; connections have 0 ms",
        "lan  rack = a, on eth0 or eth1, only configured, not announced, defended",
        "192.0.2.21  weight 1 on pi-1",
        "down after 3, only those on the node it came to",
    ):
        assert part in out
    assert "safe unless L2 splits" in err
    assert "hush" not in out + err


NODE = """
node.zone = "z"
node.labels = { rack = "a", disk = "ssd" }
node.vip_eligible = "wired-only"
"""
POOL = """
addresses = ["192.0.2.240/28"]
nodes = { rack = "a" }
interfaces = ["eth0", "eth1"]
announce = "none"
conflict = "defend"
"""
LOCAL = """
backends = [{ address = "192.0.2.21", node = "pi-1" }]
traffic_policy = "local"
"""
ELECTION = """
[election]
on_quorum_loss = "hold"
preempt = "1m"
rebalance = "off"
drain = "0s"
"""


def test_loopback_vips_show_as_if_they_were_owned(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace("192.0.2.241", "127.0.0.9"))
    assert main(["check", str(file)]) == 0
    assert "127.0.0.9 port 53" in capsys.readouterr().out


def test_a_bad_file_prints_every_error_and_exits_with_2(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace("port = 80", "port = 0").replace("5353 }", "5353, x = 1 }"))
    assert main(["check", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == [
        "service[0].ports[0].x",
        "gateway[0].listen[0].port",
    ]
    assert lines[-1] == "2 errors: nothing was used"


def test_a_file_that_is_not_there_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "/nowhere/pi.toml"]) == 2
    assert "/nowhere/pi.toml: cannot read it" in capsys.readouterr().err


def test_json_holds_the_plan_and_no_secret(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "hush" not in out
    found = json.loads(out)
    assert found["ok"] is True
    assert [warning["key"] for warning in found["warnings"]] == ["route[0]"]
    assert found["plan"]["config"]["secrets"] == 1
    assert found["plan"]["config"]["mqtt"]["password"] is False
    assert found["plan"]["config"]["services"][0]["ports"][0]["target_port"] == 5353
    web = {"address": "192.0.2.242", "port": 80, "target": "web", "http": True}
    assert any(web.items() <= one.items() for one in found["plan"]["listeners"])


def test_json_holds_the_errors(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[mqtt]\nbrokers = 1")
    assert main(["check", "--json", str(file)]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["ok"], found["plan"], err) == (False, None, "")
    assert found["errors"][0]["line"] == 2
    assert found["errors"][0]["key"] == "mqtt.brokers"
