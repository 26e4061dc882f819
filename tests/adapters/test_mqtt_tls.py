"""TLS to a real Mosquitto, with certificates that are right, wrong, missing and renewed."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from piagent.adapters import mqtt_tls
from piagent.adapters.mqtt import MqttBus, Presence
from piagent.adapters.mqtt_connection import MAX_PAYLOAD, OVERSIZED
from piagent.adapters.mqtt_tls import Certificates, make_context
from piagent.core.model import Broker
from piagent.ports import BusEvent, Disconnected, Received, Subscribed
from tests import certificates, mosquitto
from tests.certificates import Authority
from tests.mosquitto import Mosquitto
from tests.waiting import until

WHY_NOT = mosquitto.WHY_NOT or certificates.WHY_NOT
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
ANYBODY = ("allow_anonymous true",)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("pki"))
    made.issue("broker", "IP:127.0.0.1,DNS:localhost")
    made.issue("elsewhere", "IP:192.0.2.1")
    made.issue("pi-1")
    return made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("pki"), "stranger")
    made.issue("broker", "IP:127.0.0.1")
    made.issue("pi-1")
    return made


@contextmanager
def broker(authority: Authority, *lines: str, name: str = "broker") -> Iterator[Mosquitto]:
    folder = authority.folder
    for file in folder.iterdir():
        file.chmod(0o644)  # Mosquitto gives its privileges up
    tls = (f"certfile {folder}/{name}.pem", f"keyfile {folder}/{name}.key")
    with Mosquitto(lines=(*tls, *(lines or ANYBODY))) as running:
        yield running


def of_node(authority: Authority, name: str = "pi-1") -> Certificates:
    cert, key = (str(authority.folder / f"{name}.{kind}") for kind in ("pem", "key"))
    return Certificates(str(authority.ca_file), cert, key)


def trusting(authority: Authority) -> Certificates:
    return Certificates(str(authority.ca_file))


class Client:
    """A bus over TLS and what it delivered."""

    def __init__(self, bus: MqttBus) -> None:
        self.bus = bus
        self.events: list[BusEvent] = []

    def of(self, kind: type[BusEvent]) -> list[BusEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def payloads(self) -> list[bytes]:
        return [event.payload for event in self.events if isinstance(event, Received)]

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition, lambda: f"the last events were {self.events[-5:]}")

    async def until_subscribed(self, times: int = 1) -> None:
        await self.until(lambda: len(self.of(Subscribed)) >= times)

    async def why_not(self, times: int = 1) -> str:
        await self.until(lambda: len(self.of(Disconnected)) >= times)
        assert not self.of(Subscribed)
        event = self.of(Disconnected)[times - 1]
        assert isinstance(event, Disconnected)
        return event.reason


@asynccontextmanager
async def client(
    port: int,
    files: Certificates,
    *,
    host: str = "127.0.0.1",
    user: tuple[str, str] | None = None,
) -> AsyncIterator[Client]:
    bus = MqttBus(
        [Broker(label="b1", host=host, port=port, username=user[0] if user else None, tls=True)],
        node="n1",
        incarnation="0123456789abcdef",
        subscriptions=("t/+",),
        presence=Presence("s/n1", lambda there, name: f"{int(there)} {name}".encode()),
        password=user[1] if user else None,
        certificates=files,
    )
    made = Client(bus)
    task = asyncio.create_task(bus.run(made.events.append))
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_messages_go_over_tls_to_an_address_or_a_name(authority: Authority, host: str) -> None:
    async def work() -> None:
        with broker(authority) as running:
            async with client(running.port, trusting(authority), host=host) as c:
                await c.until_subscribed()
                assert c.bus.publish("b1", "t/a", b"hello")
                await c.until(lambda: c.payloads == [b"hello"])

    run(work)


def test_a_flood_and_the_largest_messages_arrive_whole_and_in_order(authority: Authority) -> None:
    async def work() -> None:
        with broker(authority) as running:
            async with client(running.port, trusting(authority)) as c:
                await c.until_subscribed()
                sent = [b"%d" % number * (1 + number % 300) for number in range(1500)]
                sent += [bytes([number]) * MAX_PAYLOAD for number in range(20)]
                for payload in sent:
                    await c.until(lambda p=payload: c.bus.publish("b1", "t/a", p))
                assert c.bus.publish("b1", "t/a", b"x" * (MAX_PAYLOAD + 1))
                await c.until(lambda: len(c.payloads) > len(sent))
                assert c.payloads == [*sent, OVERSIZED]
                assert not c.of(Disconnected)

    run(work)


def test_a_broker_that_restarts_is_reached_again(authority: Authority) -> None:
    async def work() -> None:
        with broker(authority) as running:
            async with client(running.port, trusting(authority)) as c:
                await c.until_subscribed()
                running.kill()
                running.start()
                await c.until_subscribed(2)

    run(work)


def test_the_wrong_authority_is_named_with_the_cure_and_tried_again(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        with broker(stranger) as running:
            async with client(running.port, trusting(authority)) as c:
                reason = await c.why_not()
                assert reason.startswith("certificate of b1 not accepted: ")
                assert "ca_file must hold who signed it" in reason
                assert await c.why_not(3) == reason

    with caplog.at_level(logging.INFO):
        run(work)
    assert [r.levelname for r in caplog.records].count("WARNING") == 1


def test_without_ca_file_only_the_hosts_authorities_are_trusted(authority: Authority) -> None:
    async def work() -> None:
        with broker(authority) as running:
            async with client(running.port, Certificates()) as c:
                assert "certificate of b1 not accepted" in await c.why_not()

    run(work)


def test_a_certificate_of_another_host_is_named_with_the_cure(authority: Authority) -> None:
    async def work() -> None:
        with broker(authority, name="elsewhere") as running:
            for host in ("127.0.0.1", "localhost"):
                async with client(running.port, trusting(authority), host=host) as c:
                    reason = await c.why_not()
                    assert "mismatch" in reason
                    assert host in reason
                    assert "the URL must have a name or address" in reason

    run(work)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_broker_may_want_a_certificate_of_the_node(
    authority: Authority,
    stranger: Authority,
    version: ssl.TLSVersion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def up_to_version(files: Certificates) -> ssl.SSLContext:
        context = make_context(files)
        context.maximum_version = version
        return context

    # A client hears that its certificate is missing within the handshake, or (1.3) after it.
    monkeypatch.setattr(mqtt_tls, "make_context", up_to_version)
    lines = (*ANYBODY, f"cafile {authority.ca_file}", "require_certificate true")

    async def work() -> None:
        with broker(authority, *lines) as running:
            async with client(running.port, of_node(authority)) as c:
                await c.until_subscribed()
            async with client(running.port, trusting(authority)) as c:
                reason = await c.why_not()
                assert "it wants a certificate of this node: write cert_file" in reason
            theirs = of_node(stranger)
            wrong = Certificates(str(authority.ca_file), theirs.cert_file, theirs.key_file)
            async with client(running.port, wrong) as c:
                reason = await c.why_not()
                assert "does not accept this node's certificate (unknown ca)" in reason

    run(work)


def test_a_wrong_password_over_tls_is_named_as_the_reason(
    authority: Authority, tmp_path: Path
) -> None:
    passwords = authority.folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "pi", "right"], check=True)

    async def work() -> None:
        with broker(authority, "allow_anonymous false", f"password_file {passwords}") as running:
            async with client(running.port, trusting(authority), user=("pi", "right")) as c:
                await c.until_subscribed()
            async with client(running.port, trusting(authority), user=("pi", "wrong")) as c:
                assert "Not authorized" in await c.why_not()

    run(work)


def test_a_broker_without_tls_is_named_with_the_cure(authority: Authority) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with client(port, trusting(authority)) as c:
                assert "it speaks no TLS there: write mqtt://" in await c.why_not()
        with Mosquitto() as plain:
            async with client(plain.port, trusting(authority)) as c:
                assert "TLS handshake" in await c.why_not()

    run(work)


def test_a_broker_that_accepts_and_never_answers_is_left_and_tried_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_tls, "HANDSHAKE_TIMEOUT_S", 0.3)

    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            async with client(mute.getsockname()[1], trusting(authority)) as c:
                assert await c.why_not(2) == "no answer to the TLS handshake within 0.3 s"

    run(work)


def test_files_that_are_gone_are_a_reason_and_read_again_when_they_are_back(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    async def work() -> None:
        ca_file = tmp_path / "ca.pem"
        with broker(authority) as running:
            async with client(running.port, Certificates(str(ca_file))) as c:
                assert "No such file or directory: " + str(ca_file) in await c.why_not()
                ca_file.write_text("nonsense")
                await c.until(lambda: any("no certificate" in str(e) for e in c.events))
                ca_file.write_bytes(stranger.ca_file.read_bytes())
                await c.until(lambda: any("not accepted" in str(e) for e in c.events))
                ca_file.write_bytes(authority.ca_file.read_bytes())
                await c.until_subscribed()

    run(work)


def test_an_end_in_the_middle_of_the_handshake_leaves_no_socket_behind(
    authority: Authority,
) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async def work() -> None:
        async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with client(port, trusting(authority)) as c:
                assert "within the TLS handshake" in await c.why_not(2)
        with socket.create_server(("127.0.0.1", 0)) as mute:
            mute.setblocking(False)
            async with client(mute.getsockname()[1], trusting(authority)):
                theirs, _ = await asyncio.get_running_loop().sock_accept(mute)
            theirs.close()  # the client was cancelled meanwhile

    run(work)  # pytest makes an error of a ResourceWarning


def test_many_messages_in_one_record_all_arrive_though_nothing_follows(
    authority: Authority,
) -> None:
    payloads = [b"%02x" % (number % 256) for number in range(900)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "broker.pem", authority.folder / "broker.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        subscribe = await reader.read(1000)
        granted = b"\x90\x03" + subscribe[2:4] + b"\x01"
        writer.write(granted + b"".join(b"\x30\x07\x00\x03t/a" + one for one in payloads))
        await reader.read()
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            async with client(port, trusting(authority)) as c:
                await c.until(lambda: c.payloads == payloads)

    run(work)
