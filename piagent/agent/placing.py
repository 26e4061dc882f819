"""Placement at work: what is known of the nodes -> who claims first, who is next, what to move."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from piagent.agent.letters import Letters
from piagent.agent.members import Members, candidate
from piagent.core.lease_types import LEADER, KeyView, Reason, State
from piagent.core.model import Config
from piagent.core.placement import Placement, place, rank
from piagent.core.rebalance import Move, excess, preempted


class Placing:
    """Keeps a placement of all VIPs over the nodes that are there."""

    def __init__(
        self,
        letters: Letters,
        members: Members,
        config: Callable[[], Config],
        views: Callable[[], tuple[KeyView, ...]],
    ) -> None:
        """`views`: where this node stands with each key, and whom it heard to own it."""
        self._letters = letters
        self._members = members
        self._config = config
        self._views = views
        self._quiet_since_s = time.monotonic()
        self.placement = self._place(frozenset())

    def refresh(self, silent: Collection[str] = ()) -> dict[str, int]:
        """Compute anew; key -> this node's rank. `silent`: nodes that are heard no more."""
        self.placement = self._place(frozenset(silent))
        return self.ranks()

    def unsettle(self) -> None:
        """The members have changed: what is evened out waits until they are quiet again."""
        self._quiet_since_s = time.monotonic()

    def ranks(self) -> dict[str, int]:
        """Key -> this node's place among those who claim it; the leadership included."""
        node = self._letters.node
        ranks = self.placement.ranks(node)
        return {**ranks, LEADER: rank(LEADER, node, (), self._members.all())}

    def successor(self, key: str) -> str | None:
        """Who should own the key if this node did not, of those that may claim it at once."""
        try:
            order = self.placement.order(key)
        except KeyError:  # the leadership, or a VIP that is not in the file any more
            return None
        others = (node for node in order if node != self._letters.node)
        return next((node for node in others if not self._is_listening(node)), None)

    def successors(self, keys: Collection[str]) -> dict[str, str | None]:
        """The same for many at once, spread over the nodes: as if this node were not there."""
        without = self._place(self._listening() | {self._letters.node})
        return {key: without.first(key) for key in keys}

    def _is_listening(self, node: str) -> bool:
        said = self._members.get(node)
        return said is not None and bool(said.listening)

    def _listening(self) -> frozenset[str]:
        """Nodes that came lately: what is yielded to them would wait for them."""
        return frozenset(name for name, said in self._members.all().items() if said.listening)

    def move(self) -> tuple[Move, Reason] | None:
        """What this node should hand over now, all having been quiet for long enough."""
        election = self._config().election
        quiet_ms = (time.monotonic() - self._quiet_since_s) * 1000
        if election.rebalance_ms is not None and quiet_ms >= election.rebalance_ms:
            for move in excess(self.placement):
                if move.giver == self._letters.node:
                    return move, Reason.BALANCED
        if election.preempt_ms is not None and quiet_ms >= election.preempt_ms:
            for move in preempted(self.placement):
                if move.giver == self._letters.node:
                    return move, Reason.PREEMPTED
        return None

    def owners(self) -> dict[str, str]:
        """Key -> who owns it, as far as is heard."""
        owners: dict[str, str] = {}
        for view in self._views():
            if view.state is State.OWNER:
                owners[view.key] = self._letters.node
            elif view.owner is not None:
                owners[view.key] = view.owner[0]
        return owners

    def _place(self, absent: frozenset[str]) -> Placement:
        config = self._config()
        nodes = [candidate(name, said) for name, said in self._members.all().items()]
        nodes.append(candidate(self._letters.node, self._letters.described()))
        return place(
            config.vips(),
            [node for node in nodes if node.name not in absent],
            {key: owner for key, owner in self.owners().items() if key != LEADER},
            config.election.candidates,
        )
