"""Which other nodes seem to be there; decides who claims first, never who owns."""

from __future__ import annotations

from piagent.agent.letters import Peer

MAX_PEERS = 100
"""Anybody with access to a broker can invent nodes."""


class Peers:
    """Nodes by what the brokers retain of their presence."""

    def __init__(self, node: str) -> None:
        """`node`: this one, which is always there."""
        self._node = node
        self._seen: dict[str, set[str]] = {}

    def note(self, peer: Peer) -> bool:
        """Take note of a presence; whether the list of nodes is another now."""
        before = self.online()
        at = self._seen.setdefault(peer.node, set())
        if peer.online:
            at.add(peer.broker)
        else:
            at.discard(peer.broker)
        if not at or len(self._seen) > MAX_PEERS:
            del self._seen[peer.node]
        return self.online() != before

    def forget(self, broker: str) -> None:
        """A new connection to the broker will say anew what it retains."""
        for node in [node for node, at in self._seen.items() if at == {broker}]:
            del self._seen[node]
        for at in self._seen.values():
            at.discard(broker)

    def online(self) -> tuple[str, ...]:
        """The nodes that at least one broker believes to be there, this one included."""
        return tuple(sorted({self._node, *self._seen}))
