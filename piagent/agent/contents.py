"""What was applied, by the digest of its content: in force, about to be, or just heard of."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from piagent.config.applied import read_record
from piagent.core.assignments import Assignments
from piagent.core.catalog import CatalogReason, Note, Thing
from piagent.core.records import Record, digest

MAX_RECORDS = 2000
"""Contents that are remembered, in force or not."""


class Contents:
    """Remembers records, and what they mean."""

    def __init__(self, records: Iterable[Record]) -> None:
        """Know these from the start."""
        self._records = {digest(record): record for record in records}
        self._things: dict[str, Thing | str] = {}

    def add(self, record: Record) -> tuple[str, bool]:
        """Know one more; its digest, and whether it is new here."""
        mark = digest(record)
        new = self._records.pop(mark, None) is None
        self._records[mark] = record  # the last one of all
        return mark, new

    def is_full(self) -> bool:
        """Whether it is time to forget what is not needed."""
        return len(self._records) >= MAX_RECORDS

    def record(self, mark: str) -> Record | None:
        """The content of a digest, if it is here."""
        return self._records.get(mark)

    def records(self, said: Assignments | None) -> dict[str, Record]:
        """What is applied by these assignments, as far as it is here."""
        applied = () if said is None else said.applied()
        found = ((key, self._records.get(one.digest)) for key, one in applied)
        return {key: record for key, record in found if record is not None}

    def things(self, said: Assignments | None) -> dict[str, Thing | Note]:
        """The same as what it means, or why it is not here."""
        found: dict[str, Thing | Note] = {}
        for key, applied in () if said is None else said.applied():
            thing = self._thing(applied.digest)
            if thing is None:
                detail = f"version {applied.version} has not come yet"
                found[key] = Note(key, CatalogReason.NOT_HERE_YET, detail)
            elif isinstance(thing, str):
                found[key] = Note(key, CatalogReason.UNREADABLE, thing)
            else:
                found[key] = thing
        return found

    def keep(self, marks: Collection[str]) -> None:
        """Forget the others but for the latest, which may be about to come into force."""
        kept = {*marks, *list(self._records)[-MAX_RECORDS // 2 :]}
        self._records = {mark: one for mark, one in self._records.items() if mark in kept}
        self._things = {mark: one for mark, one in self._things.items() if mark in kept}

    def _thing(self, mark: str) -> Thing | str | None:
        if mark not in self._things:
            record = self._records.get(mark)
            if record is None:
                return None
            self._things[mark] = read_record(record)
        return self._things[mark]
