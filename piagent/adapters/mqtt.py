"""Connections to the brokers: paho-mqtt driven by the event loop, no threads.

Every connection has a client object of its own. paho resends old QoS 1 messages when a client
object connects again, and keeps what is published while it is offline; a claim of a minute ago must
never reach a broker, so a connection's end is the end of all that it was to send.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from piagent.adapters.clock import until_beat_s
from piagent.adapters.mqtt_connection import Connection, Identity, Stream
from piagent.adapters.mqtt_tls import Certificates, Tls, TlsStream
from piagent.core.model import Broker
from piagent.ports import BusEvent, Disconnected

CONNECT_TIMEOUT_S = 1.0
RESOLVE_TIMEOUT_S = 5.0
HANDSHAKE_TIMEOUT_S = 2.0
"""From the TCP connection to the last SUBACK, and then from one retained message to the next."""
BACKOFF_FIRST_S = (0.1, 0.3)
"""The first pause is drawn from this range; later ones double, up to `BACKOFF_MAX_S`."""
BACKOFF_MAX_S = 2.0
HOUSEKEEPING_S = 2.0
USER_TIMEOUT_MS = 2000
"""TCP gives a connection up when sent data is not acknowledged for so long."""

_jitter = random.SystemRandom()
_log = logging.getLogger(__name__)


class Presence(Struct, frozen=True):
    """The retained message that says whether this node is there; also its last will."""

    topic: str
    payload: Callable[[bool, str], bytes]
    """(there, connection) -> payload."""


class MqttBus:
    """`ports.Bus`: clean sessions, MQTT 3.1.1, everything at QoS 1.

    `deliver` is never called from within `publish` or `close`, and what a closed connection still
    had to say is not delivered.
    """

    def __init__(
        self,
        brokers: Sequence[Broker],
        *,
        node: str,
        incarnation: str,
        subscriptions: Sequence[str],
        presence: Presence,
        password: str | None = None,
        certificates: Certificates | None = None,
        barrier: Callable[[str], tuple[str, bytes]] | None = None,
    ) -> None:
        """`barrier`: connection -> a message to itself, topic and payload.

        A connection counts as subscribed when it has come back: all that the broker retains, which
        may be much and takes its time, has come before it.
        """
        self._barrier = barrier
        self._node = node
        self._incarnation = incarnation
        self._subscriptions = tuple(subscriptions)
        self._presence = presence
        self._password = password
        self._tls = Tls(certificates or Certificates())
        self._links = {broker.label: _Link(broker) for broker in brokers}

    async def run(self, deliver: Callable[[BusEvent], None]) -> None:
        """Connect, and connect again, until cancelled; then say farewell to each broker."""

        def safely(event: BusEvent) -> None:
            try:
                deliver(event)
            except Exception:  # noqa: BLE001 - one bad event is not the end of all
                _log.exception("an event from broker %s was not handled", event.broker)

        async with asyncio.TaskGroup() as tasks:
            for link in self._links.values():
                tasks.create_task(self._keep_connected(link, safely), name=f"mqtt {link.label}")
            tasks.create_task(self._housekeeping(), name="mqtt housekeeping")

    def publish(self, broker: str, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send at QoS 1 now, or not at all: False when that connection is not up."""
        connection = self._links[broker].connection
        return connection is not None and connection.publish(topic, payload, retain=retain)

    def close(self, broker: str, reason: str) -> None:
        """Drop the connection with all that it had still to send; a fresh one follows."""
        connection = self._links[broker].connection
        if connection is not None:
            connection.abort(reason)

    async def _keep_connected(self, link: _Link, deliver: Callable[[BusEvent], None]) -> None:
        pause_s = 0.0
        while True:
            try:
                was_up, reason = await self._one_connection(link, deliver)
            except OSError as error:
                was_up, reason = False, _in_words(error)
            except ValueError as error:  # what a resolver raises for a name that cannot be one
                was_up, reason = False, f"not a host name: {error}"
            link.log_lost(reason)
            deliver(Disconnected(broker=link.label, reason=reason))
            if was_up or pause_s == 0.0:
                pause_s = _jitter.uniform(*BACKOFF_FIRST_S)
            else:
                pause_s = min(pause_s * 2, BACKOFF_MAX_S)
            await asyncio.sleep(pause_s * _jitter.uniform(0.75, 1.0))

    async def _one_connection(
        self, link: _Link, deliver: Callable[[BusEvent], None]
    ) -> tuple[bool, str]:
        """(whether it came up, why it ended); OSError when there was no connection at all."""
        broker = link.broker
        connected = await self._connected_to(broker)
        name = f"pa-{self._node}-{self._incarnation[:8]}-{secrets.token_hex(4)}"
        presence = self._presence
        connection = Connection(
            connected,
            Identity(
                broker=link.label,
                connection=name,
                username=broker.username,
                password=self._password,
                presence_topic=presence.topic,
                online=presence.payload(True, name),
                offline=presence.payload(False, name),
                barrier=None if self._barrier is None else self._barrier(name),
            ),
            self._subscriptions,
            deliver,
        )
        link.connection = connection
        try:
            connection.start()
            await _until_up(connection)
            if connection.subscribed.done():
                link.log_connected()
            # Not `await ended`: our own cancellation would cancel it.
            await asyncio.wait((connection.ended,))
            return connection.subscribed.done(), connection.ended.result()
        except TimeoutError:
            return False, f"no answer to CONNECT or SUBSCRIBE within {HANDSHAKE_TIMEOUT_S:g} s"
        except asyncio.CancelledError:
            await connection.farewell()
            raise
        finally:
            connection.abort("given up")
            link.connection = None

    async def _connected_to(self, broker: Broker) -> Stream | TlsStream:
        bare = await _connect(broker.host, broker.port)
        if broker.tls:
            return await self._tls.secure(bare, broker.host, broker.label)
        return Stream(bare)

    async def _housekeeping(self) -> None:
        """Keep-alives of all connections."""
        while True:
            await asyncio.sleep(until_beat_s(HOUSEKEEPING_S))
            for link in self._links.values():
                if link.connection is not None:
                    link.connection.keep_alive()


