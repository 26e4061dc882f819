"""Real brokers as children."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from piagent.adapters import embedded_broker
from piagent.adapters.embedded_broker import BrokerError, EmbeddedBroker
from piagent.adapters.mqtt import MqttBus, Presence
from piagent.core.model import Broker, Listen
from piagent.ports import BusEvent, Disconnected, Received, Subscribed
from tests import mosquitto
from tests.net import free_port
from tests.waiting import until

needs_mosquitto = pytest.mark.skipif(mosquitto.WHY_NOT is not None, reason=str(mosquitto.WHY_NOT))


async def first_event(
    port: int, username: str | None = None, password: str | None = None, host: str = "127.0.0.1"
) -> BusEvent:
    """What the bus says first about a broker; when it is up, one message has come back too."""
    bus = MqttBus(
        [Broker(label="b1", host=host, port=port, username=username)],
        node="n1",
        incarnation="0123456789abcdef",
        subscriptions=["t"],
        presence=Presence("s/n1", lambda there, _: b"%d" % there),
        password=password,
    )
    events: asyncio.Queue[BusEvent] = asyncio.Queue()
    task = asyncio.create_task(bus.run(events.put_nowait))
    try:
        async with asyncio.timeout(10):
            first = await events.get()
            if isinstance(first, Subscribed):
                assert bus.publish("b1", "t", b"hello")
                assert isinstance(await events.get(), Received)
            return first
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def without_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    real = embedded_broker.shutil.which
    monkeypatch.setattr(
        embedded_broker.shutil,
        "which",
        lambda name, path=None: None if name == "mosquitto" else real(name, path=path),
    )


@needs_mosquitto
@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1")]
)
def test_it_answers_when_start_returns_and_is_gone_when_stop_returns(
    address: str, host: str
) -> None:
    async def work() -> None:
        port = free_port(address)
        async with EmbeddedBroker(Listen(address=address, port=port)):
            assert isinstance(await first_event(port, host=host), Subscribed)
        event = await first_event(port, host=host)
        assert event == Disconnected(broker="b1", reason="Connection refused")

    asyncio.run(work())


@needs_mosquitto
def test_with_users_nobody_else_may_connect() -> None:
    async def work() -> None:
        port = free_port()
        listen = Listen(address="127.0.0.1", port=port)
        async with EmbeddedBroker(listen, {"pi": "ra$p:berry\n"}):
            assert isinstance(await first_event(port, "pi", "ra$p:berry\n"), Subscribed)
            for who in (("pi", "wrong"), (None, None)):
                event = await first_event(port, *who)
                assert isinstance(event, Disconnected)
                assert "Not authorized" in event.reason

    asyncio.run(work())


@pytest.mark.parametrize("name", ["", "a:b", "pi\nlistener 1884", "pi\0"])
@needs_mosquitto
def test_a_name_cannot_smuggle_lines_into_its_files(name: str) -> None:
    async def work() -> None:
        with pytest.raises(BrokerError, match="user name"):
            await EmbeddedBroker(Listen(address="127.0.0.1", port=free_port()), {name: "x"}).start()

    asyncio.run(work())


def test_an_address_that_is_none_never_reaches_a_configuration() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        embedded_broker._config(Listen(address="0.0.0.0\nallow_anonymous true", port=1), None)


@needs_mosquitto
def test_a_killed_broker_comes_back_empty(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        port = free_port()
        broker = EmbeddedBroker(Listen(address="127.0.0.1", port=port))
        async with broker:
            first = broker._process
            assert first is not None
            first.kill()
            await until(lambda: broker._process is not first)
            assert broker._process is not None
            await broker._until_it_answers(broker._process)
            assert isinstance(await first_event(port), Subscribed)

    asyncio.run(work())
    assert "ended with code -9" in caplog.text


@needs_mosquitto
def test_it_dies_with_its_parent() -> None:
    port = free_port()
    script = (
        "import asyncio, os, signal\n"
        "from piagent.adapters.embedded_broker import EmbeddedBroker\n"
        "from piagent.core.model import Listen\n"
        "async def main():\n"
        f"    await EmbeddedBroker(Listen(address='127.0.0.1', port={port})).start()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    pytest.fail("the broker still answers")


@needs_mosquitto
@pytest.mark.skipif(os.geteuid() != 0, reason="only root could run it as root")
def test_it_does_not_run_as_root() -> None:
    async def work() -> None:
        broker = EmbeddedBroker(Listen(address="127.0.0.1", port=free_port()))
        async with broker:
            assert broker._process is not None
            assert os.stat(f"/proc/{broker._process.pid}").st_uid != 0

    asyncio.run(work())


def test_a_port_in_use_is_named_with_the_cure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port}: Address already in use; 'ss -ltnp'"):
            asyncio.run(EmbeddedBroker(Listen(address="127.0.0.1", port=port)).start())


def test_without_mosquitto_amqtt_serves_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("amqtt")
    without_mosquitto(monkeypatch)

    async def work() -> None:
        port = free_port()
        async with EmbeddedBroker(Listen(address="127.0.0.1", port=port)):
            assert isinstance(await first_event(port), Subscribed)

    asyncio.run(work())
    assert "not for production" in caplog.text


def test_amqtt_is_refused_when_it_would_have_to_check_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("amqtt")
    without_mosquitto(monkeypatch)
    with pytest.raises(BrokerError, match="apt install mosquitto"):
        asyncio.run(
            EmbeddedBroker(Listen(address="127.0.0.1", port=free_port()), {"a": "b"}).start()
        )


def test_without_any_broker_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_mosquitto(monkeypatch)
    monkeypatch.setattr(embedded_broker.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BrokerError, match="apt install mosquitto"):
        asyncio.run(EmbeddedBroker(Listen(address="127.0.0.1", port=free_port())).start())
