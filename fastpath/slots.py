"""Small numbers for names: the same name keeps its number from one set of tables to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Slots:
    """Who has which number. Never changed: `assign` makes a new one, for the engine to keep."""

    what: str
    """What is numbered, for errors."""
    limit: int
    """How many numbers there are; half as many may be in use, so that all can be replaced."""
    used: Mapping[Hashable, int] = field(default_factory=dict)
    retired: tuple[int, ...] = ()
    """Numbers whose names are gone, the longest ago first."""
    n_fresh: int = 0
    """Numbers from here on were never used."""

    def assign(self, names: Iterable[Hashable], is_free: Callable[[int], bool]) -> Slots:
        """Number `names`; fresh numbers first, so that a retired one rests as long as possible.

        `is_free` tells whether a retired number may be used again: nothing refers to it any more.
        Raises ValueError when there are too many names.
        """
        wanted = dict.fromkeys(names)
        if len(wanted) > self.limit // 2:
            raise ValueError(f"{len(wanted)} {self.what}, more than {self.limit // 2}")
        used = {name: slot for name, slot in self.used.items() if name in wanted}
        retired = list(self.retired)
        n_fresh = self.n_fresh
        for name in wanted:
            if name in used:
                continue
            if n_fresh < self.limit:
                used[name] = n_fresh
                n_fresh += 1
                continue
            slot = next((slot for slot in retired if is_free(slot)), None)
            if slot is None:
                raise ValueError(f"too many {self.what} of the tables before are still in use")
            retired.remove(slot)
            used[name] = slot
        retired += [slot for name, slot in self.used.items() if name not in wanted]
        return Slots(self.what, self.limit, used, tuple(retired), n_fresh)
