"""The bus against a real Mosquitto (and against servers that misbehave)."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from piagent.adapters import mqtt_connection
from piagent.adapters.mqtt import MqttBus, Presence
from piagent.adapters.mqtt_connection import MAX_PAYLOAD, MAX_RETAINED, OVERSIZED
from piagent.core.model import Broker
from piagent.ports import BusEvent, Disconnected, Received, Subscribed
from tests import mosquitto
from tests.mosquitto import Mosquitto
from tests.net import free_port

needs_mosquitto = pytest.mark.skipif(mosquitto.WHY_NOT is not None, reason=str(mosquitto.WHY_NOT))


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    with Mosquitto() as running:
        yield running


class Client:
    """A bus and what it delivered."""

    def __init__(self, bus: MqttBus) -> None:
        self.bus = bus
        self.events: list[BusEvent] = []
        self.after: Callable[[BusEvent], None] = lambda _: None

    def take(self, event: BusEvent) -> None:
        self.events.append(event)
        self.after(event)

    def of(self, kind: type[BusEvent]) -> list[BusEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def payloads(self) -> list[bytes]:
        return [event.payload for event in self.events if isinstance(event, Received)]

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        for _ in range(1500):
            if condition():
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"{what or 'it'} did not come: {self.events[-5:]}")

    async def until_subscribed(self, times: int = 1) -> Subscribed:
        await self.until(lambda: len(self.of(Subscribed)) >= times, "Subscribed")
        event = self.of(Subscribed)[times - 1]
        assert isinstance(event, Subscribed)
        return event

    async def until_disconnected(self, times: int = 1) -> str:
        await self.until(lambda: len(self.of(Disconnected)) >= times, "Disconnected")
        event = self.of(Disconnected)[times - 1]
        assert isinstance(event, Disconnected)
        return event.reason


@asynccontextmanager
async def client(
    port: int,
    *,
    node: str = "n1",
    host: str = "127.0.0.1",
    topics: Sequence[str] = ("t/+",),
    username: str | None = None,
    password: str | None = None,
    barrier: Callable[[str], tuple[str, bytes]] | None = None,
) -> AsyncIterator[Client]:
    bus = MqttBus(
        [Broker(label="b1", host=host, port=port, username=username)],
        node=node,
        incarnation="0123456789abcdef",
        subscriptions=topics,
        presence=Presence(f"s/{node}", lambda there, name: f"{int(there)} {name}".encode()),
        password=password,
        barrier=barrier,
    )
    made = Client(bus)
    task = asyncio.create_task(bus.run(made.take))
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


@needs_mosquitto
def test_what_is_published_comes_back_after_subscribed(broker: Mosquitto) -> None:
    async def work() -> None:
        async with client(broker.port) as c:
            assert not c.bus.publish("b1", "t/a", b"too early")
            up = await c.until_subscribed()
            assert c.events[0] is up
            assert up.connection.startswith("pa-n1-01234567-")
            assert c.bus.publish("b1", "t/a", b"hello")
            await c.until(lambda: c.payloads)
            got = c.events[-1]
            assert isinstance(got, Received)
            assert (got.topic, got.payload, got.retain) == ("t/a", b"hello", False)
            assert got.connection == up.connection

    run(work)


@needs_mosquitto
def test_nothing_published_before_a_break_is_sent_after_it(broker: Mosquitto) -> None:
    async def work() -> None:
        async with client(broker.port, node="n2") as witness, client(broker.port) as c:
            await witness.until_subscribed()
            first = await c.until_subscribed()
            broker.send_signal(signal.SIGSTOP)
            for number in range(50):  # more than paho has in flight
                c.bus.publish("b1", "t/a", b"old %d" % number)
            broker.kill()
            assert await c.until_disconnected() == "connection lost"
            assert not c.bus.publish("b1", "t/a", b"offline")
            broker.start()
            second = await c.until_subscribed(2)
            await witness.until_subscribed(2)
            assert second.connection != first.connection
            assert c.bus.publish("b1", "t/a", b"new")
            await witness.until(lambda: b"new" in witness.payloads)
            assert witness.payloads == [b"new"]

    run(work)


@needs_mosquitto
def test_a_broker_that_is_silent_on_an_idle_connection_is_given_up(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_connection, "KEEPALIVE_S", 1)

    async def work() -> None:
        async with client(broker.port) as c:
            await c.until_subscribed()
            broker.send_signal(signal.SIGSTOP)
            assert "keep alive" in (await c.until_disconnected()).lower()

    run(work)


@needs_mosquitto
def test_a_closed_connection_delivers_nothing_more_and_a_fresh_one_follows(
    broker: Mosquitto,
) -> None:
    async def work() -> None:
        async with client(broker.port) as c:
            first = await c.until_subscribed()
            assert c.bus.publish("b1", "t/a", b"its echo is not awaited")
            c.bus.close("b1", "its echo came too late")
            assert not c.bus.publish("b1", "t/a", b"lost")
            assert await c.until_disconnected() == "its echo came too late"
            second = await c.until_subscribed(2)
            assert second.connection != first.connection
            assert c.bus.publish("b1", "t/a", b"fresh")
            await c.until(lambda: c.payloads)
            assert c.payloads == [b"fresh"]

    run(work)


@needs_mosquitto
def test_the_socket_neither_waits_to_send_nor_for_a_dead_peer(broker: Mosquitto) -> None:
    async def work() -> None:
        async with client(broker.port) as c:
            await c.until_subscribed()
            up = c.bus._links["b1"].connection
            assert up is not None
            assert up._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert up._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2000
            assert up._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1

    run(work)


@needs_mosquitto
def test_presence_is_retained_and_the_will_says_gone(broker: Mosquitto) -> None:
    async def work() -> None:
        async with client(broker.port, node="n2", topics=["s/n1"]) as witness:
            await witness.until_subscribed()
            async with client(broker.port) as c:
                name = (await c.until_subscribed()).connection
                await witness.until(lambda: witness.payloads == [f"1 {name}".encode()])
                c.bus.close("b1", "not in good order")
                await witness.until(lambda: f"0 {name}".encode() in witness.payloads)
                again = (await c.until_subscribed(2)).connection
                await witness.until(lambda: witness.payloads[-1] == f"1 {again}".encode())
            await witness.until(lambda: witness.payloads[-1] == f"0 {again}".encode())
        async with client(broker.port, node="n3", topics=["s/n1"]) as later:
            await later.until(lambda: later.payloads == [f"0 {again}".encode()])
            assert [e.retain for e in later.events if isinstance(e, Received)] == [True]

    run(work)


@needs_mosquitto
def test_what_was_published_just_before_the_end_still_arrives(broker: Mosquitto) -> None:
    async def work() -> None:
        async with client(broker.port, node="n2") as witness:
            await witness.until_subscribed()
            async with client(broker.port, topics=["u"]) as c:
                await c.until_subscribed()
                for number in range(100):
                    assert c.bus.publish("b1", "t/a", b"%d" % number)
            await witness.until(lambda: len(witness.payloads) == 100)

    run(work)


@needs_mosquitto
def test_a_flood_arrives_whole_and_in_order_beside_a_live_event_loop(broker: Mosquitto) -> None:
    async def work() -> None:
        async with client(broker.port) as c:
            await c.until_subscribed()
            sent = [b"%d" % number for number in range(3000)]
            turns = 0
            for payload in sent:
                while not c.bus.publish("b1", "t/a", payload):
                    turns += 1
                    await asyncio.sleep(0)
            await c.until(lambda: len(c.payloads) >= len(sent))
            assert c.payloads == sent
            assert turns > 0  # the queue is bounded

    run(work)


@needs_mosquitto
def test_a_message_beyond_the_limit_arrives_as_one_too_long(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with client(broker.port) as c:
            await c.until_subscribed()
            c.bus.publish("b1", "t/a", b"x" * MAX_PAYLOAD)
            c.bus.publish("b1", "t/a", b"x" * (MAX_PAYLOAD + 1))
            await c.until(lambda: len(c.payloads) == 2)
            assert [len(payload) for payload in c.payloads] == [MAX_PAYLOAD, MAX_PAYLOAD + 1]

    run(work)
    assert "counts as unreadable" in caplog.text


@needs_mosquitto
def test_a_message_far_beyond_the_limit_takes_no_memory(broker: Mosquitto) -> None:
    async def work() -> None:
        async with client(broker.port) as c:
            await c.until_subscribed()
            publisher = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PUBLISH_64_MIB, str(broker.port)
            )
            tracemalloc.start()
            try:
                await c.until(lambda: c.payloads, "the message")
                assert tracemalloc.get_traced_memory()[1] < 4 << 20
            finally:
                tracemalloc.stop()
                await publisher.wait()
            c.bus.publish("b1", "t/a", b"and on it goes")
            await c.until(lambda: len(c.payloads) == 2)
            assert c.payloads == [OVERSIZED, b"and on it goes"]
            assert c.of(Disconnected) == []

    run(work)


PUBLISH_64_MIB = """\
import sys
import paho.mqtt.publish
payload = b"x" * (64 << 20)
paho.mqtt.publish.single("t/b", payload, qos=1, hostname="127.0.0.1", port=int(sys.argv[1]))
"""


@needs_mosquitto
def test_what_a_broker_retains_comes_first_and_only_some_of_it_counts(broker: Mosquitto) -> None:
    def barrier(connection: str) -> tuple[str, bytes]:
        return f"e/{connection}", b"that is all"

    async def work() -> None:
        async with client(broker.port) as first:
            await first.until_subscribed()
            for number in range(3 * MAX_RETAINED):
                first.bus.publish("b1", f"t/{number}", b"kept", retain=True)
                if number % 100 == 0:
                    await first.until(lambda n=number: len(first.payloads) > n)
            await first.until(lambda: len(first.payloads) == 3 * MAX_RETAINED)
            async with client(broker.port, topics=("t/+", "e/+"), barrier=barrier) as late:
                await late.until_subscribed()
                first.bus.publish("b1", "t/0", b"new", retain=False)
                await late.until(lambda: late.payloads[-1:] == [b"new"], "what is new")
                assert late.payloads == [b"kept"] * MAX_RETAINED + [b"new"]
                assert isinstance(late.events[0], Subscribed)

    run(work)


def test_a_refused_subscription_is_a_disconnection_that_names_the_topic() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        subscribe = await reader.read(1000)
        # 0x80 is Failure (MQTT 3.1.1 section 3.9.3); Mosquitto would rather grant and filter.
        writer.write(b"\x90\x04" + subscribe[2:4] + b"\x01\x80")
        await reader.read(1000)
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, client(port, topics=["t/+", "forbidden/#"]) as c:
            reason = await c.until_disconnected()
            assert reason.startswith("subscription to forbidden/# refused")
            assert not c.of(Subscribed)

    run(work)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff\xff\xff\xff\xff\xff",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x02\x00\x05",
        b"\x20\x00",
        b"\x30\x04\x00\xff\xff\xff" * 50,
        b"\x20\x02\x00\x00\x32\x05\x00\x01\xff\x00\x01",
        b"",
    ],
)
def test_a_server_that_does_not_speak_mqtt_costs_only_its_own_connection(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, client(server.sockets[0].getsockname()[1]) as c:
            assert await c.until_disconnected(2)
            assert not c.of(Subscribed)

    run(work)


@pytest.mark.parametrize("packet", [b"\x30\x01\x00", b"\x90\x01\x00", b"\x40\x01\x00"])
def test_a_packet_that_cannot_be_is_named_as_a_protocol_error(packet: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00" + packet)
        await reader.read()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, client(server.sockets[0].getsockname()[1]) as c:
            assert await c.until_disconnected() == "Protocol error"

    run(work)


def accepting(then: Callable[[socket.socket], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A server's handler: CONNACK, SUBACK (after which `then` goes on with the bare socket)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        subscribe = await reader.read(1000)
        early = b"".join(b"\x30\x06\x00\x03t/a%d" % number for number in range(3))
        writer.write(early + b"\x90\x03" + subscribe[2:4] + b"\x01")
        await writer.drain()
        writer.transport.pause_reading()
        await then(writer.get_extra_info("socket"))
        writer.transport.abort()

    return serve


def test_a_close_within_a_delivery_ends_the_deliveries() -> None:
    async def nothing(_: socket.socket) -> None:
        await asyncio.sleep(1)

    async def work() -> None:
        server = await asyncio.start_server(accepting(nothing), "127.0.0.1", 0)
        async with server, client(server.sockets[0].getsockname()[1]) as c:

            def close_at_the_first(event: BusEvent) -> None:
                if isinstance(event, Received):
                    c.bus.close("b1", "enough")

            c.after = close_at_the_first
            assert await c.until_disconnected() == "enough"
            assert [type(event) for event in c.events[:3]] == [Subscribed, Received, Disconnected]

    run(work)


def test_a_closed_connection_takes_what_the_kernel_had_still_to_send_with_it() -> None:
    outcome: list[object] = []
    closed = asyncio.Event()

    async def read_late(ours: socket.socket) -> None:
        await closed.wait()
        try:
            with ours.dup() as raw:
                raw.setblocking(True)
                raw.settimeout(5)
                while raw.recv(1_000_000):
                    pass
            outcome.append("an orderly end")
        except OSError as error:
            outcome.append(type(error))

    async def work() -> None:
        server = await asyncio.start_server(accepting(read_late), "127.0.0.1", 0)
        async with server, client(server.sockets[0].getsockname()[1]) as c:
            await c.until_subscribed()
            for _ in range(20):
                c.bus.publish("b1", "t/a", b"x" * 1_000_000)
            c.bus.close("b1", "stale")
            closed.set()
            await c.until(lambda: outcome)

    run(work)
    assert outcome[0] is ConnectionResetError


def test_a_server_that_never_answers_is_left_after_the_handshake_limit() -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            async with client(mute.getsockname()[1]) as c:
                assert "no answer to CONNECT" in await c.until_disconnected()

    run(work)


def test_an_unreachable_broker_is_tried_again_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with client(free_port()) as c:
            assert await c.until_disconnected(3) == "Connection refused"

    with caplog.at_level(logging.INFO):
        run(work)
    assert [r.levelname for r in caplog.records].count("WARNING") == 1


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a" * 70 + ".lan", "a\0b", ""])
def test_a_name_that_does_not_resolve_is_a_reason_not_an_end(host: str) -> None:
    async def work() -> None:
        async with client(free_port(), host=host) as c:
            assert await c.until_disconnected(2)

    run(work)


@needs_mosquitto
@pytest.mark.parametrize(("address", "host"), [("::1", "::1"), ("127.0.0.1", "localhost")])
def test_ipv6_brokers_and_host_names_work(address: str, host: str) -> None:
    with Mosquitto(address) as broker:

        async def work() -> None:
            async with client(broker.port, host=host) as c:
                await c.until_subscribed()

        run(work)


@needs_mosquitto
def test_a_wrong_password_is_named_as_the_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    passwords = tmp_path_factory.mktemp("pw") / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "pi", "right"], check=True)
    with Mosquitto(lines=["allow_anonymous false", f"password_file {passwords}"]) as broker:

        async def work() -> None:
            async with client(broker.port, username="pi", password="right") as c:
                await c.until_subscribed()
            async with client(broker.port, username="pi", password="wrong") as c:
                assert "Not authorized" in await c.until_disconnected()

        run(work)


@needs_mosquitto
def test_a_handler_that_raises_does_not_end_the_bus(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with client(broker.port) as c:
            await c.until_subscribed()

            def raise_once(event: BusEvent) -> None:
                if isinstance(event, Received) and event.payload == b"1":
                    raise RuntimeError("a bug above")

            c.after = raise_once
            c.bus.publish("b1", "t/a", b"1")
            c.bus.publish("b1", "t/a", b"2")
            await c.until(lambda: c.payloads == [b"1", b"2"])

    run(work)
    assert "was not handled" in caplog.text
