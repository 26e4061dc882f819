"""One MQTT connection, from its socket to its end; never used again afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from piagent.adapters.mqtt_tls import TlsStream
from piagent.ports import BusEvent, Received, Subscribed

KEEPALIVE_S = 5
QOS = 1
MAX_PAYLOAD = 64 * 1024
"""Bytes; for a longer message `OVERSIZED` is delivered, which is too long as well."""
MAX_UNACKNOWLEDGED = 1000
"""Messages; `publish` takes no more then. At most 20 of them are on the wire (paho's default)."""
MAX_RETAINED = 1000
"""Retained messages that count, of those that a new connection brings; anybody can invent them."""
MAX_RETAINED_SIZE = 4 * 1024 * 1024
"""Bytes of these messages, for the same reason."""
MAX_READS = 20
"""Calls of paho's read in one turn; the event loop is not one connection's alone."""
FAREWELL_TIMEOUT_S = 0.5
_READ_SIZE = 64 * 1024
OVERSIZED = bytes(MAX_PAYLOAD + 1)
"""Stands for every payload that is too long: one for all, so that they take no memory."""

_KEPT = 2 * MAX_PAYLOAD + 4
"""Bytes of a packet: the longest topic that can be, and a payload seen to be too long."""

_log = logging.getLogger(__name__)


class Identity(Struct, frozen=True):
    """Who connects, and what the broker is to say about it."""

    broker: str
    connection: str
    """The client id."""
    username: str | None
    password: str | None
    presence_topic: str
    online: bytes
    offline: bytes
    barrier: tuple[str, bytes] | None = None
    """Topic and payload of a message to itself, behind all that the broker retains."""


class Stream(socket.socket):
    """Reads ahead: paho asks for the four parts of a packet one by one, a system call each."""

    failure: None = None
    """Only an encrypted stream has something to say about its end."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(fileno=connected.detach())
        self._ahead = memoryview(b"")

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Up to `size` bytes, of which most are here already."""
        if not self._ahead:
            self._ahead = memoryview(super().recv(_READ_SIZE, flags))
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return bytes(part)

    def more(self) -> bool:
        """Whether something is here that was not asked for yet."""
        return bool(self._ahead) and self.fileno() >= 0


class _Client(Client):
    """paho's client on a socket that is connected already: its own way to connect blocks."""

    def __init__(self, connected: Stream | TlsStream, client_id: str) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self._connected = connected

    def _create_socket_connection(self) -> Stream | TlsStream:
        return self._connected

    def _sock_recv(self, bufsize: int) -> bytes:
        """Of a packet that is too long, MQTT allows 256 MiB, all but the beginning is dropped.

        The rest leaves a byte for each piece that is read: that is what paho sees of it.
        """
        data: bytes = super()._sock_recv(min(bufsize, _KEPT))
        if len(data) > 1 and len(self._in_packet["packet"]) >= _KEPT:
            self._in_packet["to_process"] -= len(data) - 1
            return data[:1]
        return data


class Connection:
    """A connection being made, up, or ended.

    paho's callbacks only take notes: its locks are held meanwhile. What follows from the notes is
    done when paho has returned. `publish` and `abort` never deliver anything.
    """

    def __init__(
        self,
        connected: Stream | TlsStream,
        identity: Identity,
        subscriptions: Sequence[str],
        deliver: Callable[[BusEvent], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.subscribed: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """Why it ended."""
        self._socket = connected
        self._identity = identity
        self._subscriptions = subscriptions
        self._deliver = deliver
        self._inbox: deque[Received] = deque()
        self._granted = False
        self._clear = identity.barrier is None
        """All that the broker retains has come."""
        self._early = 0
        self._early_size = 0
        self.progress = 0
        """Messages received."""
        self._failure: str | None = None
        self._last_acknowledged = 0
        self._leaving = False
        self._said_oversized = False
        self._watching_writes = False
        self._client = self._made_client()

    def _made_client(self) -> _Client:
        who = self._identity
        client = _Client(self._socket, who.connection)
        client.max_queued_messages_set(MAX_UNACKNOWLEDGED)
        if who.username is not None:
            client.username_pw_set(who.username, who.password)
        client.will_set(who.presence_topic, who.offline, qos=QOS, retain=True)
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def start(self) -> None:
        """Send CONNECT; the rest follows from what the broker answers."""
        self._take_turn(self._send_connect)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        """Whether it was sent, or will be as soon as the socket takes it."""
        return self._publish(topic, payload, retain=retain) is not None

    def keep_alive(self) -> None:
        """To be called each second or so: sends PINGREQ, misses PINGRESP."""
        self._take_turn(self._client.loop_misc)
        if self._granted and not self._clear:  # a broker drops what its queue does not hold
            self._send_barrier()

    def abort(self, reason: str) -> None:
        """End it now; neither paho's queue nor the kernel's send buffer outlives this."""
        if self.ended.done():
            return
        self._unwatch()
        with contextlib.suppress(OSError):
            # An RST instead of a FIN: stale messages must not follow later.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end(reason)

    async def farewell(self) -> None:
        """Leave in good order: retained presence off, all of it acknowledged, DISCONNECT."""
        self._leaving = True
        who = self._identity
        self._client.on_publish = self._on_publish
        number = self._publish(who.presence_topic, who.offline, retain=True)
        if number is not None:
            deadline = self._loop.time() + FAREWELL_TIMEOUT_S
            while self._last_acknowledged != number and self._loop.time() < deadline:
                if self.ended.done():
                    return
                await asyncio.sleep(0.005)
            self._take_turn(self._client.disconnect)
            self._unwatch()
            self._end("we left")

    def _unwatch(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._watching_writes = False

    def _end(self, reason: str) -> None:
        if self.ended.done():
            return
        client = self._client
        client.on_socket_open = client.on_socket_close = None
        client.on_connect = client.on_subscribe = None
        client.on_message = client.on_publish = client.on_disconnect = None
        self._socket.close()
        self._inbox.clear()
        self.ended.set_result(reason)

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> int | None:
        """The packet identifier; None when it was not sent."""
        if not self._granted or self.ended.done():
            return None
        info = self._client.publish(topic, payload, qos=QOS, retain=retain)
        self._flush()
        if self._failure is not None:
            self.abort(self._failure)
            return None
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def _flush(self) -> None:
        """Write what paho has queued now; only what the socket does not take waits for the loop."""
        if self._client.want_write():
            self._client.loop_write()
        waiting = self._client.want_write() and self._socket.fileno() >= 0
        if waiting and not self._watching_writes:
            self._loop.add_writer(self._socket, self._writable)
        elif self._watching_writes and not waiting:
            self._loop.remove_writer(self._socket)
        self._watching_writes = waiting

    def _send_connect(self) -> None:
        # The host is for paho's own connecting only, which does not happen.
        self._client.connect(self._identity.broker, keepalive=KEEPALIVE_S)

    def _take_turn(self, step: Callable[[], Any]) -> None:
        """Let paho do something, then act on the notes that its callbacks took."""
        if self.ended.done():
            return
        try:
            step()
            self._flush()
        except Exception as error:  # noqa: BLE001 - paho raises many things for a rogue broker's bytes
            self._failure = f"protocol error: {error!r}"
        if self._granted and self._clear and not self.subscribed.done():
            who = self._identity
            self._publish(who.presence_topic, who.online, retain=True)
            self.subscribed.set_result(None)
            self._deliver(Subscribed(broker=who.broker, connection=who.connection))
        if self.subscribed.done() and not self._leaving:
            # abort() may be called by what is delivered, and empties the inbox.
            while self._inbox:
                self._deliver(self._inbox.popleft())
        if self._failure is not None:
            self.abort(self._failure)

    def _readable(self) -> None:
        self._take_turn(self._read)
        if self._socket.more() and not self.ended.done():
            self._loop.call_soon(self._readable)

    def _read(self) -> None:
        for _ in range(MAX_READS):
            if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
            if not self._socket.more():
                break

    def _writable(self) -> None:
        self._take_turn(self._client.loop_write)

    def _on_socket_open(self, _client: Any, _userdata: Any, opened: Any) -> None:
        self._loop.add_reader(opened, self._readable)

    def _on_socket_close(self, _client: Any, _userdata: Any, _closing: Any) -> None:
        self._unwatch()

    def _on_connect(
        self, client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._failure = f"the broker refused: {reason}"
        else:
            client.subscribe([(topic, QOS) for topic in self._subscriptions])

    def _on_subscribe(
        self, _client: Any, _userdata: Any, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        granted = [reason.value for reason in reasons]
        if granted == [QOS] * len(self._subscriptions):
            self._granted = True
            self._send_barrier()
            return
        for topic, code in zip(self._subscriptions, granted, strict=False):
            if code != QOS:
                what = "refused" if code >= 0x80 else f"granted at QoS {code} only"
                self._failure = f"subscription to {topic} {what}: check the broker's access list"
                return
        self._failure = "the broker's SUBACK does not fit the subscriptions"

    def _send_barrier(self) -> None:
        if self._identity.barrier is not None:
            self._publish(*self._identity.barrier, retain=False)

    def _counts(self, topic: str, payload: bytes) -> bool:
        """Whether a message is to be delivered: from the barrier on, and a part of those before it.

        What is published meanwhile counts like what was retained: a node that joins at the same
        time says only once that it is there.
        """
        if self._identity.barrier == (topic, payload):
            self._clear = True
            return False
        if self._clear:
            return True
        self._early += 1
        self._early_size += len(payload)
        return self._early <= MAX_RETAINED and self._early_size <= MAX_RETAINED_SIZE

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        self.progress += 1
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of ours
        payload = bytes(message.payload)
        if not self._counts(topic, payload):
            return
        if len(payload) > MAX_PAYLOAD:
            if not self._said_oversized:
                self._said_oversized = True
                _log.warning(
                    "broker %s: a message of more than %d bytes on %r counts as unreadable",
                    self._identity.broker,
                    MAX_PAYLOAD,
                    topic,
                )
            payload = OVERSIZED
        who = self._identity
        self._inbox.append(
            Received(
                broker=who.broker,
                connection=who.connection,
                topic=topic,
                payload=payload,
                retain=bool(message.retain),
            )
        )

    def _on_publish(
        self, _client: Any, _userdata: Any, mid: int, _reason: Any, _properties: Any
    ) -> None:
        self._last_acknowledged = mid

    def _on_disconnect(
        self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if self._failure is None and not self._leaving:
            text = str(reason)
            lost = self._socket.failure or "connection lost"
            self._failure = lost if text == "Unspecified error" else text
