"""The books of a placement: who may own which key, how many each node may, and who has which.

A key is whatever has one owner, a VIP as a rule. Everything here is integers and names in a fixed
order, so that every machine computes the same.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from heapq import heapify, heapreplace
from math import lcm

from msgspec import Struct

from piagent.core.lease_types import Reason

HEALTH_CLASS = 25
"""Percent of health that make one class: within a class no node counts as healthier."""

_SCALE = 1 << 32
"""Loads are compared to 2**-32 of a key."""


class Candidate(Struct, frozen=True, kw_only=True):
    """A node that is there, as it describes itself."""

    name: str
    weight: int = 100
    """Its part of the keys, relative to the others'; 0: it never owns one."""
    health: int = 100
    """Percent; lowers its part (core/vitals.py)."""
    zone: str = ""
    """Failure domain; empty: one of its own."""
    draining: bool = False
    """It gives up what it owns, and takes nothing."""
    refuses: Mapping[str, Reason] = {}
    """Key -> why this node says that it must not own it."""


class Criterion(StrEnum):
    """Why a node is not the one for a key; besides the reasons for which it refuses it itself."""

    WEIGHT_ZERO = "weight-zero"
    DRAINING = "draining"
    NOT_NAMED = "not-named"
    """The file names the candidates, and not this one."""
    OTHER_OWNS = "other-owns"
    """Whoever owns a key and is well keeps it."""
    NO_ROOM = "no-room"
    """It has its share already."""
    HEALTH = "health"
    ZONE = "zone"
    """Its zone has more of the keys."""
    LOAD = "load"
    """It has more of the keys itself, for its weight."""
    PREFERENCE = "preference"
    """The file names the other one first."""
    ORDER = "order"
    """Nothing tells them apart but the key's own order of the nodes."""


Within = tuple[bool, int, int, int, str]
"""How a node stands in its zone; less is better."""
Standing = tuple[bool, int, int, int, int, str]
"""How a node stands among all: full, health class, keys in its zone, load, preference, name."""


def score(key: str, node: str) -> bytes:
    """The node's place in the key's own order of all nodes; less is better.

    Rendezvous hashing (Thaler and Ravishankar, 1998): each key has another order, and a node that
    comes or goes changes nothing in the order of the others.
    """
    return hashlib.sha256(f"{key}\0{node}".encode()).digest()


