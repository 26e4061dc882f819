"""Everything that was ever assigned, as each broker forwarded it."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, NamedTuple, Self

import msgspec
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from piagent.core.assignments import Assignments, Stamp
from piagent.core.wire import Refused, Topics, decode_signed
from tests.lab.lab import Lab
from tests.waiting import wait_until


class Said(NamedTuple):
    """One message."""

    broker: int
    assignments: Assignments


class History:
    """Listens at every broker until the `with` block ends; a broker may come and go."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._topic = Topics("lab").assigned()
        self._secrets = ((lab.folder / "secret").read_bytes().strip(),)
        self._lock = threading.Lock()
        self.said: list[Said] = []
        """In the order in which they came; `prepare`s of new leaders, too."""
        self._ready: set[int] = set()
        self._clients = [self._client(number) for number in range(len(lab.brokers))]
        self._threads = [threading.Thread(target=self._listen, args=(n,)) for n in self._numbers]

    @property
    def _numbers(self) -> range:
        return range(len(self._lab.brokers))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self._ready) == len(self._clients), "it listens everywhere")
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.disconnect()
        for thread in self._threads:
            thread.join()

    def in_force(self) -> list[Assignments]:
        """What a majority of the brokers carried, the same, by stamp."""
        carried: defaultdict[bytes, set[int]] = defaultdict(set)
        found: dict[Stamp, Assignments] = {}
        for broker, one in self._heard():
            by = carried[msgspec.json.encode(one, order="deterministic")]
            by.add(broker)
            if len(by) > len(self._clients) // 2 and one.number > 0:
                assert found.setdefault(one.stamp, one) == one, f"two of one stamp: {one.stamp}"
        return [found[stamp] for stamp in sorted(found)]

    def last(self) -> dict[int, Assignments]:
        """What each broker said last."""
        return {broker: one for broker, one in self._heard() if one.number > 0}

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self.said.clear()

    def _heard(self) -> list[Said]:
        with self._lock:
            return list(self.said)

    def _client(self, number: int) -> Client:
        def on_connect(client: Client, *_: object) -> None:
            client.subscribe(self._topic, 1)

        def on_subscribe(*_: object) -> None:
            self._ready.add(number)

        def on_message(_client: Client, _data: object, message: Any) -> None:
            read = decode_signed(
                self._secrets,
                message.topic,
                message.payload,
                msgspec.json.Decoder(Assignments).decode,
            )
            assert not isinstance(read, Refused), read
            with self._lock:
                self.said.append(Said(number, read))

        client = Client(CallbackAPIVersion.VERSION2)
        client.reconnect_delay_set(1, 1)
        client.on_connect = on_connect
        client.on_subscribe = on_subscribe
        client.on_message = on_message
        return client

    def _listen(self, number: int) -> None:
        broker = self._lab.brokers[number]
        with self._lab.client.entered():  # for this thread's whole life: it connects again
            self._clients[number].connect_async(broker.address, broker.port)
            self._clients[number].loop_forever(retry_first_connection=True)


def check(history: list[Assignments]) -> None:
    """Nobody ever shared or changed what was in force: addresses, cluster addresses, node ports."""
    had: dict[tuple[str, str], object] = {}
    for one in history:
        owners: dict[object, str] = {}
        for key, has in one.given.items():
            parts = {"vip": has.vips, "cluster": has.cluster_ips, "port": has.node_ports}
            for what, values in parts.items():
                assert had.setdefault((key, what), values) == values, (
                    f"{one.stamp}: {key} has {values}, it had {had[key, what]}"
                )
            for value in (*has.vips, *has.cluster_ips, *has.node_ports.values()):
                other = owners.setdefault(value, key)
                assert other == key, f"{one.stamp}: {other} and {key} have {value}"
