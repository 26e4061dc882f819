"""Which VIPs owners should hand over while all is well: to even out, and to preferred nodes.

Moves are planned hand-overs, made by the owner when the cluster has been quiet for a while. Like a
placement they are computed by everybody and the same everywhere; an owner makes those that it is
the giver of. Nothing is ever moved there and back: evening out only gives to nodes with room, of
which it takes away until nobody has more than its share, and a preferred node takes only while it
has room.
"""

from __future__ import annotations

from msgspec import Struct

from piagent.core.ledger import Ledger
from piagent.core.placement import Placement


class Move(Struct, frozen=True):
    """A key that its owner should hand over."""

    key: str
    giver: str
    taker: str


def excess(placement: Placement) -> tuple[Move, ...]:
    """All the moves after which nobody owns more than its share, by key.

    As few as will do when every node may own every key. Where some refuse some keys, a node may
    have to pass on one key to make room for another. Keys without an owner are none to be moved;
    what they will take up is counted.
    """
    books = placement.books()
    books.relieve(tuple(books.at))
    return _moves(placement, books)


def preempted(placement: Placement) -> tuple[Move, ...]:
    """All the moves that give keys back to the nodes that the file prefers, by key.

    A preferred node gets what it has room for, from the least preferred owners first. Preference is
    the last of the criteria that the file has a say in: a key does not move to a node in a worse
    health class, nor to a zone or a node that would then have more than the owner's has now.
    """
    books = placement.books()
    for taker in books.preferred:
        for key in sorted(books.kept, key=lambda key: (-books.preference(books.at[key]), key)):
            if books.may_own(key, taker) and _prefers(books, books.at[key], taker):
                books.move(key, taker)
    return _moves(placement, books)


def _prefers(books: Ledger, giver: str, taker: str) -> bool:
    """Whether a key of the giver's is no worse off at the taker, and that is preferred."""
    if books.preference(taker) >= books.preference(giver) or not books.has_room(taker):
        return False
    if books.health_class(taker) < books.health_class(giver):
        return False
    ours, theirs = books.zone[taker], books.zone[giver]
    if ours != theirs and books.zone_load[ours] + 1 > books.zone_load[theirs]:
        return False
    taken, given = books.load[taker] + 1, books.load[giver]
    return books.load_of(taken, taker) <= books.load_of(given, giver)


def _moves(before: Placement, after: Ledger) -> tuple[Move, ...]:
    return tuple(
        Move(key, giver, after.at[key])
        for key in sorted(after.kept)
        if (giver := before.first(key)) is not None and giver != after.at[key]
    )
