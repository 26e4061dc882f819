"""Who can move at once: to what nobody has, or to what its holder leaves in the same moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

_Name = TypeVar("_Name", bound=Hashable)


def movable(
    names: Iterable[_Name],
    blockers: Mapping[_Name, Collection[_Name]],
    claim: Callable[[_Name], bool],
) -> list[_Name]:
    """The names that can all have what they want at once, when they all leave what they have.

    `blockers` are those who have what a name wants; only if they are themselves among the names do
    they leave it. `claim` is called for each name in order, and says whether what it wants is left
    over by those before it.
    """
    possible = _without(list(names), (), blockers)
    lost = [name for name in possible if not claim(name)]
    return _without(possible, lost, blockers)


def _without(
    names: Sequence[_Name], lost: Iterable[_Name], blockers: Mapping[_Name, Collection[_Name]]
) -> list[_Name]:
    """The names without those that are lost, or blocked by one that is not left."""
    left = dict.fromkeys(names)
    waiting: defaultdict[_Name, list[_Name]] = defaultdict(list)
    gone = list(lost)
    for name in names:
        for blocker in blockers[name]:
            waiting[blocker].append(name)
        gone += [name for blocker in blockers[name] if blocker not in left]
    while gone:
        name = gone.pop()
        if name in left:
            del left[name]
            gone += waiting[name]
    return list(left)
