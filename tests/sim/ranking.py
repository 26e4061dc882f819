"""How a simulated agent knows which nodes are there, and what follows for who should own what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.core.lease_types import HandOver, LeaseMessage, Rank, Reason, Role
from piagent.core.ledger import Candidate
from piagent.core.placement import Placement, place
from piagent.core.rebalance import excess
from tests.sim.broker import Connection
from tests.sim.world import MS, S

if TYPE_CHECKING:
    from tests.sim.agent import SimAgent

_QUIET_NS = 3 * S
"""Nobody hands a VIP over to even out before the membership was the same for so long."""
_SOON_NS = 5 * MS


class Ranking:
    """Presence in, ranks and hand-overs out; idle in houses with fixed ranks."""

    def __init__(self, agent: SimAgent) -> None:
        self._agent = agent
        self._world = agent.world
        self._on = agent.world.options.placed
        self._me = agent.who[0]
        self._present: dict[str, dict[str, str]] = {}
        """Node -> broker -> the connection that it is present by."""
        self._owner: dict[str, str] = {}
        self._changed_at = self._world.now
        self._pending = False
        if self._on:
            self._agent.later(S, self._even_out)

    def connected(self, connection: Connection) -> None:
        """Forget what the broker retained for the last connection, and say that we are here."""
        if self._on:
            for at in self._present.values():
                at.pop(connection.broker.label, None)
            self._say(connection)

    def _say(self, connection: Connection) -> None:
        topic = f"piagent/sim/s/{self._me}"
        connection.will = topic, f"0 {connection.name}".encode()
        connection.send((topic, f"1 {connection.name}".encode()))

    def heard(self, connection: Connection, node: str, payload: bytes) -> None:
        """A node is there by one of its connections, or not any more."""
        said, name = payload.decode().split()
        label, before = connection.broker.label, self._online()
        at = self._present.setdefault(node, {})
        if said == "1":
            at[label] = name
        elif at.get(label, name) == name:
            at.pop(label, None)
        if node == self._me and said == "0" and name != connection.name:
            self._say(connection)  # the will of our former connection came late
        if self._online() != before:
            self._changed_at = self._world.now
            self.stale()

    def _online(self) -> set[str]:
        return {self._me, *(node for node, at in self._present.items() if at)}

    def owners_heard(self, message: LeaseMessage) -> None:
        """Who says that it owns what."""
        if not self._on:
            return
        node = message.node
        says = {key for key, said in message.asserts.items() if said.role is Role.OWNER}
        knew = {key for key, owner in self._owner.items() if owner == node}
        if says != knew:
            for key in knew - says:
                del self._owner[key]
            self._owner.update(dict.fromkeys(says, node))
            self.stale()

    def stale(self) -> None:
        """What ranks are computed from has changed."""
        if self._on and not self._pending:
            self._pending = True
            self._agent.later(_SOON_NS, self._rank)

    def _place(self) -> Placement:
        owners = {key: node for key, node in self._owner.items() if node != self._me}
        owners |= {view.key: self._me for view in self._agent.core.view() if view.until_ns}
        candidates = [Candidate(name=node) for node in self._online()]
        return place(self._agent.host.setup.keys, candidates, owners)

    def _rank(self) -> None:
        self._pending = False
        for key, rank in self._place().ranks(self._me).items():
            self._agent.step(Rank(key, rank))

    def _even_out(self) -> None:
        self._agent.later(S, self._even_out)
        if self._world.now - self._changed_at >= _QUIET_NS:
            for move in excess(self._place()):
                if move.giver == self._me and self._agent.host.prepare(move.taker):
                    self._agent.step(HandOver(move.key, move.taker, Reason.BALANCED))
