"""Topics and payloads of the cluster: what the lease protocol's messages look like on a broker.

A lease message is `base64url(HMAC-SHA256(secret, "pa1" | topic | json)[:16]) "." json`: the topic
is signed too, so a message cannot be moved to another node, group or cluster. Decoding is
fail-safe: whatever cannot be taken for a sound message comes back with the reason why not, and
blocks claims instead of being overlooked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from piagent.core.lease_types import LeaseMessage, Reason
from piagent.core.model import Broker, Timing

MAX_SIZE = 16 * 1024
"""Bytes; a longer message is unreadable."""
VERSION = 1

_SIGNATURE_SIZE = 22
"""16 bytes in base64url without padding."""
_HINT_MAX_MS = 60_000
"""What a message without a valid signature can make others wait."""
_encode_json = msgspec.json.Encoder(order="deterministic").encode
_decode_lease = msgspec.json.Decoder(LeaseMessage).decode


class Refused(Struct, frozen=True):
    """A message on a lease topic that cannot be read."""

    sender: str
    """The node that the topic names."""
    reason: Reason
    lease_ms: int = 0
    """How long its sender's leases may be, as far as that could be read; not authentic."""


class Presence(Struct, frozen=True, rename={"online": "on", "incarnation": "i", "connection": "k"}):
    """`s/<node>`, retained, and its last will: a hint for people, never a proof of death."""

    online: int
    """1 or 0."""
    incarnation: str
    connection: str = ""


class Ownership(Struct, frozen=True):
    """`v/<vip>`, retained: for people, never an input of the protocol."""

    owner: str | None
    epoch: int
    since: str
    """ISO 8601, UTC."""
    reason: str


class Topics:
    """The topic names of one cluster."""

    def __init__(self, cluster: str) -> None:
        self._root = f"piagent/{cluster}"

    def lease(self, group: str, node: str) -> str:
        """Lease messages of a node; `+` as the node subscribes to all of the group."""
        return f"{self._root}/l/{group}/{node}"

    def echo(self, node: str, connection: str) -> str:
        """Self-echoes of one connection of a node."""
        return f"{self._root}/e/{node}/{connection}"

    def presence(self, node: str) -> str:
        """Whether a node is connected (retained, and its will)."""
        return f"{self._root}/s/{node}"

    def vip(self, vip: str) -> str:
        """Who owns a VIP (retained)."""
        return f"{self._root}/v/{vip}"


def encode(secret: bytes, topic: str, message: LeaseMessage) -> bytes:
    """Sign a lease message for its topic."""
    body = _encode_json(message)
    return _signature(secret, topic, body) + b"." + body


def decode(secret: bytes, topic: str, payload: bytes) -> LeaseMessage | Refused:
    """Read a lease message that came on the topic, or say why it cannot be read; never raises.

    The `Refused` is to become an `Unreadable` event. Whether the message was meant for the broker
    that it came from, and whether its configuration is ours, is the lease core's to judge.
    """
    sender = topic.rpartition("/")[2]
    if len(payload) > MAX_SIZE:
        return Refused(sender, Reason.TOO_LARGE)
    signature, body = payload[:_SIGNATURE_SIZE], payload[_SIGNATURE_SIZE + 1 :]
    if payload[_SIGNATURE_SIZE : _SIGNATURE_SIZE + 1] != b".":
        return Refused(sender, Reason.MALFORMED)
    message = _parse(body)
    if not hmac.compare_digest(signature, _signature(secret, topic, body)):
        hint = message.lease_ms if isinstance(message, LeaseMessage) else 0
        return Refused(sender, Reason.BAD_SIGNATURE, min(hint, _HINT_MAX_MS))
    if not isinstance(message, LeaseMessage):
        return Refused(sender, message)
    if message.node != sender:
        return Refused(sender, Reason.WRONG_SENDER, message.lease_ms)
    return message


def config_hash(brokers: Sequence[Broker], timing: Timing, candidates: Sequence[str]) -> str:
    """What every candidate of a group must have in common, in 8 hex digits."""
    parts: list[Any] = [
        [(b.label, b.host, b.port) for b in brokers],
        (timing.lease_ms, timing.wait_ms, timing.renew_ms),
        list(candidates),
    ]
    return hashlib.sha256(_encode_json(parts)).hexdigest()[:8]


def _parse(body: bytes) -> LeaseMessage | Reason:
    try:
        message = _decode_lease(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Reason.MALFORMED
    return message if message.version == VERSION else Reason.OTHER_VERSION


def _signature(secret: bytes, topic: str, body: bytes) -> bytes:
    signed = b"|".join((b"pa1", topic.encode(errors="surrogatepass"), body))
    digest = hmac.digest(secret, signed, hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=")
