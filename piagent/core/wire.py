"""Topics and payloads of the cluster: what its messages look like on a broker.

A lease or control message is `base64url(HMAC-SHA256(secret, "pa1" | topic | json)[:16]) "." json`:
the topic is signed too, so a message cannot be moved to another node, group or cluster. Presence
has the same signature as its last key, to stay plain JSON. A cluster may have several secrets:
the first one signs, each of them is accepted, so that a secret can be replaced node by node.

Decoding is fail-safe: whatever cannot be taken for a sound message comes back with the reason why
not. A lease message that comes back so blocks claims instead of being overlooked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from piagent.core.lease_types import MAX_COUNT, Count, Incarnation, LeaseMessage, Name, Reason
from piagent.core.model import Broker, Timing

MAX_SIZE = 64 * 1024
"""Bytes; a longer message is unreadable."""
VERSION = 1
BODY_MAX = 48 * 1024
"""Characters of what a control message carries."""
DETAIL_MAX = 200
"""Characters of a control message's text for people."""

_SIGNATURE_SIZE = 22
"""16 bytes in base64url without padding."""
_SIGNATURE_KEY = b',"sig":"'
_SIGNATURE_END = b'"}'
_HINT_MAX_MS = 60_000
"""What a message without a valid signature can make others wait."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encode_json = msgspec.json.Encoder(order="deterministic").encode

T = TypeVar("T")
Flag = Annotated[int, Meta(ge=0, le=1)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Weight = Annotated[int, Meta(ge=0, le=1000)]
Word = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=DETAIL_MAX)]
Mac = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{12})?\Z")]
"""12 hex digits, or empty when it is not known."""


class Refused(Struct, frozen=True):
    """A message that cannot be read."""

    sender: str
    """The node that the topic names."""
    reason: Reason
    lease_ms: int = 0
    """How long its sender's leases may be, as far as that could be read; not authentic."""


class Presence(
    Struct,
    frozen=True,
    kw_only=True,
    rename={
        "online": "on",
        "incarnation": "i",
        "connection": "k",
        "host": "h",
        "started": "t",
        "weight": "w",
        "health": "g",
        "zone": "z",
        "draining": "d",
        "refuses": "r",
        "mac": "m",
        "listening": "l",
    },
):
    """`s/<node>`, retained, and its last will: a hint for placement, never a proof of death.

    Keys that this version does not know are passed over, but signed like the others.
    """

    online: Flag
    incarnation: Incarnation
    connection: Annotated[str, Meta(max_length=128)] = ""
    host: Word = ""
    """The host's name: two hosts with one node name are told apart by it."""
    started: Count = 0
    """When this incarnation began, in milliseconds since 1970."""
    weight: Weight = 100
    """`node.vip_weight`."""
    health: Percent = 100
    """How fit the host is to own VIPs; 100: nothing is wrong."""
    zone: Word = ""
    draining: Flag = 0
    refuses: dict[Name, Word] = {}
    """VIP -> why this node may not own it now."""
    mac: Mac = ""
    """The hardware address that its VIPs are announced with."""
    listening: Flag = 0
    """It came lately, and has to listen for a while before it may claim anything (R1)."""


class Command(StrEnum):
    """What a control message asks for or answers."""

    MOVE = "move"
    """To the owner: hand `vip` over to `node`."""
    PREPARE = "prepare"
    """To the successor: get ready for `vip`."""
    PREPARED = "prepared"
    REFUSED = "refused"
    """The answer of a successor that cannot take it; `detail` says why."""
    DRAIN = "drain"
    """Hand over everything and take nothing."""
    UNDRAIN = "undrain"
    APPLY = "apply"
    """To the leader: make what `body` says true."""
    APPLIED = "applied"
    """The leader's answer, in `body`."""
    FLOWS = "flows"
    """To the successor: connections of `vip` that it is to go on with, in `body`."""
    ADOPTED = "adopted"
    """Its answer: all of them have come."""


class Control(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"version": "v", "sender": "n", "incarnation": "i", "seq": "q"},
):
    """`ctl/<node>`, never retained: one node asks another to do something."""

    version: int = VERSION
    sender: Name
    incarnation: Incarnation
    """The sender's."""
    seq: Count
    """Strictly rising per incarnation: see `replay.Replay`."""
    to: Incarnation
    """The incarnation that is meant: what was said to a former life does not count in a new one."""
    command: Command
    vip: Word = ""
    node: Word = ""
    mac: Mac = ""
    ms: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 0
    epoch: Count = 0
    detail: Text = ""
    body: Annotated[str, Meta(max_length=BODY_MAX)] = ""
    """Of `apply` and `applied`: JSON (`core.applying`); of `flows` (`core.flow_parts`)."""


_decode_lease = msgspec.json.Decoder(LeaseMessage).decode
_decode_presence = msgspec.json.Decoder(Presence).decode
_decode_control = msgspec.json.Decoder(Control).decode


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

    def assigned(self) -> str:
        """What the leader has given out (retained)."""
        return f"{self._root}/assigned/services"

    def desired(self, key: str) -> str:
        """What was applied under a key, `service/web` (retained)."""
        return f"{self._root}/desired/{key}"

    def wants(self, node: str) -> str:
        """What a node's file asks for (retained)."""
        return f"{self._root}/wants/{node}"

    def endpoints(self, node: str) -> str:
        """What registered itself at a node (retained)."""
        return f"{self._root}/endpoints/{node}"

    def health(self, service: str, backend: str) -> str:
        """What the node on duty found out about a backend (retained)."""
        return f"{self._root}/health/{service}/{backend}"

    def control(self, node: str) -> str:
        """What others ask of a node."""
        return f"{self._root}/ctl/{node}"


