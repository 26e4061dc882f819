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
        at = self._seen.get(peer.node)
        if peer.online:
            if at is not None:
                at.add(peer.broker)
            elif len(self._seen) < MAX_PEERS:
                self._seen[peer.node] = {peer.broker}
                return peer.node != self._node
        elif at is not None:
            at.discard(peer.broker)
            if not at:
                del self._seen[peer.node]
                return peer.node != self._node
        return False

    def forget(self, broker: str) -> None:
        """A new connection to the broker will say anew what it retains."""
        for node in [node for node, at in self._seen.items() if at == {broker}]:
            del self._seen[node]
        for at in self._seen.values():
            at.discard(broker)

    def online(self) -> tuple[str, ...]:
        """The nodes that at least one broker believes to be there, this one included."""
        return tuple(sorted({self._node, *self._seen}))
