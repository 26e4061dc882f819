"""Flows on their way from a VIP's former owner to the next one: parts, and what a taker expects.

A planned move takes the VIP's `nat` flows along. The former owner sends them in parts, each of
which can be used by itself; they may come before the taker owns the VIP, and wait then.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from piagent.core.lease_types import Sender

FLOWS_MAX = 16384
"""Of a VIP; those silent longest are left behind."""
PART_FLOWS = 800
"""In a part: what fits into a message (`wire.BODY_MAX`)."""
PARTS_MAX = -(-FLOWS_MAX // PART_FLOWS)
WAITING_MAX = 64
"""Parts of all VIPs that wait until these are owned: 2 MiB."""


class Fault(StrEnum):
    """Why a part does not count."""

    UNEXPECTED = "unexpected"
    """No hand-over of that VIP from that node is under way."""
    MALFORMED = "malformed"
    TWICE = "twice"
    TOO_MANY = "too-many"


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a message `flows`."""

    number: Annotated[int, Meta(ge=1, le=PARTS_MAX)]
    """From 1."""
    of: Annotated[int, Meta(ge=1, le=PARTS_MAX)]
    flows: bytes
    """A batch, as the engine has it (fastpath/flow_batches.py)."""


def written(part: Part) -> str:
    """As a message carries it."""
    return msgspec.json.encode(part).decode()


def read(body: str) -> Part | None:
    """What a message carries; None when it is no part."""
    try:
        part = _decode(body)
    except msgspec.MsgspecError:
        return None
    return part if part.number <= part.of else None


_decode = msgspec.json.Decoder(Part).decode


class Arrival(Struct):
    """The flows of one VIP, as far as they have come."""

    vip: str
    giver: Sender
    until_ns: int
    epoch: int | None = None
    """Of the lease that was given up: all parts of one hand-over have the same. None: none came."""
    of: int = 0
    seen: set[int] = msgspec.field(default_factory=set)
    waiting: deque[bytes] = msgspec.field(default_factory=deque)
    told: Counter[str] = msgspec.field(default_factory=Counter)
    """What became of the flows that have been taken."""

    def is_complete(self) -> bool:
        """Every part has come, and been taken."""
        return len(self.seen) == self.of > 0 and not self.waiting


class Arrivals:
    """What hand-overs to this node are under way, and the parts that wait."""

    def __init__(self) -> None:
        self._of: dict[str, Arrival] = {}

    def expect(self, vip: str, giver: Sender, until_ns: int) -> None:
        """A hand-over begins; parts from an earlier one of the VIP do not count any more."""
        self._of[vip] = Arrival(vip, giver, until_ns)

    def hear(self, vip: str, giver: Sender, epoch: int, body: str, now_ns: int) -> Fault | None:
        """A part has come. None: it waits now."""
        arrival = self._of.get(vip)
        if arrival is None or arrival.giver != giver or now_ns > arrival.until_ns:
            return Fault.UNEXPECTED
        part = read(body)
        if part is None:
            return Fault.MALFORMED
        if arrival.epoch is None:
            arrival.epoch, arrival.of = epoch, part.of
        if arrival.epoch != epoch:
            return Fault.UNEXPECTED
        if arrival.of != part.of:
            return Fault.MALFORMED
        if part.number in arrival.seen:
            return Fault.TWICE
        if sum(len(one.waiting) for one in self._of.values()) >= WAITING_MAX:
            return Fault.TOO_MANY
        arrival.seen.add(part.number)
        arrival.waiting.append(part.flows)
        return None

    def of(self, vip: str) -> Arrival | None:
        """What of the VIP has come."""
        return self._of.get(vip)

    def forget(self, arrival: Arrival) -> None:
        """This hand-over is over, if it is the latest one of its VIP."""
        if self._of.get(arrival.vip) is arrival:
            del self._of[arrival.vip]

    def end(self, now_ns: int) -> None:
        """Forget those whose time is over."""
        for vip in [vip for vip, one in self._of.items() if now_ns > one.until_ns]:
            del self._of[vip]