class _Link:
    """One broker: its connection, if any, and what the log already said about it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.label = broker.label
        self.connection: Connection | None = None
        self._where = f"{broker.label} ({broker.host} port {broker.port})"
        self._lost_at_s: float | None = None

    def log_lost(self, reason: str) -> None:
        """Once an outage."""
        if self._lost_at_s is None:
            self._lost_at_s = time.monotonic()
            _log.warning("broker %s: not connected, trying again: %s", self._where, reason)
        else:
            _log.debug("broker %s: still not connected: %s", self._where, reason)

    def log_connected(self) -> None:
        """With the length of the outage that ended."""
        after = ""
        if self._lost_at_s is not None:
            after = f" after {time.monotonic() - self._lost_at_s:.1f} s"
            self._lost_at_s = None
        _log.info("broker %s: connected and subscribed%s", self._where, after)


async def _until_up(connection: Connection) -> None:
    """Until it is subscribed or has ended; TimeoutError when nothing comes any more."""
    either = (connection.subscribed, connection.ended)
    done: set[asyncio.Future[Any]] = set()
    while not done:
        before = connection.progress
        done, _ = await asyncio.wait(
            either, timeout=HANDSHAKE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not done and connection.progress == before:
            raise TimeoutError


async def _connect(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket to the first address of the host that answers."""
    loop = asyncio.get_running_loop()
    try:  # an address needs no resolver, and no thread for one
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"no address for {host}")
    for family, kind, protocol, _, address in found:
        candidate = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(candidate, address)
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as error:  # TimeoutError is one
            candidate.close()
            failure = error
        except BaseException:
            candidate.close()
            raise
        else:
            return candidate
    raise failure


def _in_words(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve: {error.strerror}"
    if isinstance(error, TimeoutError):
        return "no answer"
    return os.strerror(error.errno) if error.errno else str(error)
