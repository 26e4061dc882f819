"""The example of a broker: a real Mosquitto with its files gives each node its own topics only."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from paho.mqtt import publish
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from piagent.adapters.mqtt import MqttBus, Presence
from piagent.adapters.mqtt_tls import Certificates
from piagent.agent.letters import Letters
from piagent.config import load
from piagent.config.host import Host
from piagent.core.model import Broker
from piagent.ports import BusEvent, Subscribed
from tests import certificates, mosquitto
from tests.certificates import Authority
from tests.mosquitto import Mosquitto
from tests.waiting import until, wait_until

WHY_NOT = mosquitto.WHY_NOT or certificates.WHY_NOT
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

FOLDER = Path("examples")
USERS = {"pi-1": "one", "pi-2": "two", "operator": "three"}
OWN = "piagent/home/l/vips/pi-1"
ALLOWED = (
    OWN, "piagent/other/l/lan/pi-1", "piagent/home/s/pi-1", "piagent/home/e/pi-1/c1",
    "piagent/home/v/192.168.1.240", "piagent/home/ctl/pi-2", "piagent/home/wants/pi-1",
    "piagent/home/endpoints/pi-1", "piagent/home/assigned/services",
    "piagent/home/desired/service/web", "piagent/home/health/web/192.168.1.21",
    "piagent/home/health/web/[fd00::1]:80",
)  # fmt: skip
DENIED = (
    "piagent/home/l/vips/pi-2", "piagent/home/l/vips/pi-1/x", "piagent/home/l/pi-1",
    "piagent/home/s/pi-2", "piagent/home/e/pi-2/c1", "piagent/home/x", "else/pi-1",
    "piagent/home/wants/pi-2", "piagent/home/endpoints/pi-2", "piagent/home/assigned/x",
    "piagent/home/desired/web", "piagent/home/health/web",
)  # fmt: skip


class Pki:
    """Files as the example names them, in a folder in place of /etc/mosquitto."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.authority = Authority(folder, "certs")
        self.authority.issue("broker", "IP:127.0.0.1")
        for file in self.authority.folder.iterdir():
            file.chmod(0o644)  # Mosquitto gives its privileges up
        (folder / "mosquitto.acl").write_bytes((FOLDER / "mosquitto.acl").read_bytes())
        (folder / "passwords").touch()
        for user, password in USERS.items():
            command = ["mosquitto_passwd", "-b", str(folder / "passwords"), user, password]
            subprocess.run(command, check=True)
        self.ca_file = str(self.authority.ca_file)
        text = (FOLDER / "mosquitto.conf").read_text().replace("/etc/mosquitto", str(folder))
        self.lines = [line for line in text.splitlines() if not line.startswith("listener ")]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("etc"))


@pytest.fixture
def broker(pki: Pki) -> Iterator[Mosquitto]:
    with Mosquitto(lines=pki.lines) as running:
        yield running


class Listener:
    """The operator, who hears everything."""

    def __init__(self, broker: Mosquitto, pki: Pki) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.subscribed = False
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.username_pw_set("operator", USERS["operator"])
        self.client.tls_set(pki.ca_file)
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_subscribe
        self.client.connect(broker.address, broker.port)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()

    def _on_message(self, _client: object, _data: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload))

    def _on_subscribe(self, *_: object) -> None:
        self.subscribed = True

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker: Mosquitto, pki: Pki) -> Iterator[Listener]:
    made = Listener(broker, pki)
    wait_until(lambda: made.subscribed, "the operator is subscribed")
    yield made
    made.close()


def say(broker: Mosquitto, pki: Pki, user: str, messages: list[tuple[str, bytes]]) -> None:
    """Publish in order over one connection."""
    publish.multiple(
        [(topic, payload, 1, False) for topic, payload in messages],
        hostname=broker.address,
        port=broker.port,
        auth={"username": user, "password": USERS[user]},
        tls={"ca_certs": pki.ca_file},
    )


