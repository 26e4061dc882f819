"""The probe of brokers, on real Mosquittos: good, wrong, and several that look like one."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.adapters.broker_kind import Told, judge
from piagent.adapters.broker_probe import BrokerReport, Settings, probe
from piagent.adapters.mqtt_tls import Certificates
from piagent.adapters.probe_client import Place, ProbeClient
from piagent.adapters.probe_order import first_difference, not_a_slice, out_of_turn
from piagent.core.finding import Finding, Level
from piagent.core.model import Broker
from tests import certificates, mosquitto
from tests.balancer import Balancer
from tests.certificates import Authority
from tests.mosquitto import Mosquitto
from tests.net import free_port

pytestmark = pytest.mark.skipif(mosquitto.WHY_NOT is not None, reason=mosquitto.WHY_NOT or "")

OPEN = "allow_anonymous true"


def probed(
    port: int,
    *,
    username: str | None = None,
    password: str | None = None,
    authority: Path | None = None,
) -> BrokerReport:
    broker = Broker(
        label="b1", host="127.0.0.1", port=port, username=username, tls=authority is not None
    )
    settings = Settings(
        cluster="home",
        node="pi-1",
        password=password,
        certificates=Certificates(None if authority is None else str(authority)),
        attempt_ms=5000,  # this machine may be busy
        lag_ms=500,
    )
    return probe(broker, settings, lambda _: None)


def of(report: BrokerReport, check: str) -> Finding:
    found = [finding for finding in report.findings if finding.check == check]
    assert found, report
    return found[-1]


def errors(report: BrokerReport) -> list[str]:
    return [finding.check for finding in report.findings if finding.level is Level.ERROR]


@pytest.fixture(scope="module")
def open_broker() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


# ---- fit ----


def test_a_mosquitto_with_the_settings_of_the_documentation_is_fit(open_broker: Mosquitto) -> None:
    report = probed(open_broker.port)
    assert report.fit
    assert {f.check for f in report.findings if f.level is Level.GOOD} == {
        "process", "product", "order", "queue", "latency", "nodelay", "size", "retained", "will",
    }  # fmt: skip
    assert "mosquitto version" in of(report, "product").what


def test_the_probe_keeps_to_its_own_topics_and_leaves_nothing(open_broker: Mosquitto) -> None:
    place = Place("127.0.0.1", open_broker.port)
    watcher = ProbeClient(place)
    watcher.listen("#")
    probed(open_broker.port)
    topics = {message.topic for message in watcher.messages}
    watcher.close()
    assert topics
    assert {topic.rsplit("doctor-", 1)[0] for topic in topics} == {"piagent/home/e/pi-1/"}
    late = ProbeClient(place)
    late.listen("piagent/#")
    late.publish("piagent/after", b"")
    late.expect(1)
    assert [message.topic for message in late.messages] == ["piagent/after"]
    late.close()


def test_a_node_may_probe_under_the_access_list_of_the_examples(tmp_path: Path) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed")
    users = tmp_path / "users"
    subprocess.run([program, "-b", "-c", users, "pi-1", "geheim"], check=True)
    acl = Path("examples/mosquitto.acl").resolve()
    lines = ("allow_anonymous false", f"password_file {users}", f"acl_file {acl}")
    with Mosquitto(lines=lines) as broker:
        report = probed(broker.port, username="pi-1", password="geheim")
        assert report.fit, report
        refused = probed(broker.port, username="pi-1", password="falsch")
        other = probed(broker.port)
    assert errors(refused) == errors(other) == ["connection"]
    assert "Not authorized" in of(refused, "connection").what
    assert "mosquitto_passwd" in of(refused, "connection").cure


@pytest.mark.skipif(certificates.WHY_NOT is not None, reason=certificates.WHY_NOT or "")
def test_tls_and_a_certificate_of_somebody_else(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "other")
    cert, key = ours.issue("broker", "IP:127.0.0.1")
    lines = (OPEN, f"cafile {ours.ca_file}", f"certfile {cert}", f"keyfile {key}")
    with Mosquitto(lines=lines) as broker:
        assert probed(broker.port, authority=ours.ca_file).fit
        refused = probed(broker.port, authority=theirs.ca_file)
        missing = probed(broker.port, authority=tmp_path / "none.pem")
    assert "certificate is not accepted" in of(refused, "connection").what
    assert "cannot be used" in of(missing, "connection").what


# ---- not fit ----


def test_a_short_queue_is_told_with_the_number_of_lost_messages() -> None:
    # Long enough for the race that comes before (450 messages), which would lose some, too.
    with Mosquitto(lines=(OPEN, "max_queued_messages 600")) as broker:
        report = probed(broker.port)
    assert errors(report) == ["queue"]
    lost = int(of(report, "queue").what.split()[0])
    assert 1000 < lost < 2000  # it keeps those on their way and 600
    assert "max_queued_messages 10000" in of(report, "queue").cure


def test_a_broker_that_waits_for_acknowledgements_is_told() -> None:
    with Mosquitto(lines=(OPEN, "set_tcp_nodelay false")) as broker:
        report = probed(broker.port)
    assert report.fit
    assert of(report, "nodelay").level is Level.WARNING
    assert "set_tcp_nodelay true" in of(report, "nodelay").cure


def test_limits_on_size_and_no_retained_messages_are_told() -> None:
    with Mosquitto(lines=(OPEN, "message_size_limit 60000", "retain_available false")) as broker:
        report = probed(broker.port)
    assert errors(report) == ["size"]
    assert of(report, "retained").level is Level.WARNING


def test_two_brokers_behind_one_address_are_refused() -> None:
    with (
        Mosquitto() as one,
        Mosquitto() as two,
        Balancer([one.port, two.port]) as balancer,
    ):
        report = probed(balancer.port)
    assert errors(report)[0] == "process"
    assert "did not arrive" in report.findings[0].what
    assert "no load balancer" in report.findings[0].cure


def test_a_bridge_does_not_make_two_brokers_one() -> None:
    """All messages arrive everywhere; their order is what shows it."""
    quiet = (OPEN, "sys_interval 0")  # without $SYS, which would tell it earlier
    with Mosquitto(lines=quiet) as one:
        bridge = (
            "connection other",
            f"address 127.0.0.1:{one.port}",
            "topic # both 1",
            "notifications false",
        )
        with (
            Mosquitto(lines=(*quiet, *bridge)) as two,
            Balancer([one.port, two.port]) as balancer,
        ):
            _wait_for_bridge(one.port, two.port)
            report = probed(balancer.port)
    assert of(report, "process").level is Level.GOOD, report
    assert "order" in errors(report)


def _wait_for_bridge(one: int, two: int) -> None:
    sender, receiver = (ProbeClient(Place("127.0.0.1", port)) for port in (one, two))
    receiver.listen("bridged")
    for _ in range(100):
        sender.publish("bridged", b"")
        if receiver.wait_for(lambda client: client.messages, 0.3):
            break
    sender.close()
    receiver.close()
    assert receiver.messages, "the bridge does not come up"


def test_a_broker_that_is_not_there_is_told() -> None:
    report = probed(free_port())
    assert not report.fit
    assert of(report, "connection").what == "it cannot be used: Connection refused"
    assert "nc -vz 127.0.0.1" in of(report, "connection").cure


def test_a_host_that_takes_connections_and_says_nothing_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        report = probed(silent.getsockname()[1])
    assert "no answer to CONNECT" in of(report, "connection").what


# ---- what brokers say of themselves ----


MOSQUITTO = Told(version="mosquitto version 2.0.11", uptime="17 seconds")


def _judged(told: list[Told], later: list[Told] | None = None) -> list[tuple[str, Level]]:
    findings = judge(told, again=lambda: later or told)
    return [(finding.check, finding.level) for finding in findings]


def test_connections_that_see_different_uptimes_or_versions_are_several_brokers() -> None:
    other = Told(version="mosquitto version 2.0.11", uptime="20 seconds")
    newer = Told(version="mosquitto version 2.0.18", uptime="17 seconds")
    assert _judged([MOSQUITTO, other]) == [("process", Level.ERROR)]
    assert _judged([MOSQUITTO, newer]) == [("process", Level.ERROR)]


def test_an_uptime_that_was_renewed_between_two_questions_is_one_broker() -> None:
    later = Told(version="mosquitto version 2.0.11", uptime="27 seconds")
    assert _judged([MOSQUITTO, later], [later, later]) == [("product", Level.GOOD)]
    assert _judged([MOSQUITTO, Told(version=MOSQUITTO.version, uptime="19 seconds")]) == [
        ("product", Level.GOOD)
    ]


def test_products_that_cluster_are_named() -> None:
    emqx = Told(version="", nodes="emqx@10.0.0.1")
    assert _judged([emqx]) == [("product", Level.WARNING)]
    assert _judged([Told(nodes="emqx@10.0.0.1,emqx@10.0.0.2")]) == [
        ("product", Level.WARNING),
        ("process", Level.ERROR),
    ]
    assert _judged([Told(properties="[UserProperty : [('server', 'HiveMQ')]]")]) == [
        ("product", Level.WARNING)
    ]
    assert _judged([Told()]) == []


def test_what_a_broker_says_cannot_command_a_terminal() -> None:
    findings = judge([Told(version="mosquitto \x1b[2J")], again=list)
    assert "\x1b" not in findings[0].what


# ---- orders ----


def test_different_orders_are_found() -> None:
    order = [b"0:0", b"1:0", b"0:1", b"1:1"]
    assert first_difference(order, list(order)) is None
    assert "message 2" in str(first_difference(order, [b"0:0", b"0:1", b"1:0", b"1:1"]))
    assert "another 3" in str(first_difference(order, order[:3]))


def test_a_subscriber_that_comes_and_goes_sees_a_stretch() -> None:
    order = [b"0:0", b"1:0", b"0:1", b"1:1"]
    assert not_a_slice(order[1:3], order) is None
    assert not_a_slice([], order) is None
    assert not_a_slice([b"1:0", b"1:1"], order) is not None
    assert not_a_slice([b"2:0"], order) is not None


def test_a_publisher_s_messages_out_of_turn_are_found() -> None:
    assert out_of_turn([b"0:0", b"1:0", b"0:1"]) is None
    assert out_of_turn([b"0:0", b"0:2"]) is not None
    assert out_of_turn([b"0:0", b"0:0"]) is not None
