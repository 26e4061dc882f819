"""One connection against a server that cuts its bytes as no broker would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from piagent.adapters.mqtt import MqttBus, Presence
from piagent.core.model import Broker
from piagent.ports import BusEvent, Received, Subscribed

COUNT = 900
CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x01"
PUBLISH = b"\x30\x07\x00\x03t/a"  # QoS 0, followed by two bytes of payload


def in_one_piece(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    yield from (data[i : i + 1] for i in range(len(data)))


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(
    serve: Serve,
    take: Callable[[BusEvent], None],
    done: asyncio.Event,
    barrier: Callable[[str], tuple[str, bytes]] | None = None,
) -> None:
    """A bus on a server that speaks for itself, until `done`."""

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            bus = MqttBus(
                [Broker(label="b", host="127.0.0.1", port=server.sockets[0].getsockname()[1])],
                node="n",
                incarnation="0123456789abcdef",
                subscriptions=["t/+"],
                presence=Presence("s/n", lambda _there, _name: b""),
                barrier=barrier,
            )
            running = asyncio.create_task(bus.run(take))
            async with asyncio.timeout(30):
                await done.wait()
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(main())


@pytest.mark.parametrize("cut", [in_one_piece, byte_by_byte])
def test_messages_arrive_whole_and_in_order_however_they_are_cut(
    cut: Callable[[bytes], Iterator[bytes]],
) -> None:
    """And all of them: nothing more comes from the server that would wake the event loop again."""
    payloads = [b"%02x" % (number % 256) for number in range(COUNT)]
    heard: list[bytes] = []
    done = asyncio.Event()

    def take(event: BusEvent) -> None:
        if isinstance(event, Received):
            heard.append(event.payload)
            if len(heard) == COUNT:
                done.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(CONNACK)
        await reader.read(1000)
        for piece in cut(SUBACK + b"".join(PUBLISH + payload for payload in payloads)):
            writer.write(piece)
            await asyncio.sleep(0)
        await done.wait()
        writer.close()

    run(serve, take, done)
    assert heard == payloads


def test_what_is_published_while_a_connection_comes_up_is_not_lost() -> None:
    """A node that joins at the same moment says only once that it is there."""
    events: list[BusEvent] = []
    done = asyncio.Event()

    def take(event: BusEvent) -> None:
        events.append(event)
        if isinstance(event, Received):
            done.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(CONNACK)
        await reader.read(1000)
        writer.write(SUBACK + PUBLISH + b"hi")  # not retained, and before the barrier comes back
        await reader.read(1000)
        writer.write(b"\x30\x06\x00\x03t/bB")
        await done.wait()
        writer.close()

    run(serve, take, done, barrier=lambda _connection: ("t/b", b"B"))
    first, second = events[:2]
    assert isinstance(first, Subscribed)
    assert isinstance(second, Received)
    assert second.payload == b"hi"
