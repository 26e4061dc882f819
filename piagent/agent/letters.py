"""What goes over the bus: topics and payloads written, and read back as events of the core."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from piagent.core import lease_types as lease
from piagent.core import wire
from piagent.ports import Received

GROUP = "vips"
"""All VIPs of a cluster have one list of candidates, so they are one group."""
MAX_NONCE = 64


class Peer(Struct, frozen=True):
    """A node's presence at one broker; a hint, no proof of life or death."""

    broker: str
    node: str
    online: bool


class Letters:
    """Reads and writes in the name of one life of one node."""

    def __init__(self, *, cluster: str, node: str, incarnation: str, secret: bytes) -> None:
        """`secret` signs and checks every lease message."""
        self.node = node
        self._incarnation = incarnation
        self._secret = secret
        self._topics = wire.Topics(cluster)
        self._presence = self._topics.presence("")
        self._echo = self._topics.echo(node, "")
        self._lease = self._topics.lease(GROUP, "")

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Everything that this node listens to."""
        return (self._lease + "+", self._echo + "+", self._presence + "+")

    @property
    def presence_topic(self) -> str:
        """Where this node says whether it is there."""
        return self._presence + self.node

    def presence(self, online: bool, connection: str) -> bytes:
        """The retained message of presence, or of absence."""
        said = wire.Presence(
            online=int(online), incarnation=self._incarnation, connection=connection
        )
        return msgspec.json.encode(said)

    def lease_message(self, message: lease.LeaseMessage) -> tuple[str, bytes]:
        """Topic and payload of a lease message."""
        topic = self._lease + self.node
        return topic, wire.encode(self._secret, topic, message)

    def echo(self, connection: str, nonce: str) -> tuple[str, bytes]:
        """Topic and payload of a self-echo."""
        return self._echo + connection, nonce.encode()

    def vip(
        self, vip: str, *, owner: str | None, epoch: int, since_ms: int, reason: str
    ) -> tuple[str, bytes]:
        """Topic and payload that tell people who owns a VIP."""
        since = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="milliseconds")
        said = wire.Ownership(owner=owner, epoch=epoch, since=since, reason=reason)
        return self._topics.vip(vip), msgspec.json.encode(said)

    def read(
        self, event: Received
    ) -> lease.Heard | lease.Unreadable | lease.EchoReturned | Peer | None:
        """What a message says; None when it is none of our business. Never raises."""
        topic = event.topic
        if topic.startswith(self._lease):
            return None if event.retain else self._read_lease(event)
        if topic.startswith(self._echo):
            nonce = event.payload[:MAX_NONCE].decode("ascii", "replace")
            return lease.EchoReturned(event.broker, topic.removeprefix(self._echo), nonce)
        if topic.startswith(self._presence):
            return self._read_presence(event)
        return None

    def _read_lease(self, event: Received) -> lease.Heard | lease.Unreadable:
        read = wire.decode(self._secret, event.topic, event.payload)
        if isinstance(read, wire.Refused):
            return lease.Unreadable(
                event.broker, event.connection, read.sender, read.reason, read.lease_ms
            )
        return lease.Heard(event.broker, event.connection, read)

    def _read_presence(self, event: Received) -> Peer | None:
        node = event.topic.removeprefix(self._presence)
        try:
            said = msgspec.json.decode(event.payload, type=wire.Presence)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return Peer(event.broker, node, said.online == 1)
