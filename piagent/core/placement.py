"""Which node should own which VIP: the order in which candidates claim it, and why.

Nobody decides for the others. Every node computes the same from the same: who is there, and who
owns what. The views may differ for a moment; a placement only says who claims first, and the lease
says who owns. So every node that may own a key has a place in its order, the last ones too.

Who owns a key and is well stands first for it: nothing here takes a key from its owner
(core/rebalance.py says what an owner should give away). For a free key the first is who

1. may own it,
2. has room: fewer keys than its share (`Ledger`),
3. is in the better health class,
4. is in the zone with fewer of the keys,
5. has fewer of the keys itself, for its weight,
6. is named first in the file,
7. comes first in the key's own order of the nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from piagent.core.lease_types import Reason
from piagent.core.ledger import Candidate, Criterion, Ledger, score


class Verdict(Struct, frozen=True):
    """Why a node is not the first for a key."""

    node: str
    reason: Reason | Criterion
    """Its own reason to refuse the key, or the criterion by which it stands behind the first."""
    detail: str
    """In words, with the figures."""


class Placement:
    """Who should own which key, as `place` computed it; what is asked is worked out when asked."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.share: Mapping[str, int] = ledger.share
        """Node -> at most so many keys."""
        self.load: Mapping[str, int] = ledger.load
        """Node -> so many keys when everybody owns what it stands first for."""
        self._tiers = {
            node: (not ledger.has_room(node), -ledger.health_class(node), ledger.preference(node))
            for node in ledger.zone
        }

    def books(self) -> Ledger:
        """A copy of what it was computed from, to go on with."""
        return self._ledger.copy()

    def first(self, key: str) -> str | None:
        """The key's owner, if that may keep it; else who should claim it. None: nobody may."""
        return self._ledger.at.get(key)

    def order(self, key: str) -> tuple[str, ...]:
        """All that may own the key: the first, then those with room, then those without.

        Among these the healthier stand before the others, then those that the file names before the
        others, then it is the key's own order. KeyError: not one of the keys.
        """
        first = self.first(key)
        return tuple(
            sorted(
                self._ledger.eligible(key),
                key=lambda node: (node != first, self._tiers[node], score(key, node)),
            )
        )

    def rank(self, key: str, node: str) -> int | None:
        """The node's place in the key's order; 0 claims first. None: it may not own the key.

        KeyError: not one of the keys.
        """
        nodes = self._ledger.eligible(key)
        if not self._ledger.may_own(key, node):
            return None
        if node == (first := self.first(key)):
            return 0
        own_tier, own_score = self._tiers[node], score(key, node)
        ahead = 1
        for other in nodes:
            tier = self._tiers[other]
            if tier <= own_tier and other != first:
                ahead += tier < own_tier or score(key, other) < own_score
        return ahead

    def ranks(self, node: str) -> dict[str, int]:
        """Key -> the node's rank, for all that it may own."""
        places = ((key, self.rank(key, node)) for key in self._ledger.group)
        return {key: place for key, place in places if place is not None}

    def verdicts(self, key: str) -> tuple[Verdict, ...]:
        """Why each of the others is not the first, by name. KeyError: not one of the keys."""
        eligible, first = self._ledger.eligible(key), self.first(key)
        result = []
        for node, candidate in self._ledger.candidates.items():
            if node in self._ledger.barred:
                why = self._ledger.barred[node]
                result.append(Verdict(node, why, _BARRED[why]))
            elif node not in eligible:
                reason = candidate.refuses[key]
                result.append(Verdict(node, reason, f"{node} refuses it: {reason}"))
            elif first is not None and node != first:
                result.append(self._behind(node, first, kept=key in self._ledger.kept))
        return tuple(result)

    def _behind(self, node: str, first: str, *, kept: bool) -> Verdict:
        """By which criterion a node stands behind the first of a key, that one's load included."""
        books = self._ledger
        if kept:
            return Verdict(node, Criterion.OTHER_OWNS, f"{first} owns it and may keep it")
        if not books.has_room(node):
            detail = f"has {books.load[node]} of at most {books.share[node]}"
            return Verdict(node, Criterion.NO_ROOM, detail)
        if books.health_class(node) < books.health_class(first):
            mine, theirs = (books.candidates[one].health for one in (node, first))
            return Verdict(node, Criterion.HEALTH, f"health {mine} %, {first} {theirs} %")
        mine, theirs = (books.zone_load[books.zone[one]] for one in (node, first))
        if books.zone[node] != books.zone[first] and mine > theirs - 1:
            detail = f"its zone has {mine}, that of {first} {theirs - 1} without this one"
            return Verdict(node, Criterion.ZONE, detail)
        mine, theirs = books.load[node], books.load[first]
        if books.load_of(mine + 1, node) > books.load_of(theirs, first):
            detail = f"has {mine}, {first} {theirs - 1} without this one"
            return Verdict(node, Criterion.LOAD, detail)
        if books.preference(node) > books.preference(first):
            return Verdict(node, Criterion.PREFERENCE, f"the file names {first} before it")
        return Verdict(node, Criterion.ORDER, f"equal to {first}; the key's own order decides")


_BARRED = {
    Criterion.WEIGHT_ZERO: "its vip_weight is 0: it never owns",
    Criterion.DRAINING: "it is being drained",
    Criterion.NOT_NAMED: "the file names the candidates, and not this one",
}


def place(
    keys: Iterable[str],
    candidates: Iterable[Candidate],
    owners: Mapping[str, str],
    preference: Sequence[str] = (),
) -> Placement:
    """Say for each key who should own it, and who claims it in which order.

    `candidates`: the nodes that are there, each once. `owners`: key -> the node that was heard to
    own it. `preference`: the candidates that the file names, the preferred one first; empty: all.
    The order of keys, candidates and owners does not matter.
    """
    ledger = Ledger(keys, candidates, owners, preference)
    ledger.fill()
    return Placement(ledger)


def rank(key: str, node: str, candidates: Sequence[str], known: Collection[str] = ()) -> int:
    """Tell the node's place among the candidates of one key alone; 0 claims first.

    Candidates named in the file stand in order of preference; who is not among them comes last.
    Without names it is the key's own order of the `known` nodes and this one.
    """
    if candidates:
        return candidates.index(node) if node in candidates else len(candidates)
    return sorted({node, *known}, key=lambda other: score(key, other)).index(node)
