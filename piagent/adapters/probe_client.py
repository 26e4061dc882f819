"""An MQTT client for probing a broker: a thread of paho's, and calls that wait.

One connection each, never used again. The agent's own connections are in `mqtt`; here memory and
threads do not matter, and waiting is what a probe does.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from piagent.adapters import mqtt_tls

ANSWER_S = 2.0
"""A broker answers CONNECT, SUBSCRIBE and PUBLISH within it."""
QOS = 1
_KEEPALIVE_S = 60


class ProbeError(Exception):
    """The broker cannot be used at all; the text says why."""


class Place(Struct, frozen=True):
    """Where a broker is, and who connects."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    context: ssl.SSLContext | None = None


class Message(Struct, frozen=True):
    """One received message; `at` is CLOCK_MONOTONIC in seconds."""

    topic: str
    payload: bytes
    at: float
    retain: bool


class ProbeClient:
    """One connection; `messages` is what came on it, in order."""

    def __init__(self, place: Place, *, will: str | None = None, mqtt5: bool = False) -> None:
        """Connect; ProbeError when that fails. `will`: a topic, published when we vanish."""
        self.messages: list[Message] = []
        self.properties = ""
        """What an MQTT 5 broker says about itself in its CONNACK."""
        self._news = threading.Condition()
        self._refused: str | None = None
        self._connected = False
        self._granted: dict[int, bool] = {}
        self._unacknowledged: set[int] = set()
        self._acknowledged_early: set[int] = set()
        self._ended = False
        self._client = self._made(place, will, mqtt5=mqtt5)
        self._open(place)

    # ---- what a probe does ----

    def subscribe(self, topic: str, *, qos: int = QOS) -> bool:
        """Whether the broker granted it."""
        code, number = self._client.subscribe(topic, qos)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or number is None:
            raise ProbeError("the connection was lost")
        if not self._wait(lambda: number in self._granted, ANSWER_S):
            raise ProbeError(f"no answer to SUBSCRIBE within {ANSWER_S:g} s")
        return self._granted[number]

    def listen(self, topic: str, *, qos: int = QOS) -> None:
        """Subscribe; ProbeError when it is refused."""
        if not self.subscribe(topic, qos=qos):
            raise ProbeError(f"it refuses a subscription to {topic}: see its access list")

    def expect(self, count: int) -> None:
        """Wait until so many messages have come; ProbeError when they do not."""
        if not self._wait(lambda: len(self.messages) >= count, ANSWER_S):
            raise ProbeError(f"a message did not come back within {ANSWER_S:g} s")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send at QoS 1; `flush` waits for the acknowledgement."""
        number = self._client.publish(topic, payload, QOS, retain).mid
        with self._news:
            if number in self._acknowledged_early:
                self._acknowledged_early.discard(number)
            else:
                self._unacknowledged.add(number)

    def flush(self, timeout_s: float = ANSWER_S) -> bool:
        """Whether everything that was published is acknowledged in time."""
        return self._wait(lambda: not self._unacknowledged, timeout_s)

    def wait_for(self, condition: Callable[[ProbeClient], object], timeout_s: float) -> bool:
        """Whether the condition, about this client's messages, comes true in time."""
        return self._wait(lambda: condition(self), timeout_s)

    def payloads(self, topic: str) -> list[bytes]:
        """What came on a topic."""
        return [message.payload for message in list(self.messages) if message.topic == topic]

    def pause(self) -> None:
        """Read nothing any more: a subscriber that does not keep up."""
        self._client.loop_stop()

    def resume(self) -> None:
        """Read again."""
        self._client.loop_start()

    def delay_acknowledgement(self) -> None:
        """Do not acknowledge by TCP at once what comes next, but after 40 ms."""
        found: Any = self._client.socket()
        if found is not None:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def cut(self) -> None:
        """Vanish as a killed process does: the socket ends without a DISCONNECT."""
        found: Any = self._client.socket()
        if found is not None:
            found.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave in good order."""
        self._client.disconnect()
        self._client.loop_stop()

    # ---- paho's side ----

    def _made(self, place: Place, will: str | None, *, mqtt5: bool) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"pa-doctor-{secrets.token_hex(6)}",
            clean_session=None if mqtt5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = ANSWER_S
        if place.username is not None:
            client.username_pw_set(place.username, place.password)
        if place.context is not None:
            client.tls_set_context(place.context)
        if will is not None:
            client.will_set(will, b"gone", QOS)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def _open(self, place: Place) -> None:
        try:
            self._client.connect(place.host, place.port, _KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise ProbeError(_in_words(error)) from None
        self._client.loop_start()
        answered = self._wait(lambda: self._connected or self._refused or self._ended, ANSWER_S)
        if not self._connected:
            self._client.loop_stop()
            silent = (
                "no answer to CONNECT" if not answered else "it ended the connection at CONNECT"
            )
            raise ProbeError(self._refused or silent)

    def _wait(self, condition: Callable[[], object], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        with self._news:
            while not condition():
                left = end - time.monotonic()
                if left <= 0 or self._ended:
                    return False
                self._news.wait(left)
        return True

    def _on_connect(
        self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any
    ) -> None:
        with self._news:
            if reason.is_failure:
                self._refused = f"the broker refused: {reason}"
            else:
                self._connected = True
                self.properties = "" if properties is None else str(properties)
            self._news.notify_all()

    def _on_subscribe(
        self, _client: Any, _userdata: Any, number: int, reasons: Any, _properties: Any
    ) -> None:
        with self._news:
            self._granted[number] = not any(reason.is_failure for reason in reasons)
            self._news.notify_all()

    def _on_publish(
        self, _client: Any, _userdata: Any, number: int, _reason: Any, _properties: Any
    ) -> None:
        with self._news:
            if number in self._unacknowledged:
                self._unacknowledged.discard(number)
            else:  # before publish() returned
                self._acknowledged_early.add(number)
            self._news.notify_all()

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of ours
        got = Message(topic, bytes(message.payload), time.monotonic(), bool(message.retain))
        with self._news:
            self.messages.append(got)
            self._news.notify_all()

    def _on_disconnect(
        self, _client: Any, _userdata: Any, _flags: Any, _reason: Any, _properties: Any
    ) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()


def _send_at_once(_client: Any, _userdata: Any, opened: Any) -> None:
    """Leave Nagle's algorithm out of what is measured."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _in_words(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return mqtt_tls.in_words(error)
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve: {error.strerror}"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
