"""Somebody with access to the broker but without the cluster's secret."""

from __future__ import annotations

import socket
import time
from typing import Any, Self

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.lab.lab import BROKER, BROKER_PORT, Lab
from tests.waiting import wait_until

ROOT = "piagent/lab"
LEASES = f"{ROOT}/l/vips"


class Intruder:
    """Hears everything, says anything; a context manager."""

    def __init__(self, lab: Lab) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1000)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe(f"{ROOT}/l/#", 1)
        self._client.on_socket_open = lambda _client, _data, opened: opened.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        with lab.client.entered():  # the socket stays where it was made
            self._client.connect(BROKER, BROKER_PORT)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.loop_stop()
        self._client.disconnect()

    def say(
        self, topic: str, payload: bytes | bytearray, *, retain: bool = False, qos: int = 1
    ) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(30)

    def flood(self, topics: list[str], payload: bytes, *, each_s: int, seconds: float) -> int:
        """So many messages a second, over the topics in turn; how many it came to."""
        started_s, sent = time.monotonic(), 0
        while (passed_s := time.monotonic() - started_s) < seconds:
            while sent < passed_s * each_s:
                self._client.publish(topics[sent % len(topics)], payload, qos=0)
                sent += 1
            time.sleep(0.01)
        return sent

    def retain(self, count: int, prefix: str, payload: bytes) -> None:
        """So many retained messages; returns when the broker has the last one."""
        for number in range(count):
            self._client.publish(f"{prefix}{number}", payload, retain=True)
            if number % 1000 == 0:
                self.say(f"{prefix}{number}", payload, retain=True)
        self.say(f"{prefix}0", payload, retain=True)

    def captured(self, count: int) -> list[tuple[str, bytes]]:
        """So many messages of the cluster itself."""
        wait_until(lambda: len(self.heard) >= count, "messages of the cluster")
        return list(self.heard[:count])

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        if len(self.heard) < 10_000:
            self.heard.append((message.topic, message.payload))


def rss_kib(pid: int) -> int:
    """The resident memory of a process."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
