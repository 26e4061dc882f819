"""All the lease groups of one node: one event in, the effects of every group it concerns out.

A group is a set of keys with one list of candidates, and the unit of fan-out: a node hears only the
groups that it is a candidate of. Connections are common to all groups, and so is their end.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    CloseConnection,
    Disconnected,
    EchoReturned,
    Effect,
    Event,
    HandOver,
    Heard,
    KeyView,
    Occupied,
    Rank,
    SetKeys,
    Subscribed,
    Tick,
    Unreadable,
    Want,
    Withdrawn,
)


class LeaseGroups:
    """Several `LeaseGroup`s with the interface of one; keys are different in all of them."""

    def __init__(self, groups: Mapping[str, LeaseGroup]) -> None:
        """`groups`: by name; exactly one of them sends the echoes that all of them rely on."""
        self._groups = dict(groups)

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        """Take the event; what must now be done, in this order."""
        effects: list[Effect] = []
        for group in self._concerned(event):
            effects += group.step(event, now_ns)
        closed = [effect for effect in effects if isinstance(effect, CloseConnection)]
        for each in closed:  # of one group, but its messages were not the only ones to be lost
            for group in self._groups.values():
                effects += group.step(Disconnected(each.broker), now_ns)
        return effects

    def next_wakeup_ns(self) -> int:
        """When `step` has to be called again at the latest, with a `Tick` if nothing else."""
        return min(group.next_wakeup_ns() for group in self._groups.values())

    def view(self) -> tuple[KeyView, ...]:
        """Where this node stands with each key, as of the last step."""
        return tuple(chain.from_iterable(group.view() for group in self._groups.values()))

    def yields_pending(self) -> bool:
        """A yield waits for its turn: do not disconnect yet."""
        return any(group.yields_pending() for group in self._groups.values())

    def last_words(self, keys: Mapping[str, str | None]) -> list[Effect]:
        """What a guardian publishes when this process dies: see `LeaseGroup.last_words`."""
        return list(chain.from_iterable(g.last_words(keys) for g in self._groups.values()))

    def _concerned(self, event: Event) -> list[LeaseGroup]:
        match event:
            case Heard() | Unreadable() | SetKeys():
                group = self._groups.get(event.group)
                return [] if group is None else [group]
            case Want() | Rank() | Withdrawn() | HandOver() | Occupied():
                return [group for group in self._groups.values() if group.has(event.key)]
            case Subscribed() | Disconnected() | EchoReturned() | Tick():
                return list(self._groups.values())
