"""What goes over the bus: topics and payloads written, and read back as events of the core."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from piagent.core import lease_types as lease
from piagent.core import wire
from piagent.ports import Received

GROUP = "vips"
"""All VIPs of a cluster have one list of candidates, so they and its leadership are one group."""
MAX_NONCE = 64


class Peer(Struct, frozen=True):
    """A node's presence at one broker; a hint, no proof of life or death."""

    broker: str
    node: str
    said: wire.Presence
    fresh: bool
    """Published just now; False: what the broker retained."""


class Asked(Struct, frozen=True):
    """An authentic control message for this life of this node; maybe not a new one."""

    message: wire.Control


Read = lease.Heard | lease.Unreadable | lease.EchoReturned | Peer | Asked


class Letters:
    """Reads and writes in the name of one life of one node."""

    def __init__(
        self, *, cluster: str, node: str, incarnation: str, secrets: Sequence[bytes], started: int
    ) -> None:
        """`secrets`: the first one signs, each is accepted. `started`: unix milliseconds."""
        self.node = node
        self.incarnation = incarnation
        self.secrets = tuple(secrets)
        self._topics = wire.Topics(cluster)
        self._presence = self._topics.presence("")
        self._echo = self._topics.echo(node, "")
        self._lease = self._topics.lease(GROUP, "")
        self._control = self._topics.control(node)
        self._asked = 0
        self._said = wire.Presence(
            online=1, incarnation=incarnation, host=socket.gethostname()[:64], started=started
        )

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Everything that this node listens to."""
        topics = self._topics
        return (
            self._lease + "+",
            self._echo + "+",
            self._presence + "+",
            self._control,
            topics.assigned(),
            topics.desired("+/+"),
            topics.wants("+"),
            topics.endpoints("+"),
            topics.health("+", "+"),
        )

    @property
    def presence_topic(self) -> str:
        """Where this node says whether it is there."""
        return self._presence + self.node

    def describe(
        self,
        *,
        weight: int,
        health: int,
        zone: str,
        draining: bool,
        refuses: Mapping[str, str],
        mac: bytes,
        listening: bool,
    ) -> bool:
        """What the presence says of this node from now on; whether that is news."""
        said = replace(
            self._said,
            weight=weight,
            health=health,
            zone=zone,
            draining=int(draining),
            refuses=dict(refuses),
            mac=mac.hex(),
            listening=int(listening),
        )
        news, self._said = said != self._said, said
        return news

    def described(self) -> wire.Presence:
        """What the presence says of this node."""
        return self._said

    def presence(self, online: bool, connection: str) -> bytes:
        """The retained message of presence, or of absence."""
        said = replace(self._said, online=int(online), connection=connection)
        return wire.encode_presence(self.secrets[0], self.presence_topic, said)

    def lease_message(self, message: lease.LeaseMessage) -> tuple[str, bytes]:
        """Topic and payload of a lease message."""
        topic = self._lease + self.node
        return topic, wire.encode(self.secrets[0], topic, message)

    def echo(self, connection: str, nonce: str) -> tuple[str, bytes]:
        """Topic and payload of a self-echo."""
        return self._echo + connection, nonce.encode()

    def command(
        self, whom: str, life: str, command: wire.Command, **about: Any
    ) -> tuple[str, bytes]:
        """Topic and payload of a control message to a node, in that life (incarnation) of it.

        `about`: the fields of `wire.Control` that say what it is about.
        """
        self._asked += 1
        message = wire.Control(
            sender=self.node,
            incarnation=self.incarnation,
            seq=self._asked,
            to=life,
            command=command,
            **about,
        )
        topic = self._topics.control(whom)
        return topic, wire.encode_control(self.secrets[0], topic, message)

    def vip(
        self, vip: str, *, owner: str | None, epoch: int, since_ms: int, reason: str
    ) -> tuple[str, bytes]:
        """Topic and payload that tell people who owns a VIP."""
        since = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="milliseconds")
        said = wire.Ownership(owner=owner, epoch=epoch, since=since, reason=reason)
        return self._topics.vip(vip), msgspec.json.encode(said)

    def read(self, event: Received) -> Read | None:
        """What a message says; None when it is none of our business. Never raises."""
        topic = event.topic
        if topic.startswith(self._lease):
            return None if event.retain else self._read_lease(event)
        if topic.startswith(self._echo):
            nonce = event.payload[:MAX_NONCE].decode("ascii", "replace")
            return lease.EchoReturned(event.broker, topic.removeprefix(self._echo), nonce)
        if topic.startswith(self._presence):
            return self._read_presence(event)
        if topic == self._control and not event.retain:
            return self._read_control(event)
        return None

    def _read_lease(self, event: Received) -> lease.Heard | lease.Unreadable:
        read = wire.decode(self.secrets, event.topic, event.payload)
        if isinstance(read, wire.Refused):
            return lease.Unreadable(
                event.broker, event.connection, read.sender, read.reason, read.lease_ms
            )
        return lease.Heard(event.broker, event.connection, read)

    def _read_presence(self, event: Received) -> Peer | None:
        read = wire.decode_presence(self.secrets, event.topic, event.payload)
        if isinstance(read, wire.Refused):
            return None
        node = event.topic.removeprefix(self._presence)
        return Peer(event.broker, node, read, fresh=not event.retain)

    def _read_control(self, event: Received) -> Asked | None:
        read = wire.decode_control(self.secrets, event.topic, event.payload)
        if isinstance(read, wire.Refused) or read.to != self.incarnation:
            return None
        return Asked(read)
