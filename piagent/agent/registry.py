"""What services there are: this node's file, what was applied, what the leader assigned.

Each node keeps all of it, and gives it back to a broker that has lost it: brokers are believed to
remember nothing. What is in force here stays in force until something newer is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from piagent.adapters.clock import wall_ms
from piagent.agent.bulletins import Bulletin, Bulletins
from piagent.config.applied import read_record
from piagent.core.agreement import Agreement
from piagent.core.assignments import Applied, Assignments, with_late
from piagent.core.bulletin import Wants, is_newer
from piagent.core.catalog import CatalogReason, Note, Thing
from piagent.core.model import Config
from piagent.core.records import Record, digest
from piagent.core.wants import Want, wants_of

GIVE_BACK_S = (0.2, 2.0)
"""After a connection began, at random between: a broker needs it from one node only."""
MAX_RECORDS = 2000
"""Contents that are remembered, in force or not."""


class Saved(Struct, frozen=True, kw_only=True):
    """What outlives this process."""

    assignments: Assignments | None = None
    records: tuple[Record, ...] = ()


class Publisher(Struct, frozen=True):
    """How to say something, retained."""

    to_all: Callable[[str, bytes], None]
    to_all_once: Callable[[str, bytes], None]
    """The same, not retained."""
    to_one: Callable[[str, str, bytes], None]
    """Broker, topic, payload."""


class Registry:
    """One node's knowledge of what is in force."""

    def __init__(
        self,
        *,
        brokers: Sequence[str],
        bulletins: Bulletins,
        publisher: Publisher,
        saved: Saved,
        save: Callable[[Saved], None],
        incarnation: str,
        file: Callable[[], Config],
        changed: Callable[[], None],
    ) -> None:
        """`changed`: something else is in force now, or others want something else."""
        self._bulletins = bulletins
        self._publisher = publisher
        self._save = save
        self._incarnation = incarnation
        self._file = file
        self._changed = changed
        self.agreement = Agreement(brokers, saved.assignments)
        self._records = {digest(record): record for record in saved.records}
        self._things: dict[str, Thing | str] = {}  # by digest
        self._serving: dict[str, Thing] = {}  # by key: what was last read
        self._carried: dict[str, dict[str, str]] = {}  # broker -> key -> digest
        self._wants: dict[str, Wants] = {}
        self._said = self._own_wants()

    # ---- heard --------------------------------------------------------------------------------

    def subscribed(self, broker: str) -> None:
        """A connection is up, and what its broker retains has been heard."""
        self._publisher.to_one(broker, *self._bulletins.wants(self._said))
        delay_s = random.uniform(*GIVE_BACK_S)  # noqa: S311 -- spreads work, hides nothing
        asyncio.get_running_loop().call_later(delay_s, self.give_back, broker)

    def disconnected(self, broker: str) -> None:
        """The next connection says anew what the broker carries."""
        self.agreement.forget(broker)
        self._carried.pop(broker, None)

    def hear(self, said: Bulletin) -> None:
        """Take note of what a broker carries."""
        if said.kind is Record:
            self._hear_record(said)
        elif isinstance(said.message, Assignments):
            before = self.agreement.in_force
            if self.agreement.heard(said.broker, said.message):
                self._remind(before, said.message)
                self._keep()
                self._changed()
        elif isinstance(said.message, Wants):
            self._hear_wants(said.key, said.message, fresh=said.fresh)

    def _remind(self, before: Assignments | None, now: Assignments) -> None:
        """Tell a leader that came without them what was applied before, as far as this one knows.

        That is so when all brokers lost their memory and the leader's own is old.
        """
        if before is not None and with_late(now, before) is not now:
            for _, applied in before.applied():
                if applied.digest in self._records:
                    record = self._records[applied.digest]
                    self._publisher.to_all(*self._bulletins.record(record))
            self._publisher.to_all(*self._bulletins.assignments(before))

    def _hear_record(self, said: Bulletin) -> None:
        at = self._carried.setdefault(said.broker, {})
        if isinstance(said.message, Record):
            mark = digest(said.message)
            at[said.key] = mark
            if mark not in self._records:
                if len(self._records) >= MAX_RECORDS:
                    self._keep()
                self._records[mark] = said.message
                if any(one.digest == mark for _, one in self._in_force()):
                    self._keep()
                    self._changed()
        else:
            at.pop(said.key, None)

    def _hear_wants(self, node: str, said: Wants, *, fresh: bool) -> None:
        if node == self._bulletins.node:
            if fresh and said.incarnation != self._incarnation:  # of a former life, come late
                self._publisher.to_all(*self._bulletins.wants(self._said))
            return
        before = self._wants.get(node)
        if before is None or is_newer(said, before, fresh=fresh):
            self._wants[node] = said
            if before is None or (before.pools, before.wants) != (said.pools, said.wants):
                self._changed()

    # ---- this node's file ---------------------------------------------------------------------

    def file_changed(self) -> None:
        """Say what the file asks for now; also signs it anew."""
        self._said = self._own_wants()
        self._publisher.to_all(*self._bulletins.wants(self._said))
        self._changed()

    def _own_wants(self) -> Wants:
        file = self._file()
        return Wants(
            incarnation=self._incarnation,
            at=wall_ms(),
            pools=file.pools,
            wants=wants_of(file.services, file.gateways),
        )

    def own_wants(self) -> dict[str, Want]:
        """What this node's file asks for."""
        return self._said.wants

    def wants(self) -> dict[str, Wants]:
        """What each node's file asks for; this one's first, then by name."""
        others = {node: self._wants[node] for node in sorted(self._wants)}
        return {self._bulletins.node: self._said, **others}

    # ---- in force -----------------------------------------------------------------------------

    def assignments(self) -> Assignments | None:
        """What is in force."""
        return self.agreement.in_force

    def records(self) -> dict[str, Record]:
        """What is applied and in force, as far as it is here."""
        found = ((key, self._records.get(applied.digest)) for key, applied in self._in_force())
        return {key: record for key, record in found if record is not None}

    def applied(self) -> dict[str, Applied]:
        """Everything that is applied and in force."""
        return dict(self._in_force())

    def lacking(self) -> tuple[str, ...]:
        """What is in force and not here: its content has not come yet."""
        return tuple(key for key, one in self._in_force() if one.digest not in self._records)

    def things(self) -> Mapping[str, Thing | Note]:
        """The same as what it means, or why it is not here."""
        found: dict[str, Thing | Note] = {}
        for key, applied in self._in_force():
            thing = self._thing(applied.digest)
            if isinstance(thing, str):
                found[key] = Note(key, CatalogReason.UNREADABLE, thing)
            elif thing is None:
                # What was there before goes on until the new content has come.
                note = Note(key, CatalogReason.NOT_HERE_YET, f"version {applied.version}")
                found[key] = self._serving.get(key, note)
            else:
                found[key] = self._serving[key] = thing
        self._serving = {key: one for key, one in self._serving.items() if key in found}
        return found

    def _thing(self, mark: str) -> Thing | str | None:
        if mark not in self._things:
            record = self._records.get(mark)
            if record is None:
                return None
            self._things[mark] = read_record(record)
        return self._things[mark]

    def _in_force(self) -> Iterator[tuple[str, Applied]]:
        said = self.agreement.in_force
        if said is not None:
            yield from said.applied()

    def add(self, records: Mapping[str, Record]) -> None:
        """Know these contents, which are about to be applied."""
        self._records.update((digest(record), record) for record in records.values())

    def _keep(self) -> None:
        """Forget what is not in force, and save the rest."""
        marks = {applied.digest for _, applied in self._in_force()}
        self._things = {mark: thing for mark, thing in self._things.items() if mark in marks}
        if len(self._records) > MAX_RECORDS // 2:
            self._records = {m: one for m, one in self._records.items() if m in marks}
        records = tuple(self._records[mark] for mark in sorted(marks & self._records.keys()))
        self._save(Saved(assignments=self.agreement.in_force, records=records))

    def say_again(self) -> None:
        """Sign everything with the secret of now, and have every broker carry it so."""
        for record in self.records().values():
            self._publisher.to_all(*self._bulletins.record(record))
        if self.agreement.in_force is not None:
            self._publisher.to_all(*self._bulletins.assignments(self.agreement.in_force))

    # ---- giving back --------------------------------------------------------------------------

    def give_back(self, broker: str, said: Assignments | None = None) -> None:
        """Tell a broker what it does not carry of `said`; of what is in force, without it."""
        said = said or self.agreement.in_force
        if said is None:
            return
        at = self._carried.get(broker, {})
        for key, applied in said.applied():
            record = self._records.get(applied.digest)
            if record is not None and at.get(key) != applied.digest:
                self._publisher.to_one(broker, *self._bulletins.record(record))
        carried = self.agreement.carries(broker)
        if carried is None or carried.stamp < said.stamp:
            self._publisher.to_one(broker, *self._bulletins.assignments(said))
