"""Applying and deleting: an order, what is in force -> what is in force then, or why it is refused.

An order is done as a whole or not at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from piagent.core.assignments import Applied, Assignment, Assignments, Stamp, compose, latest
from piagent.core.catalog import Thing, wants_of_things
from piagent.core.lease_types import MAX_KEYS
from piagent.core.model import Gateway, Pool, Route, routed
from piagent.core.records import Kind, Record, RecordName, digest, key_of
from piagent.core.wants import Want

MAX_CHANGES = 200

_lines = msgspec.json.Encoder(order="deterministic").encode


class Result(StrEnum):
    """What became of one change."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    """It has another version than the one that was to be changed."""
    REFUSED = "refused"


REFUSALS = frozenset({Result.NOT_FOUND, Result.CONFLICT, Result.REFUSED})


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing to apply or delete."""

    kind: Kind
    name: RecordName
    table: dict[str, Any] | None = None
    """None: delete it."""
    version: int | None = None
    """Only if it has this version now (0: only if it is not there); None: whatever it has."""

    @property
    def key(self) -> str:
        """`service/web`."""
        return key_of(self.kind, self.name)


class Order(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be done at once."""

    changes: Annotated[tuple[Change, ...], Meta(min_length=1, max_length=MAX_CHANGES)]
    dry_run: bool = False


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one change, or would."""

    kind: Kind
    name: str
    result: Result
    version: int = 0
    """The one that it has now."""
    detail: str = ""
    """Why it is refused."""
    diff: tuple[str, ...] = ()
    """From what is in force to what was asked for, line by line."""
    vips: tuple[str, ...] = ()
    cluster_ips: tuple[str, ...] = ()
    node_ports: dict[str, int] = {}


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an order."""

    done: bool
    outcomes: tuple[Outcome, ...] = ()
    error: str = ""
    """Why nothing was done, when no single change says it."""
    final: bool = False
    """Asking again would get the same error."""


class Decided(Struct, frozen=True):
    """A verdict, and what makes it true."""

    verdict: Verdict
    records: Mapping[str, Record]
    """All that is applied then."""
    assignments: Assignments | None
    """None: nothing changes."""


class Standing(Struct, frozen=True, kw_only=True):
    """What an order meets."""

    assignments: Assignments
    records: Mapping[str, Record]
    """What is in force, by key."""
    things: Mapping[str, Thing]
    """The same, as far as it can be read."""
    in_files: Mapping[str, Want]
    """What the nodes' files have, by key."""
    lingering: Mapping[str, Want] = {}
    """What they had until lately, and what keeps its place for a while."""
    pools: Sequence[Pool]


def decide(order: Order, standing: Standing, read: Callable[[Record], Thing | str]) -> Decided:
    """Say what an order does.

    `read` makes a thing of a record, or says why that cannot be.
    """
    stamp = (standing.assignments.epoch, standing.assignments.number + 1)
    work = _Work(standing, stamp)
    for change in order.changes:
        work.change(change, read)
    work.check_routes()
    work.check_wants()
    return work.result(dry_run=order.dry_run)


class _Work:
    """An order while it is being decided."""

    def __init__(self, standing: Standing, stamp: Stamp) -> None:
        self._standing = standing
        self._stamp = stamp
        self._records = dict(standing.records)
        self._things = dict(standing.things)
        self._given = dict(standing.assignments.given)
        self._routes = dict(standing.assignments.routes)
        self._deleted = dict(standing.assignments.deleted)
        self._outcomes: dict[str, Outcome] = {}

    def change(self, change: Change, read: Callable[[Record], Thing | str]) -> None:
        """One of the order's changes, as if it were the only one."""
        before = self._records.get(change.key)
        applied = self._applied(change.key)
        version = applied.version if applied else 0
        if change.key in self._outcomes:
            self._refuse(change, version, "it is in the order twice")
        elif change.table is None:
            self._delete(change, version)
        elif self._is_in_a_file(change.key):
            self._refuse(change, version, "a node's file has one of that name: choose another")
        else:
            record = Record(kind=change.kind, name=change.name, table=change.table)
            if before is not None and digest(before) == digest(record):
                self._note(change, Result.UNCHANGED, version)
            elif change.version not in {None, version}:
                self._conflict(change, version, _diff(before, record))
            else:
                self._apply(record, change, version, read(record), _diff(before, record))

    def check_routes(self) -> None:
        """Every route and default backend leads to what is there, afterwards."""
        files = self._standing.in_files
        for key, thing in self._things.items():
            if isinstance(thing, Route):
                wanted = [key_of(Kind.GATEWAY, thing.gateway)]
                wanted += sorted(key_of(Kind.SERVICE, name) for name in thing.services)
                what = f"route {thing.name}"
            elif isinstance(thing, Gateway) and thing.default_backend is not None:
                wanted = [key_of(Kind.SERVICE, thing.default_backend.service)]
                what = f"gateway {thing.name}"
            else:
                continue
            for missing in (one for one in wanted if one not in self._things and one not in files):
                blamed = missing if missing in self._outcomes else key
                if blamed in self._outcomes:
                    self._spoil(blamed, f"{what} leads to {missing}, which is not there")

    def check_wants(self) -> None:
        """What was changed gets what it asks for."""
        standing = self._standing
        wants = {
            **standing.lingering,
            **wants_of_things(self._things.values()),
            **standing.in_files,
        }
        self._given = compose(standing.pools, wants, self._given).given
        vips = {vip for one in self._given.values() for vip in one.vips}
        if len(vips - routed(standing.pools, vips)) >= MAX_KEYS:
            for key in self._outcomes:
                self._spoil(key, f"a cluster has at most {MAX_KEYS - 1} VIPs")
        for key, outcome in self._outcomes.items():
            has = self._given.get(key, Assignment())
            if has.refused and outcome.result in {Result.CREATED, Result.CHANGED}:
                what = "; ".join(f"{one.what}: {one.reason}: {one.detail}" for one in has.refused)
                self._spoil(key, what)

    def result(self, *, dry_run: bool) -> Decided:
        """All of it, or nothing."""
        outcomes = tuple(self._with_addresses(key, one) for key, one in self._outcomes.items())
        standing = self._standing
        if any(one.result in REFUSALS for one in outcomes):
            return Decided(Verdict(done=False, outcomes=outcomes), standing.records, None)
        verdict = Verdict(done=not dry_run, outcomes=outcomes)
        if dry_run or all(one.result is Result.UNCHANGED for one in outcomes):
            return Decided(verdict, standing.records, None)
        assignments = replace(
            standing.assignments,
            number=self._stamp[1],
            given=self._given,
            routes=self._routes,
            deleted=latest(self._deleted),
        )
        return Decided(verdict, self._records, assignments)

    def _is_in_a_file(self, key: str) -> bool:
        return key in self._standing.in_files and key not in self._records

    def _applied(self, key: str) -> Applied | None:
        if key in self._routes:
            return self._routes[key]
        return self._given[key].applied if key in self._given else None

    def _apply(
        self,
        record: Record,
        change: Change,
        version: int,
        thing: Thing | str,
        diff: tuple[str, ...],
    ) -> None:
        if isinstance(thing, str):
            self._refuse(change, version, thing)
            return
        key = record.key
        applied = Applied(version + 1, digest(record), self._stamp)
        self._records[key], self._things[key] = record, thing
        self._deleted.pop(key, None)
        if record.kind is Kind.ROUTE:
            self._routes[key] = applied
        else:
            self._given[key] = replace(self._given.get(key, Assignment()), applied=applied)
        result = Result.CHANGED if version else Result.CREATED
        self._note(change, result, version + 1, diff=diff if version else ())

    def _delete(self, change: Change, version: int) -> None:
        key = change.key
        if key not in self._records and not version:
            what = "it is in a node's file" if self._is_in_a_file(key) else "it is not applied"
            self._note(change, Result.NOT_FOUND, 0, what)
        elif change.version not in {None, version}:
            self._conflict(change, version, ())
        else:
            for kept in (self._records, self._things, self._given, self._routes):
                kept.pop(key, None)
            self._deleted[key] = self._stamp
            self._note(change, Result.DELETED, version)

    def _conflict(self, change: Change, version: int, diff: tuple[str, ...]) -> None:
        has = f"it has version {version}" if version else "it is not there"
        self._note(change, Result.CONFLICT, version, f"{has}, not {change.version}", diff)

    def _refuse(self, change: Change, version: int, why: str) -> None:
        self._note(change, Result.REFUSED, version, why)

    def _note(
        self,
        change: Change,
        result: Result,
        version: int,
        detail: str = "",
        diff: tuple[str, ...] = (),
    ) -> None:
        self._outcomes[change.key] = Outcome(
            kind=change.kind,
            name=change.name,
            result=result,
            version=version,
            detail=detail,
            diff=diff,
        )

    def _spoil(self, key: str, why: str) -> None:
        outcome = self._outcomes[key]
        if outcome.result in {Result.CREATED, Result.CHANGED, Result.DELETED}:
            was = outcome.version - (outcome.result is not Result.DELETED)
            self._outcomes[key] = replace(
                outcome, result=Result.REFUSED, detail=why, version=was, diff=()
            )

    def _with_addresses(self, key: str, outcome: Outcome) -> Outcome:
        has = self._given.get(key)
        if has is None or outcome.result in REFUSALS:
            return outcome
        return replace(
            outcome, vips=has.vips, cluster_ips=has.cluster_ips, node_ports=has.node_ports
        )


def _diff(before: Record | None, after: Record) -> tuple[str, ...]:
    """What would change, as `diff -U0` without its head."""
    if before is None:
        return ()
    found = difflib.unified_diff(_shown(before), _shown(after), n=0, lineterm="")
    return tuple(line for line in found if not line.startswith(("---", "+++", "@@")))


def _shown(record: Record) -> list[str]:
    return [f"{key} = {_lines(value).decode()}" for key, value in sorted(record.table.items())]