def test_a_node_writes_to_its_own_topics_and_to_no_other(
    broker: Mosquitto, pki: Pki, listener: Listener
) -> None:
    said = [(topic, topic.encode()) for topic in (*DENIED, *ALLOWED)]
    say(broker, pki, "pi-1", [*said, (OWN, b"that is all")])
    wait_until(lambda: (OWN, b"that is all") in listener.heard, "the last message")
    assert [topic for topic, _ in listener.heard[:-1]] == list(ALLOWED)


def test_lease_messages_of_a_node_come_from_it_alone(
    broker: Mosquitto, pki: Pki, listener: Listener
) -> None:
    say(broker, pki, "pi-2", [(OWN, b"forged"), ("piagent/home/s/pi-2", b"that is all")])
    say(broker, pki, "pi-1", [(OWN, b"genuine")])
    wait_until(lambda: len(listener.heard) >= 2, "two messages")
    assert listener.heard == [("piagent/home/s/pi-2", b"that is all"), (OWN, b"genuine")]


def test_an_operator_clears_what_is_left_behind_and_commands_nobody(
    broker: Mosquitto, pki: Pki, listener: Listener
) -> None:
    gone = [
        "piagent/home/v/192.168.1.240",
        *(f"piagent/home/{what}/pi-9" for what in ("s", "wants", "endpoints")),
    ]
    refused = ["piagent/home/l/vips/pi-1", "piagent/home/desired/service", "piagent/home/assigned"]
    say(broker, pki, "operator", [(topic, b"") for topic in (*refused, *gone)])
    wait_until(lambda: len(listener.heard) >= len(gone), "what may be written")
    assert [topic for topic, _ in listener.heard] == gone


def test_nobody_gets_in_without_a_password(broker: Mosquitto, pki: Pki) -> None:
    with pytest.raises(Exception, match="(?i)not authori[sz]ed"):
        publish.single(
            OWN, b"x", 1, hostname=broker.address, port=broker.port, tls={"ca_certs": pki.ca_file}
        )


def test_the_topics_are_all_that_an_agent_needs(broker: Mosquitto, pki: Pki) -> None:
    """It comes up (the access list lets its echo through) and hears each kind of message."""
    letters = Letters(
        cluster="home", node="pi-1", incarnation="0" * 16, secrets=(b"x" * 16,), started=0
    )
    events: list[BusEvent] = []
    bus = MqttBus(
        [Broker(label="b1", host="127.0.0.1", port=broker.port, username="pi-1", tls=True)],
        node="pi-1",
        incarnation="0" * 16,
        subscriptions=letters.subscriptions,
        presence=Presence(letters.presence_topic, letters.presence),
        password=USERS["pi-1"],
        certificates=Certificates(pki.ca_file),
        barrier=lambda connection: letters.echo(connection, "subscribed"),
    )
    others = [
        *(f"piagent/home/{what}/pi-2" for what in ("l/vips", "s", "wants", "endpoints")),
        "piagent/home/ctl/pi-1", "piagent/home/assigned/services",
        "piagent/home/desired/service/web",
    ]  # fmt: skip

    async def main() -> None:
        task = asyncio.create_task(bus.run(events.append))
        await until(lambda: any(isinstance(event, Subscribed) for event in events))
        messages = [(topic, b"x") for topic in others]
        await asyncio.to_thread(say, broker, pki, "pi-2", messages)
        await until(lambda: set(others) <= {getattr(event, "topic", "") for event in events})
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_the_example_of_a_node_with_tls_fits_the_broker(pki: Pki, tmp_path: Path) -> None:
    text = (FOLDER / "pi-1-tls.toml").read_text()
    for name in re.findall(r'_file = "(.+?)"', text):
        (tmp_path / name).write_text("0" * 64)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "ca.pem").write_bytes(Path(pki.ca_file).read_bytes())
    (tmp_path / "pi-1.toml").write_text(text)
    loaded = load(tmp_path / "pi-1.toml", Host(name="x", interface="eth0", cpus=4))
    assert loaded.warnings == ()
    names = {broker.username for broker in loaded.config.mqtt.brokers}
    assert names == {loaded.config.node.name}
