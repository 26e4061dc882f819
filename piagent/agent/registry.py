"""What services there are: this node's file, what was applied, what the leader assigned.

Each node keeps all of it, and gives it back to a broker that has lost it: brokers are believed to
remember nothing. What is in force here stays in force until something newer is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from piagent.adapters.clock import wall_ms
from piagent.agent.bulletins import ANSWER_S, Bulletin, Bulletins
from piagent.agent.contents import Contents
from piagent.agent.tasks import Later
from piagent.core.agreement import Agreement
from piagent.core.assignments import Applied, Assignments, with_late
from piagent.core.bulletin import Wants, is_newer
from piagent.core.catalog import CatalogReason, Note, Thing
from piagent.core.model import Config
from piagent.core.records import Record
from piagent.core.wants import Want, wants_of

GIVE_BACK_S = (0.2, 2.0)
"""After a connection began, at random between: a broker needs it from one node only."""


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
        self.contents = Contents(saved.records)
        self._serving: dict[str, Thing] = {}  # by key: what was last read
        self._carried: dict[str, dict[str, str]] = {}  # broker -> key -> digest
        self._wants: dict[str, Wants] = {}
        self._wants_at: dict[str, set[str]] = {}  # node -> brokers that carry them
        self._said = self._own_wants()
        self._put_right = Later(self._say_wants, ANSWER_S)

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
        for brokers in self._wants_at.values():
            brokers.discard(broker)

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
            self._hear_wants(said.key, said.message, said)
        elif said.kind is Wants and said.cleared:
            self._hear_cleared(said.key, said.broker)

    def _remind(self, before: Assignments | None, now: Assignments) -> None:
        """Tell a leader that came without them what was applied before, as far as this one knows.

        That is so when all brokers lost their memory and the leader's own is old.
        """
        if before is not None and with_late(now, before) is not now:
            self._say_all(before)

    def _hear_record(self, said: Bulletin) -> None:
        at = self._carried.setdefault(said.broker, {})
        if isinstance(said.message, Record):
            mark, new = self.contents.add(said.message)
            at[said.key] = mark
            if new and any(one.digest == mark for one in self.applied().values()):
                self._keep()
                self._changed()
            elif self.contents.is_full():
                self._keep()
        else:
            at.pop(said.key, None)

    def _hear_wants(self, node: str, said: Wants, at: Bulletin) -> None:
        if node == self._bulletins.node:
            if at.fresh and said.incarnation != self._incarnation:  # of a former life, come late
                self._put_right.soon()
            return
        self._wants_at.setdefault(node, set()).add(at.broker)
        before = self._wants.get(node)
        if before is None or is_newer(said, before, fresh=at.fresh):
            self._wants[node] = said
            if before is None or (before.pools, before.wants) != (said.pools, said.wants):
                self._changed()

    def _hear_cleared(self, node: str, broker: str) -> None:
        """A node was removed for good, or a living one's words were ended: that one speaks again.

        What cannot be read is not answered: who wrote it may answer that, and so on.
        """
        if node == self._bulletins.node:
            self._put_right.soon()
            return
        brokers = self._wants_at.get(node, set())
        brokers.discard(broker)
        if not brokers and self._wants.pop(node, None) is not None:
            self._changed()

    # ---- this node's file ---------------------------------------------------------------------

    def file_changed(self) -> None:
        """Say what the file asks for now; also signs it anew."""
        self._said = self._own_wants()
        self._say_wants()
        self._changed()

    def _say_wants(self) -> None:
        self._publisher.to_all(*self._bulletins.wants(self._said))

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

    def applied(self) -> dict[str, Applied]:
        """Everything that is applied and in force."""
        said = self.agreement.in_force
        return {} if said is None else dict(said.applied())

    def records(self) -> dict[str, Record]:
        """Its contents, as far as they are here."""
        return self.contents.records(self.agreement.in_force)

    def things(self) -> Mapping[str, Thing | Note]:
        """What it means, or why it is not here; of a new content that has not come yet the old."""
        found = self.contents.things(self.agreement.in_force)
        for key, thing in found.items():
            if not isinstance(thing, Note):
                self._serving[key] = thing
            elif thing.reason == CatalogReason.NOT_HERE_YET:
                found[key] = self._serving.get(key, thing)
        self._serving = {key: one for key, one in self._serving.items() if key in found}
        return found

    def _keep(self) -> None:
        """Save what is in force, and forget now and then what is not."""
        records = self.records()
        if self.contents.is_full():
            self.contents.keep({one.digest for one in self.applied().values()})
        ordered = tuple(record for _, record in sorted(records.items()))
        self._save(Saved(assignments=self.agreement.in_force, records=ordered))

    def say_again(self) -> None:
        """Sign everything with the secret of now, and have every broker carry it so."""
        if self.agreement.in_force is not None:
            self._say_all(self.agreement.in_force)

    def _say_all(self, said: Assignments) -> None:
        for record in self.contents.records(said).values():
            self._publisher.to_all(*self._bulletins.record(record))
        self._publisher.to_all(*self._bulletins.assignments(said))

    # ---- giving back --------------------------------------------------------------------------

    def give_back(self, broker: str) -> None:
        """Tell a broker what is in force and it does not carry."""
        said, carried = self.agreement.in_force, self.agreement.carries(broker)
        if said is None:
            return
        self.give_records(broker, said)
        if carried is None or carried.stamp < said.stamp:
            self._publisher.to_one(broker, *self._bulletins.assignments(said))

    def give_records(self, broker: str, said: Assignments) -> None:
        """Tell a broker the contents of these assignments that it does not carry."""
        at = self._carried.get(broker, {})
        for key, applied in said.applied():
            record = self.contents.record(applied.digest)
            if record is not None and at.get(key) != applied.digest:
                self._publisher.to_one(broker, *self._bulletins.record(record))
