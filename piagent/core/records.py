"""Services, gateways and routes that were applied: tables as in a file, kept on the brokers."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

_DIGEST_SIZE = 16


RecordName = Annotated[
    str, Meta(max_length=63, pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
]
"""A level of an MQTT topic, and a name as files have them."""


class Kind(StrEnum):
    """What can be applied."""

    SERVICE = "service"
    GATEWAY = "gateway"
    ROUTE = "route"


def key_of(kind: Kind, name: str) -> str:
    """What a thing is called among all of them, applied or in a file: `service/web`."""
    return f"{kind}/{name}"


class Record(Struct, frozen=True, kw_only=True):
    """`desired/<kind>/<name>`, retained: one thing that was applied.

    It is in force when the assignments name its digest, so whatever else is retained does nothing.
    """

    kind: Kind
    name: RecordName
    table: dict[str, Any]
    """As in a file, its name included."""

    @property
    def key(self) -> str:
        """`service/web`: unique among all that was applied."""
        return key_of(self.kind, self.name)


def digest(record: Record) -> str:
    """What tells two contents of one name apart: 128 bits of SHA-256, in hex."""
    body = msgspec.json.encode(record, order="deterministic")
    return hashlib.sha256(body).hexdigest()[: 2 * _DIGEST_SIZE]