class Ledger:
    """Who may own what, how much of it, and who has it; `fill` gives out what nobody has."""

    def __init__(
        self,
        keys: Iterable[str],
        candidates: Iterable[Candidate],
        owners: Mapping[str, str],
        preference: Sequence[str],
    ) -> None:
        """Begin with what is owned by nodes that may keep it; everything else is free."""
        self.candidates = {one.name: one for one in sorted(candidates, key=lambda one: one.name)}
        self.preferred = tuple(preference)
        """The candidates that the file names, in its order; empty: all."""
        self._preference = {name: place for place, name in enumerate(preference)}
        self.barred = {
            name: why
            for name, one in self.candidates.items()
            if (why := self._why_barred(one)) is not None
        }
        """Nodes that may own nothing, and why."""
        self._able = [one for name, one in self.candidates.items() if name not in self.barred]
        self._capacity = {one.name: one.weight * min(max(one.health, 0), 100) for one in self._able}
        zoned = any(one.zone for one in self._able)
        self.zone = {one.name: one.zone or (f"\0{one.name}" if zoned else "") for one in self._able}
        self.groups: list[tuple[str, ...]] = []
        """Each set of nodes that may own some key, sorted."""
        self.group: dict[str, int] = {}
        """Key -> the set of those that may own it."""
        self._make_groups(keys)
        self.share = dict.fromkeys(self.candidates, 0) | self._shares()
        self.load = dict.fromkeys(self.candidates, 0)
        self.zone_load: Counter[str] = Counter()
        self.at: dict[str, str] = {}
        """Key -> who has it, or is to claim it."""
        for key in self.group:
            owner = owners.get(key)
            if owner is not None and self.may_own(key, owner):
                self.at[key] = owner
                self._count(owner, 1)
        self.kept = frozenset(self.at)
        """Keys that have an owner who may keep them."""

    def copy(self) -> Ledger:
        """Books of one's own to go on with."""
        other = copy.copy(self)
        other.load = dict(self.load)
        other.zone_load = Counter(self.zone_load)
        other.at = dict(self.at)
        return other

    def _why_barred(self, one: Candidate) -> Criterion | None:
        if one.weight <= 0:
            return Criterion.WEIGHT_ZERO
        if one.draining:
            return Criterion.DRAINING
        if self._preference and one.name not in self._preference:
            return Criterion.NOT_NAMED
        return None

    def _make_groups(self, keys: Iterable[str]) -> None:
        refusing: dict[str, list[str]] = {key: [] for key in sorted(set(keys))}
        for one in self._able:
            for key in one.refuses:
                if key in refusing:
                    refusing[key].append(one.name)
        known: dict[tuple[str, ...], int] = {}
        for key, without in refusing.items():
            group = known.setdefault(tuple(without), len(known))
            if group == len(self.groups):
                self.groups.append(tuple(name for name in self._capacity if name not in without))
            self.group[key] = group

    def _shares(self) -> dict[str, int]:
        """At most so many keys for each node.

        Each key is cut up among those that may own it, in proportion to weight and health, and a
        node's parts are rounded up to whole keys. As that is a way to give out all keys in parts,
        there is a way to give them out whole that leaves nobody above its share (flows with whole
        bounds have whole solutions: Ford and Fulkerson, 1962).
        """
        sizes = Counter(group for group in self.group.values() if self.groups[group])
        parts = {group: self._parts(self.groups[group]) for group in sizes}
        common = lcm(*(sum(part.values()) for part in parts.values()))
        exact = dict.fromkeys(self._capacity, 0)
        for group, part in parts.items():
            factor = sizes[group] * (common // sum(part.values()))
            for node, capacity in part.items():
                exact[node] += factor * capacity
        return {node: -(-amount // common) for node, amount in exact.items()}

    def _parts(self, nodes: tuple[str, ...]) -> dict[str, int]:
        parts = {node: self._capacity[node] for node in nodes}
        if any(parts.values()):
            return parts
        return {node: self.candidates[node].weight for node in nodes}  # all of them are sick

    def may_own(self, key: str, node: str) -> bool:
        """Whether the node is there and nothing speaks against its owning the key."""
        return node in self._capacity and key not in self.candidates[node].refuses

    def eligible(self, key: str) -> tuple[str, ...]:
        """All that may own the key, sorted."""
        return self.groups[self.group[key]]

    def has_room(self, node: str) -> bool:
        """Whether the node has less than its share."""
        return self.load[node] < self.share[node]

    def health_class(self, node: str) -> int:
        """More is better."""
        return min(max(self.candidates[node].health, 0), 100) // HEALTH_CLASS

    def preference(self, node: str) -> int:
        """Less is better; all the same when the file has no preference."""
        return self._preference.get(node, 0)

    def load_of(self, keys: int, node: str) -> int:
        """What so many keys weigh at this node."""
        return keys * _SCALE // max(self._capacity[node], 1)

    def standing(self, node: str) -> Standing:
        """How the node stands for one more key."""
        return self._between(self._within(node))

    def _within(self, node: str) -> Within:
        return (
            not self.has_room(node),
            -self.health_class(node),
            self.load_of(self.load[node] + 1, node),
            self.preference(node),
            node,
        )

    def _between(self, one: Within) -> Standing:
        full, health, load, preference, node = one
        return full, health, self.zone_load[self.zone[node]], load, preference, node

    def _count(self, node: str, by: int) -> None:
        self.load[node] += by
        self.zone_load[self.zone[node]] += by

    def fill(self) -> None:
        """Give every free key that somebody may own to a node; keys with few candidates first.

        First it is settled how many keys each node gets, then which. So it does not matter how
        many of them have already been claimed: what is left goes where it would have gone.
        """
        free: dict[int, list[str]] = {}
        for key, group in self.group.items():
            if key not in self.at and self.groups[group]:
                free.setdefault(group, []).append(key)
        for group in sorted(free, key=lambda group: (len(self.groups[group]), group)):
            places = self._choose(self.groups[group], len(free[group]))
            for key in free[group]:
                node = min(places, key=lambda node: score(key, node))
                self.at[key] = node
                places[node] -= 1
                if places[node] == 0:
                    del places[node]
        self.relieve([key for keys in free.values() for key in keys])

    def _choose(self, nodes: tuple[str, ...], count: int) -> Counter[str]:
        """Count `count` more keys to the nodes, each to the one that stands best at that moment."""
        zones: dict[str, list[Within]] = {}
        for node in nodes:
            zones.setdefault(self.zone[node], []).append(self._within(node))
        for heap in zones.values():
            heapify(heap)
        best = [self._between(heap[0]) for heap in zones.values()]
        heapify(best)
        chosen: Counter[str] = Counter()
        for _ in range(count):
            node = best[0][-1]
            self._count(node, 1)
            chosen[node] += 1
            heap = zones[self.zone[node]]
            heapreplace(heap, self._within(node))
            heapreplace(best, self._between(heap[0]))
        return chosen

    def relieve(self, movable: Collection[str]) -> None:
        """Take keys from nodes that have more than their share, as few as will do.

        Where nobody with room may own any of them, a node without room passes on another key: the
        shortest chain of such steps is taken (augmenting paths, as in bipartite matching).
        """
        movable = sorted(movable)
        for giver in self._capacity:
            while self.load[giver] > self.share[giver]:
                chain = self._chain(giver, movable)
                if not chain:
                    break
                for key, taker in chain:
                    self.move(key, taker)

    def move(self, key: str, taker: str) -> None:
        """Have another node have the key."""
        self._count(self.at[key], -1)
        self.at[key] = taker
        self._count(taker, 1)

    def _chain(self, giver: str, movable: Sequence[str]) -> list[tuple[str, str]]:
        """(key, taker) from a node with room back to the giver; empty when there is no way."""
        offers: dict[str, dict[int, str]] = {}
        for key in movable:
            offers.setdefault(self.at[key], {}).setdefault(self.group[key], key)
        origin: dict[str, tuple[str, str]] = {}
        reached, edge = {giver}, [giver]
        while edge:
            found = []
            for node in edge:
                for group, key in offers.get(node, {}).items():
                    for taker in self.groups[group]:
                        if taker not in reached:
                            reached.add(taker)
                            origin[taker] = key, node
                            found.append(taker)
            if ends := [node for node in found if self.has_room(node)]:
                return _way_back(origin, min(ends, key=self.standing))
            edge = found
        return []


def _way_back(origin: Mapping[str, tuple[str, str]], end: str) -> list[tuple[str, str]]:
    chain = []
    while end in origin:
        key, node = origin[end]
        chain.append((key, end))
        end = node
    return chain
