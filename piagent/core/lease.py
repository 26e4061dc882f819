"""The silence lease over N brokers: who may act for which key, decided without any I/O.

`LeaseGroup.step` takes one event and the time and returns the effects to run, in order. The rules
live where their data are: R1 to R6 in `register`, R8 in `key_lease`, R9 in `lag_guard`; R7 and the
treatment of messages that cannot be trusted are here.
"""

from __future__ import annotations

from collections.abc import Mapping

from piagent.core.chance import Chance
from piagent.core.key_lease import KeyLease
from piagent.core.lag_guard import EchoGuard, LoopGuard
from piagent.core.lease_types import (
    FOREVER,
    LEADER,
    MAX_COUNT,
    MAX_KEYS,
    NEVER,
    Acquired,
    Alarm,
    Assertion,
    CloseConnection,
    Disconnected,
    EchoReturned,
    Effect,
    Event,
    Extended,
    HandOver,
    Heard,
    KeyView,
    LeaseMessage,
    Occupied,
    Probe,
    Rank,
    Reason,
    Released,
    Role,
    Send,
    SendEcho,
    Sender,
    SetKeys,
    Spans,
    State,
    Subscribed,
    Tick,
    Unreadable,
    Want,
    Withdrawn,
)
from piagent.core.model import Timing

_IDLE_NS = 60_000_000_000
_RETRY_NS = 1_000_000
_ALARMS_MAX = 64
_HEARD_MAX = 256


class _Link:
    """The present connection to one broker."""

    def __init__(self, connection: str, spans: Spans, now: int) -> None:
        self.connection = connection
        self.guard = EchoGuard(spans, now)
        self.next_renewal = NEVER
        self.urgent = False
        """A role changed or a key was given up: not to wait for the next renewal."""
        self.yields: dict[str, str | None] = {}
        self.heard: dict[Sender, int] = {}
        """Sender -> its last sequence number; who was heard last is last."""
        self.forgetful = False
        """Some sender is not in `heard` any more: what comes as its first message may be old."""


