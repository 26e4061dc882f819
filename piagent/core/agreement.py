"""Which assignments are in force: those that a majority of the brokers carry.

The leader says all of them in one message, with a stamp that only rises: the epoch of its
leadership, then a number. What is in force was carried, the same, by a majority of the brokers,
and a node never goes back to less. A leader claims its leadership through a majority of the
brokers, too, and each broker keeps messages in order: so what a former leader got into force was
heard by its successor before that one could act, and what comes out of a broker behind the
successor's claim is void. That is the two-phase rule of Paxos (Lamport, Paxos Made Simple, 2.2)
with claims as `prepare` and the assignments as one value that is `accept`ed; the lease adds that
nobody competes.
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
        self._leader_epoch: dict[str, int] = {}
        self.in_force = known
        self.newest = known
        """The latest that was heard of at all, in force or not."""

    def heard(self, broker: str, said: Assignments, *, fresh: bool) -> bool:
        """Take what a broker carries; whether other assignments are in force now.

        `fresh`: published just now, so behind what was heard of leaders at this broker.
        """
        if fresh and said.epoch < self._leader_epoch.get(broker, 0):
            return False
        before = self._carried.get(broker)
        if before is not None and said.stamp < before.stamp:
            return False
        self._carried[broker] = said
        if self.newest is None or said.stamp > self.newest.stamp:
            self.newest = said
        return self._decide(said)

    def leader_spoke(self, broker: str, epoch: int) -> None:
        """A claim of the leadership, or its owner's word, came from the broker."""
        self._leader_epoch[broker] = max(epoch, self._leader_epoch.get(broker, 0))

    def forget(self, broker: str) -> None:
        """The connection is gone; the next one says anew what the broker carries."""
        self._carried.pop(broker, None)

    def carries(self, broker: str) -> Assignments | None:
        """What the broker carries, as far as is heard."""
        return self._carried.get(broker)

    def _decide(self, said: Assignments) -> bool:
        if self.in_force is not None and said.stamp <= self.in_force.stamp:
            return False
        if sum(one == said for one in self._carried.values()) < self._majority:
            return False
        self.in_force = said
        return True
