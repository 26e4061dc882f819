"""Which assignments are in force: those that a majority of the brokers carry.

The leader says all of them in one message, with a stamp that only rises: the epoch of its
leadership, then a number. That makes each broker, which keeps messages in order, an acceptor of
Paxos (Lamport, Paxos Made Simple, section 2.2): number 0 is a new leader's `prepare`, after which
nothing older counts at that broker, the others are `accept`s. What was in force under a former
leader was carried by a majority, so its successor has heard of it when a majority has returned the
`prepare`; it begins with the newest of what it has heard. Neither needs the lease for that: it
keeps leaders from getting in each other's way.

Who connects later hears only the last message of each broker. What a former leader's delayed
message has put there is put right by the leader as soon as it hears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piagent.core.assignments import Assignments


class Agreement:
    """What each broker carries, as one node hears it, and what follows from that."""

    def __init__(self, brokers: Sequence[str], known: Assignments | None = None) -> None:
        """`known`: what was in force when this node was here before."""
        self._majority = len(brokers) // 2 + 1
        self._carried: dict[str, Assignments] = {}
        self.in_force = known
        self.newest = known
        """The latest content that was heard of at all, in force or not, maybe from a `prepare`."""

    def heard(self, broker: str, said: Assignments) -> bool:
        """Take what a broker carries; whether other assignments are in force now."""
        before = self._carried.get(broker)
        if before is not None and said.stamp < before.stamp:
            return False
        self._carried[broker] = said
        if said.told > (self.newest.told if self.newest is not None else (0, 0)):
            self.newest = said
        if said.number == 0:
            return False
        if self.in_force is not None and said.stamp <= self.in_force.stamp:
            return False
        if not self.is_carried(said):
            return False
        self.in_force = said
        return True

    def forget(self, broker: str) -> None:
        """The connection is gone; the next one says anew what the broker carries."""
        self._carried.pop(broker, None)

    def carries(self, broker: str) -> Assignments | None:
        """What the broker carries, as far as is heard."""
        return self._carried.get(broker)

    def is_carried(self, said: Assignments) -> bool:
        """Whether a majority of the brokers carries exactly this."""
        return sum(one == said for one in self._carried.values()) >= self._majority
