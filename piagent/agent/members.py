"""Which nodes are there and what they say of themselves: hints for placement, never proofs."""

from __future__ import annotations

from piagent.agent.letters import Peer
from piagent.core.lease_types import Reason
from piagent.core.ledger import Candidate
from piagent.core.wire import Presence

MAX_MEMBERS = 2000
"""Presence is signed, so only members of the cluster can be many."""


class Members:
    """Nodes by their presence at each broker."""

    def __init__(self, node: str, incarnation: str) -> None:
        """`node`: this one, which is always there; `incarnation`: this life of it."""
        self._node = node
        self._incarnation = incarnation
        self._settled = False
        self._seen: dict[str, dict[str, Presence]] = {}
        self.twin: Presence | None = None
        """Another host with our name that was there before us."""

    def settle(self) -> None:
        """This life may claim, or could once: who comes now with our name is the second."""
        self._settled = True

    def note(self, peer: Peer) -> bool:
        """Take note of a presence; whether what is known of the others has changed."""
        if peer.node == self._node:
            return self._note_namesake(peer)
        before = self.get(peer.node)
        at = self._seen.get(peer.node, {})
        if peer.said.online and (at or len(self._seen) < MAX_MEMBERS):
            at[peer.broker] = peer.said
            self._seen[peer.node] = at
        elif not peer.said.online and _incarnation(at.get(peer.broker)) == peer.said.incarnation:
            del at[peer.broker]
            if not at:
                del self._seen[peer.node]
        return not _same(before, self.get(peer.node))

    def forget(self, broker: str) -> None:
        """A new connection to the broker will say anew what it retains."""
        for node, at in list(self._seen.items()):
            at.pop(broker, None)
            if not at:
                del self._seen[node]

    def get(self, node: str) -> Presence | None:
        """What the node said last; None when no broker believes it to be there."""
        at = self._seen.get(node)
        return max(at.values(), key=lambda said: said.started) if at else None

    def all(self) -> dict[str, Presence]:
        """Every other node that is there."""
        known = ((node, self.get(node)) for node in sorted(self._seen))
        return {node: said for node, said in known if said is not None}

    def has_mac(self, mac: str | None) -> bool:
        """Whether a hardware address, `02:00:00:00:00:01`, is that of another node."""
        return mac is not None and any(
            said.mac == mac.replace(":", "") for said in self.all().values()
        )

    def _note_namesake(self, peer: Peer) -> bool:
        """Of two hosts with one name the later one gives way (the lease keeps them apart anyway).

        What is retained may be of our own former life; who is alive answers to our presence.
        """
        said, before = peer.said, self.twin
        if said.incarnation == self._incarnation:
            return False
        if not said.online:
            if before is not None and before.incarnation == said.incarnation:
                self.twin = None
        elif peer.fresh and not self._was_first(said):
            self.twin = said
        return self.twin != before

    def _was_first(self, said: Presence) -> bool:
        """Whether this host was there before the other of its name; newcomers draw lots."""
        return self._settled or (bool(said.listening) and self._incarnation < said.incarnation)


def candidate(name: str, said: Presence) -> Candidate:
    """A node as placement sees it."""
    return Candidate(
        name=name,
        weight=said.weight,
        health=said.health,
        zone=said.zone,
        draining=bool(said.draining),
        refuses={vip: _reason(word) for vip, word in said.refuses.items()},
    )


def _reason(word: str) -> Reason:
    """A later version may know more reasons."""
    try:
        return Reason(word)
    except ValueError:
        return Reason.NOT_ELIGIBLE


def _incarnation(said: Presence | None) -> str:
    return "" if said is None else said.incarnation


def _same(one: Presence | None, other: Presence | None) -> bool:
    """But for the connection, which says nothing about the node."""
    if one is None or other is None:
        return one is other
    return (one.incarnation, one.listening, candidate("", one)) == (
        other.incarnation,
        other.listening,
        candidate("", other),
    )