def encode(secret: bytes, topic: str, message: LeaseMessage) -> bytes:
    """Sign a lease message for its topic."""
    return _sealed(secret, topic, message)


def decode(secrets: Sequence[bytes], topic: str, payload: bytes) -> LeaseMessage | Refused:
    """Read a lease message that came on the topic, or say why it cannot be read; never raises.

    The `Refused` is to become an `Unreadable` event. Whether the message was meant for the broker
    that it came from, and whether its configuration is ours, is the lease core's to judge.
    """
    sender = _last(topic)
    opened = _open(secrets, topic, payload)
    if opened is Reason.BAD_SIGNATURE:
        unproven = _parse(payload[_SIGNATURE_SIZE + 1 :])
        hint = unproven.lease_ms if isinstance(unproven, LeaseMessage) else 0
        return Refused(sender, Reason.BAD_SIGNATURE, min(hint, _HINT_MAX_MS))
    if isinstance(opened, Reason):
        return Refused(sender, opened)
    message = _parse(opened)
    if not isinstance(message, LeaseMessage):
        return Refused(sender, message)
    if message.node != sender:
        return Refused(sender, Reason.WRONG_SENDER, message.lease_ms)
    return message


def encode_control(secret: bytes, topic: str, message: Control) -> bytes:
    """Sign a control message for its topic; a `detail` that is too long is cut."""
    return _sealed(secret, topic, replace(message, detail=message.detail[:DETAIL_MAX]))


def decode_control(secrets: Sequence[bytes], topic: str, payload: bytes) -> Control | Refused:
    """Read a control message that came on the topic, or say why it cannot be read; never raises.

    Whether it is meant for this incarnation, and new, is for the caller to judge.
    """
    opened = _open(secrets, topic, payload)
    if isinstance(opened, Reason):
        return Refused(_last(topic), opened)
    try:
        message = _decode_control(opened)
    except _UNREADABLE:
        return Refused(_last(topic), Reason.MALFORMED)
    return message if message.version == VERSION else Refused(_last(topic), Reason.OTHER_VERSION)


def encode_presence(secret: bytes, topic: str, presence: Presence) -> bytes:
    """Write presence as JSON whose last key is the signature of all that comes before it."""
    return encode_signed(secret, topic, presence)


def decode_presence(secrets: Sequence[bytes], topic: str, payload: bytes) -> Presence | Refused:
    """Read presence that came on the topic, or say why it cannot be believed; never raises."""
    return decode_signed(secrets, topic, payload, _decode_presence)


def encode_signed(secret: bytes, topic: str, message: Struct) -> bytes:
    """Write a message as JSON whose last key is the signature of all that comes before it."""
    body = _encode_json(message)
    return body[:-1] + _SIGNATURE_KEY + _signature(secret, topic, body) + _SIGNATURE_END


def decode_signed(
    secrets: Sequence[bytes], topic: str, payload: bytes, decode_body: Callable[[bytes], T]
) -> T | Refused:
    """Read such a message that came on the topic, or say why it is not believed; never raises.

    What is signed is checked as bytes, before anything is made of them.
    """
    node = _last(topic)
    if len(payload) > MAX_SIZE:
        return Refused(node, Reason.TOO_LARGE)
    body, key, end = payload.rpartition(_SIGNATURE_KEY)
    if not key or not end.endswith(_SIGNATURE_END):
        return Refused(node, Reason.BAD_SIGNATURE)
    if not _is_signed(secrets, topic, body + b"}", end.removesuffix(_SIGNATURE_END)):
        return Refused(node, Reason.BAD_SIGNATURE)
    try:
        return decode_body(body + b"}")
    except _UNREADABLE:
        return Refused(node, Reason.MALFORMED)


def config_hash(brokers: Sequence[Broker], timing: Timing, candidates: Sequence[str]) -> str:
    """What every candidate of a group must have in common, in 8 hex digits."""
    parts: list[Any] = [
        [(b.label, b.host, b.port) for b in brokers],
        (timing.lease_ms, timing.wait_ms, timing.renew_ms),
        list(candidates),
    ]
    return hashlib.sha256(_encode_json(parts)).hexdigest()[:8]


def _last(topic: str) -> str:
    return topic.rpartition("/")[2]


def _sealed(secret: bytes, topic: str, message: Struct) -> bytes:
    body = _encode_json(message)
    return _signature(secret, topic, body) + b"." + body


def _open(secrets: Sequence[bytes], topic: str, payload: bytes) -> bytes | Reason:
    """Give the signed part of a sealed message, or why there is none."""
    if len(payload) > MAX_SIZE:
        return Reason.TOO_LARGE
    signature, body = payload[:_SIGNATURE_SIZE], payload[_SIGNATURE_SIZE + 1 :]
    if payload[_SIGNATURE_SIZE : _SIGNATURE_SIZE + 1] != b".":
        return Reason.MALFORMED
    return body if _is_signed(secrets, topic, body, signature) else Reason.BAD_SIGNATURE


def _parse(body: bytes) -> LeaseMessage | Reason:
    try:
        message = _decode_lease(body)
    except _UNREADABLE:
        return Reason.MALFORMED
    return message if message.version == VERSION else Reason.OTHER_VERSION


def _is_signed(secrets: Sequence[bytes], topic: str, body: bytes, signature: bytes) -> bool:
    """Whether one of the secrets gives the signature; how long it takes does not tell which."""
    fits = [hmac.compare_digest(signature, _signature(one, topic, body)) for one in secrets]
    return any(fits)


def _signature(secret: bytes, topic: str, body: bytes) -> bytes:
    signed = b"|".join((b"pa1", topic.encode(errors="surrogatepass"), body))
    digest = hmac.digest(secret, signed, hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=")
