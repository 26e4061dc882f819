"""A lease group on a bench: a hand-turned clock, and echoes that return when the test says so."""

from __future__ import annotations

from typing import TypeVar

from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    Assertion,
    EchoReturned,
    Effect,
    Event,
    Heard,
    KeyView,
    LeaseMessage,
    Role,
    Send,
    SendEcho,
    Subscribed,
    Tick,
)
from piagent.core.model import Timing
from tests.core.timing import MS, TIMING

KEY = "10.0.0.1"
WALL_MS = 1_790_000_000_000
ME = "pi1"
E = TypeVar("E")


class Bench:
    """One node; others are messages that a test makes up."""

    def __init__(
        self,
        brokers: tuple[str, ...] = ("b1",),
        keys: tuple[str, ...] = (KEY,),
        rank: int = 0,
        timing: Timing = TIMING,
    ) -> None:
        self.now = 1_000_000 * MS
        self.group = LeaseGroup(
            timing,
            brokers,
            ME,
            "1" * 16,
            dict.fromkeys(keys, rank),
            config_hash="hash",
            seed=7,
            now_ns=self.now,
            wall_ms=WALL_MS,
        )
        self.brokers = brokers
        self.effects: list[Effect] = []
        self.deaf: set[str] = set()
        """Brokers that return nothing."""
        self._seq = 0
        self._connections = 0

    def connect(self, *brokers: str) -> None:
        """Fresh connections."""
        for broker in brokers or self.brokers:
            self._connections += 1
            self.step(Subscribed(broker, f"c-{broker}-{self._connections}"))

    def step(self, event: Event) -> list[Effect]:
        """One event, and the echoes of what it makes the group send."""
        effects = self.group.step(event, self.now)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Send) and effect.broker not in self.deaf:
                self.hear(effect.broker, effect.message)
            elif isinstance(effect, SendEcho) and effect.broker not in self.deaf:
                self.step(EchoReturned(effect.broker, effect.connection, effect.nonce))
        return effects

    def run(self, span: int) -> None:
        """Time passes; the group is called when it wants to be."""
        end = self.now + span
        while (at := self.group.next_wakeup_ns()) <= end:
            self.now = max(self.now, at)
            self.step(Tick())
        self.now = end
        self.step(Tick())

    def connection(self, broker: str = "b1") -> str:
        """The present one."""
        return self.group._links[broker].connection

    def hear(self, broker: str, message: LeaseMessage) -> list[Effect]:
        """A message over the present connection, if there is one."""
        link = self.group._links.get(broker)
        return [] if link is None else self.step(Heard(broker, link.connection, message))

    def foreign(
        self,
        asserts: dict[str, tuple[int, Role]] | None = None,
        yields: dict[str, str | None] | None = None,
        **changes: object,
    ) -> LeaseMessage:
        """A message of pi2, the next in its sequence."""
        self._seq += 1
        fields: dict[str, object] = {
            "node": "pi2",
            "incarnation": "2" * 16,
            "seq": self._seq,
            "broker": "b1",
            "config_hash": "hash",
            "lease_ms": TIMING.lease_ms,
            "asserts": {key: Assertion(*said) for key, said in (asserts or {}).items()},
            "yields": yields or {},
        }
        return LeaseMessage(**(fields | changes))  # type: ignore[arg-type]

    def taken(self, kind: type[E]) -> list[E]:
        """The effects of that kind since the last call, which are then forgotten."""
        found: list[E] = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return found

    def view(self, key: str = KEY) -> KeyView:
        """Of one key."""
        return next(view for view in self.group.view() if view.key == key)

    def own(self) -> None:
        """Connect, wait and acquire; what happened on the way is forgotten."""
        self.connect()
        self.run(TIMING.wait_ms * MS + 10 * MS)
        assert self.view().until_ns is not None
        self.effects.clear()
