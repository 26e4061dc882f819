"""The retained messages about services and backends: what is written, and what is read back.

Whatever is not signed, not JSON, or of a version that this one does not understand is passed over:
what is in force names what it stands on by digest, so retained garbage changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from piagent.agent.letters import Letters
from piagent.core import wire
from piagent.core.assignments import Assignments
from piagent.core.bulletin import Endpoints, Wants, is_sound
from piagent.core.checking import Key, Verdict
from piagent.core.records import Record
from piagent.ports import Received

Message = Assignments | Record | Wants | Endpoints | Verdict

ANSWER_S = 5.0
"""When somebody else speaks in this node's name, it speaks again so much later. A second host of
that name answers, too: at once, that would go on as fast as the brokers can."""

_decoders: dict[type[Struct], Callable[[bytes], Any]] = {
    kind: msgspec.json.Decoder(kind).decode
    for kind in (Assignments, Record, Wants, Endpoints, Verdict)
}


class Bulletin(Struct, frozen=True):
    """What one broker carries under one topic."""

    broker: str
    key: str
    """The node; of a record `service/web`; of a verdict `web/10.0.0.1`; of assignments nothing."""
    kind: type[Struct]
    message: Message | None
    """None: nothing (any more), or nothing that can be believed."""
    fresh: bool
    """Published just now; False: what the broker retained."""
    cleared: bool = False
    """Somebody ended what was retained (MQTT 3.1.1 section 3.3.1.3), which needs no secret."""


class Bulletins:
    """Reads and writes in the name of one node."""

    def __init__(self, cluster: str, letters: Letters) -> None:
        """`letters` has the secrets, which a rotation changes."""
        self._letters = letters
        self.node = letters.node
        self._topics = wire.Topics(cluster)
        self._assigned = self._topics.assigned()
        self._prefixes: dict[str, type[Struct]] = {
            self._topics.desired(""): Record,
            self._topics.wants(""): Wants,
            self._topics.endpoints(""): Endpoints,
            self._topics.health("", "").removesuffix("/"): Verdict,
        }

    def read(self, event: Received) -> Bulletin | None:
        """What a message says; None when it is none of these. Never raises."""
        if event.topic == self._assigned:
            return self._read(event, "", Assignments)
        for prefix, kind in self._prefixes.items():
            if event.topic.startswith(prefix):
                return self._read(event, event.topic.removeprefix(prefix), kind)
        return None

    def assignments(self, said: Assignments) -> tuple[str, bytes]:
        """Topic and payload."""
        return self._write(self._assigned, said)

    def record(self, record: Record) -> tuple[str, bytes]:
        """Topic and payload."""
        return self._write(self._topics.desired(record.key), record)

    def cleared(self, key: str) -> tuple[str, bytes]:
        """Topic and payload that end what is retained of a record."""
        return self._topics.desired(key), b""

    def wants(self, said: Wants) -> tuple[str, bytes]:
        """Topic and payload."""
        return self._write(self._topics.wants(self._letters.node), said)

    def endpoints(self, said: Endpoints) -> tuple[str, bytes]:
        """Topic and payload."""
        return self._write(self._topics.endpoints(self._letters.node), said)

    def verdict(self, key: Key, said: Verdict) -> tuple[str, bytes]:
        """Topic and payload."""
        return self._write(self._topics.health(*key), said)

    def no_verdict(self, key: Key) -> tuple[str, bytes]:
        """Topic and payload that end what is retained of a backend."""
        return self._topics.health(*key), b""

    def _write(self, topic: str, message: Message) -> tuple[str, bytes]:
        return topic, wire.encode_signed(self._letters.secrets[0], topic, message)

    def _read(self, event: Received, key: str, kind: type[Struct]) -> Bulletin:
        read = wire.decode_signed(
            self._letters.secrets, event.topic, event.payload, _decoders[kind]
        )
        message = None if isinstance(read, wire.Refused) else read
        if isinstance(message, Record) and message.key != key:
            message = None
        if isinstance(message, Assignments | Wants | Endpoints) and not is_sound(message):
            message = None
        cleared = not event.payload
        return Bulletin(event.broker, key, kind, message, fresh=not event.retain, cleared=cleared)