class LeaseGroup:
    """All the keys of one group of candidates, at one node."""

    def __init__(
        self,
        timing: Timing,
        brokers: tuple[str, ...],
        node: str,
        incarnation: str,
        keys: Mapping[str, int],
        *,
        config_hash: str,
        seed: int,
        now_ns: int,
        wall_ms: int,
        hold: bool = False,
    ) -> None:
        """Follow `keys` (key -> rank of this node); ValueError when it cannot work.

        `incarnation` (16 hex digits) must be new in each life of the process, `seed` secret.
        `hold`: an owner without a quorum keeps its keys, but never the leadership: no address is
        asked after before somebody else takes that.
        """
        if not brokers or len(set(brokers)) != len(brokers):
            raise ValueError("brokers must be named, and different")
        self._spans = Spans.of(timing)
        self._lease_ms = timing.lease_ms
        self._brokers = brokers
        self._me: Sender = (node, incarnation)
        self._config_hash = config_hash
        self._hold = hold
        self._quorum_since = FOREVER
        self._chance = Chance(seed)
        self._now = now_ns
        self._born = now_ns
        self._wall = (wall_ms, now_ns)
        self._seq = 0
        self._links: dict[str, _Link] = {}
        self._leases: dict[str, KeyLease] = {}
        self._alarmed: set[tuple[Reason, str]] = set()
        self._alarmed_of_strangers: set[tuple[Reason, str]] = set()
        self._out: list[Effect] = []
        self._loop_guard = LoopGuard(self._spans, now_ns)
        self._set_keys(keys)
        self._wakeup = self._when_to_wake()

    # ---- what callers use ----

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        """Take the event; what must now be done, in this order."""
        self._now = max(self._now, now_ns)
        self._check_lags()
        self._expire()
        self._take(event)
        self._advance()
        for broker in self._brokers:
            self._speak(broker)
        self._wakeup = self._when_to_wake()
        self._loop_guard.promise(self._wakeup)
        out, self._out = self._out, []
        return out

    def next_wakeup_ns(self) -> int:
        """When `step` has to be called again at the latest, with a `Tick` if nothing else."""
        return self._wakeup

    def _when_to_wake(self) -> int:
        at = self._now + _IDLE_NS
        speaking = False
        for lease in self._leases.values():
            at = min(at, lease.wakeup(self._now))
            if lease.state is State.OWNER and self._holdable(lease):
                at = min(at, lease.until - self._spans.renew)
            speaking = speaking or lease.state is not State.FOLLOWER
        for link in self._links.values():
            at = min(at, link.guard.wakeup())
            if speaking and link.next_renewal > self._now:
                at = min(at, link.next_renewal)
        return max(at, self._now + _RETRY_NS)

    def view(self) -> tuple[KeyView, ...]:
        """Where this node stands with each key, as of the last step."""
        return tuple(le.view(self._now) for le in self._leases.values() if not le.doomed)

    def connected(self) -> tuple[str, ...]:
        """The brokers whose connection is in use."""
        return tuple(self._links)

    def has(self, key: str) -> bool:
        """Whether the key is, or was until lately, one of this group's."""
        return key in self._leases

    def last_words(self, keys: Mapping[str, str | None]) -> list[Send]:
        """Yields of these keys (key -> successor), for somebody else to publish after our death.

        Their sequence number is the last that can be: whatever of ours is still under way counts
        no more when they are heard. They must not be sent while an address of ours is left (R6).
        """
        yields = {key: successor for key, successor in keys.items() if key in self._leases}
        if not yields:
            return []
        said = (self._message(broker, MAX_COUNT, {}, yields) for broker in self._brokers)
        return [Send(message.broker, message) for message in said]

    def yields_pending(self) -> bool:
        """A yield waits for its turn: do not disconnect yet."""
        return any(link.yields for link in self._links.values())

    # ---- R9 ----

    def _check_lags(self) -> None:
        """Before anything is read or sent: what may have holes is closed."""
        late = self._loop_guard.late(self._now)
        for broker, link in list(self._links.items()):
            if late:
                self._close(broker, Reason.LOOP_LATE)
            elif link.guard.overdue(self._now):
                self._close(broker, Reason.ECHO_OVERDUE)

    def _close(self, broker: str, reason: Reason) -> None:
        self._unlink(broker)
        self._out.append(CloseConnection(broker, reason))

    def _unlink(self, broker: str) -> None:
        if self._links.pop(broker, None) is not None:
            if not self._has_quorum():
                self._quorum_since = FOREVER
            for lease in self._leases.values():
                lease.registers[broker].deafen()

    # ---- events ----

    def _take(self, event: Event) -> None:
        match event:
            case Heard(broker, connection, message):
                if self._is_present(broker, connection):
                    self._hear(broker, message)
            case EchoReturned(broker, connection, nonce):
                if self._is_present(broker, connection):
                    self._links[broker].guard.echo_returned(nonce)
            case Unreadable(broker, connection, sender, reason, lease_ms):
                if self._is_present(broker, connection):
                    self._hear_unreadable(broker, sender, reason, lease_ms)
            case Subscribed(broker, connection):
                self._link(broker, connection)
            case Disconnected(broker):
                self._unlink(broker)
            case Tick(wall_ms):
                if wall_ms is not None:
                    self._wall = (wall_ms, self._now)
            case SetKeys(keys, config_hash):
                self._config_hash = config_hash or self._config_hash
                self._set_keys(keys)
            case Want() | Rank() | Withdrawn() | HandOver() | Occupied():
                self._take_for_key(event)

    def _take_for_key(self, event: Want | Rank | Withdrawn | HandOver | Occupied) -> None:
        lease = self._leases.get(event.key)
        if lease is None or (lease.doomed and not isinstance(event, Withdrawn)):
            return
        match event:
            case Want(_, wanted, reason):
                self._want(lease, wanted, reason)
            case Rank(_, rank):
                lease.rank = rank
            case Withdrawn(key, epoch):
                if lease.withdrawn(epoch):
                    self._yield(key, lease.successor)
            case HandOver(_, successor, reason):
                if lease.state is State.OWNER:
                    self._release(lease, reason, successor)
            case Occupied():
                lease.occupied(self._now)
                if lease.state is State.CLAIMING:
                    self._lose(lease, self._spans.wait)

    def _is_present(self, broker: str, connection: str) -> bool:
        link = self._links.get(broker)
        return link is not None and link.connection == connection

    def _link(self, broker: str, connection: str) -> None:
        if broker not in self._brokers:
            return
        self._links[broker] = _Link(connection, self._spans, self._now)
        for lease in self._leases.values():
            lease.registers[broker].listen(self._now)
        if self._quorum_since == FOREVER and self._has_quorum():
            self._quorum_since = self._now

    def _has_quorum(self) -> bool:
        return 2 * len(self._links) > len(self._brokers)

    def _want(self, lease: KeyLease, wanted: bool, reason: Reason) -> None:
        if wanted:
            lease.wanted = True
        else:
            lease.unwanted(reason)
            self._give_up(lease, reason)

    def _set_keys(self, keys: Mapping[str, int]) -> None:
        if len(keys) > MAX_KEYS:
            raise ValueError(f"a group has at most {MAX_KEYS} keys, not {len(keys)}")
        for key, lease in self._leases.items():
            if key not in keys and not lease.doomed:
                lease.doomed = True
                lease.unwanted(Reason.REMOVED)
                self._give_up(lease, Reason.REMOVED)
        for key, rank in keys.items():
            known = self._leases.get(key)
            if known is not None:
                if known.doomed:
                    known.doomed, known.wanted = False, True
                known.rank = rank
                continue
            lease = KeyLease(key, rank, self._spans, self._brokers, self._now)
            self._leases[key] = lease
            for broker in self._links:  # what was said of it before was not listened to
                lease.registers[broker].listen(self._now)

    # ---- messages ----

    def _hear(self, broker: str, message: LeaseMessage) -> None:
        if message.sender == self._me:  # R7
            self._hear_own(broker, message)
        elif message.config_hash != self._config_hash:
            self._hear_misfit(broker, message)
        elif message.broker != broker:
            self._hear_bridged(broker, message)
        else:
            self._hear_other(broker, message)

    def _hear_own(self, broker: str, message: LeaseMessage) -> None:
        if message.broker != broker:
            self._alarm_bridged(broker, message)
            return
        self._links[broker].guard.lease_echoed(message.seq)
        for key in message.asserts:
            lease = self._leases.get(key)
            if lease is not None:
                lease.registers[broker].hear_own(message.seq, self._now)

    def _hear_other(self, broker: str, message: LeaseMessage) -> None:
        link = self._links[broker]
        may_be_old = link.forgetful and message.sender not in link.heard
        if not self._is_new(link, message):
            return
        if message.node == self._me[0] and self._now > self._born + 2 * self._spans.wait:
            self._alarm(Reason.TWIN, message.node, f"{message.node} lives twice")
        for key, said in message.asserts.items():
            lease = self._leases.get(key)
            if lease is not None:
                lease.hear_assertion(broker, message.sender, said, self._now, message.lease_ms)
                self._check_rival(lease, message.sender, said)
        if may_be_old:  # replays of many former lives must not make a live owner's old yield count
            return
        for key, successor in message.yields.items():
            lease = self._leases.get(key)
            if lease is not None:
                us = successor == self._me[0]
                lease.hear_yield(broker, message.sender, successor, self._now, us=us)

    def _is_new(self, link: _Link, message: LeaseMessage) -> bool:
        """A duplicate, or something older than what was heard, counts for nothing (R2, R6)."""
        last = link.heard.pop(message.sender, -1)
        if last < 0 and len(link.heard) >= _HEARD_MAX:
            del link.heard[next(iter(link.heard))]  # the one heard least lately
            link.forgetful = True
        link.heard[message.sender] = max(last, message.seq)
        return message.seq > last

    def _hear_misfit(self, broker: str, message: LeaseMessage) -> None:
        """Authentic, of another configuration: nothing it says is relied on, but two owners end."""
        reason, lease_ms = Reason.CONFIG_MISMATCH, message.lease_ms
        self._hear_unreadable(broker, message.node, reason, lease_ms)
        for key, said in message.asserts.items():
            lease = self._leases.get(key)
            if lease is not None:
                self._check_rival(lease, message.sender, said)

    def _check_rival(self, lease: KeyLease, sender: Sender, said: Assertion) -> None:
        """Two owners: an assumption is broken; the one with the lower epoch gives way at once."""
        if lease.state is not State.OWNER or said.role is not Role.OWNER:
            return
        if (said.epoch, sender) > (lease.epoch, self._me):
            self._alarm(
                Reason.ANOTHER_OWNER,
                f"{sender[0]}/{lease.key}",
                f"{sender[0]} acts as owner of {lease.key} with epoch {said.epoch}",
            )
            self._release(lease, Reason.ANOTHER_OWNER)

    def _hear_bridged(self, broker: str, message: LeaseMessage) -> None:
        """Published elsewhere: its order here proves nothing, so it only blocks."""
        self._alarm_bridged(broker, message)
        for key in message.asserts:
            lease = self._leases.get(key)
            if lease is not None:
                sender = message.sender
                lease.registers[broker].hear_assertion(sender, self._now, message.lease_ms)

    def _alarm_bridged(self, broker: str, message: LeaseMessage) -> None:
        detail = f"a message of {message.node} to {message.broker} came from {broker}"
        self._alarm(Reason.BRIDGED, f"{message.broker}>{broker}", detail)

    def _hear_unreadable(self, broker: str, sender: str, reason: Reason, lease_ms: int) -> None:
        """Fail-safe: it counts as a foreign assertion of every key."""
        detail = f"a lease message of {sender} is not accepted: {reason}"
        self._alarm(reason, sender, detail, strange=reason is not Reason.CONFIG_MISMATCH)
        for lease in self._leases.values():
            lease.hear_unreadable(broker, self._now, lease_ms)

    def _alarm(self, reason: Reason, about: str, detail: str, *, strange: bool = False) -> None:
        """Once for each reason and sender.

        `strange`: of somebody who may have any name; a few are enough, and they must not use up
        what members of the cluster may be named for.
        """
        alarmed = self._alarmed_of_strangers if strange else self._alarmed
        if (reason, about) in alarmed or len(alarmed) > _ALARMS_MAX:
            return
        alarmed.add((reason, about))
        if len(alarmed) > _ALARMS_MAX:
            reason, detail = (
                Reason.ALARMS_SUPPRESSED,
                "too many alarms of this kind; no more are raised",
            )
        self._out.append(Alarm(reason, detail))

    # ---- leases ----

    def _expire(self) -> None:
        """An announced deadline is kept, whatever the event would bring."""
        for lease in self._leases.values():
            if lease.state is not State.OWNER:
                continue
            if self._now >= lease.until:
                self._release(lease, Reason.LEASE_RAN_OUT)
            elif self._now >= lease.until - self._spans.renew and self._may_hold(lease):
                lease.hold(self._now)
                self._out.append(Extended(lease.key, lease.until))

    def _holdable(self, lease: KeyLease) -> bool:
        return self._hold and lease.key != LEADER

    def _may_hold(self, lease: KeyLease) -> bool:
        """The majority of the brokers is gone, or back for too short a time to be owner by it."""
        regained_by = self._quorum_since + 2 * self._spans.wait + self._spans.attempt
        return self._holdable(lease) and self._now < regained_by

    def _advance(self) -> None:
        for key, lease in list(self._leases.items()):
            if lease.state is State.OWNER:
                self._extend(lease)
            elif lease.state is State.CLAIMING:
                self._settle_claim(lease)
            if lease.state is State.FOLLOWER and lease.wanted:
                self._follow(lease)
            if lease.gone(self._now):
                del self._leases[key]

    def _follow(self, lease: KeyLease) -> None:
        claim_at = lease.claim_at(self._now)
        if lease.probe_due(claim_at, self._now):
            self._out.append(Probe(lease.key))
        if self._now >= claim_at:
            lease.claim(self._now, self._wall_ms())

    def _extend(self, lease: KeyLease) -> None:
        until = lease.acting_until()
        if until > lease.until:
            lease.extend(until)
            self._out.append(Extended(lease.key, until))

    def _settle_claim(self, lease: KeyLease) -> None:
        if lease.acting_until() > self._now:
            lease.acquire(self._now)
            self._out.append(Acquired(lease.key, lease.until, lease.epoch, lease.reason))
            self._hurry()
        elif lease.lost(self._now):
            self._lose(lease, self._chance.below(lease.backoff_span()))

    def _give_up(self, lease: KeyLease, reason: Reason) -> None:
        if lease.state is State.OWNER:
            self._release(lease, reason)
        elif lease.state is State.CLAIMING:
            self._lose(lease, 0)

    def _release(self, lease: KeyLease, reason: Reason, successor: str | None = None) -> None:
        epoch = lease.epoch
        lease.release(reason, self._now, successor)
        for link in self._links.values():  # of a former tenure, and not sent yet: not true now (R6)
            link.yields.pop(lease.key, None)
        self._out.append(Released(lease.key, reason, successor, epoch))

    def _lose(self, lease: KeyLease, backoff: int) -> None:
        lease.lose_claim(self._now, backoff)
        if lease.may_yield_claim():
            self._yield(lease.key, None)

    def _yield(self, key: str, successor: str | None) -> None:
        for link in self._links.values():
            link.yields[key] = successor
        self._hurry()

    def _hurry(self) -> None:
        for link in self._links.values():
            link.urgent = True

    def _wall_ms(self) -> int:
        wall_ms, at = self._wall
        return wall_ms + (self._now - at) // 1_000_000

    # ---- speaking ----

    def _speak(self, broker: str) -> None:
        """Send what the broker's subscribers have to know now: all keys in one message."""
        link = self._links.get(broker)
        if link is None:
            return
        if link.guard.due(self._now):
            nonce = f"{self._chance.word():016x}"
            link.guard.echo_sent(nonce, self._now)
            self._out.append(SendEcho(broker, link.connection, nonce))
        asserts: dict[str, Assertion] = {}
        urgent = link.urgent
        for key, lease in self._leases.items():
            said = lease.assertion_at(broker, self._now)
            if said is not None:
                asserts[key] = said
                urgent = urgent or lease.urgent_at(broker, self._now)
        due = bool(asserts) and self._now >= link.next_renewal
        if due and link.guard.full():
            self._close(broker, Reason.TOO_MANY_UNECHOED)
        elif due or (urgent and not link.guard.crowded() and (asserts or link.yields)):
            self._send(broker, link, asserts)

    def _send(self, broker: str, link: _Link, asserts: dict[str, Assertion]) -> None:
        self._seq += 1
        yields = {k: to for k, to in link.yields.items() if k not in asserts}
        message = self._message(broker, self._seq, asserts, yields)
        for key in asserts:
            self._leases[key].registers[broker].say(self._seq, self._now)
        link.guard.lease_sent(self._seq)
        link.next_renewal = self._now + self._spans.renew if asserts else NEVER
        link.urgent = False
        link.yields.clear()
        self._out.append(Send(broker, message))

    def _message(
        self,
        broker: str,
        seq: int,
        asserts: dict[str, Assertion],
        yields: dict[str, str | None],
    ) -> LeaseMessage:
        node, incarnation = self._me
        return LeaseMessage(
            node=node,
            incarnation=incarnation,
            seq=seq,
            broker=broker,
            config_hash=self._config_hash,
            lease_ms=self._lease_ms,
            asserts=asserts,
            yields=yields,
        )
