"""One key over all the brokers: the state machine of a follower, a claimer or an owner (R8)."""

from __future__ import annotations

from piagent.core.lease_types import (
    FOREVER,
    MAX_COUNT,
    NEVER,
    Assertion,
    KeyView,
    Reason,
    Role,
    Sender,
    Spans,
    State,
)
from piagent.core.register import Register

UNREADABLE: Sender = ("", "")
"""Stands for whoever sent what cannot be read."""

_FAILS_COUNTED = 4
"""The back-off after lost claims doubles this often."""


class KeyLease:
    """What this node believes and wants of one key."""

    def __init__(
        self, key: str, rank: int, spans: Spans, brokers: tuple[str, ...], now: int
    ) -> None:
        self.key = key
        self.rank = rank
        self.wanted = True
        self.not_wanted_because = Reason.NOT_WANTED
        self.doomed = False
        """The key left the configuration; the lease goes when nothing of it is left to tell."""
        self.state = State.FOLLOWER
        self.reason = Reason.STARTING
        self.since = now
        self.epoch = 0
        self.until = NEVER
        """An owner's announced deadline: the hold of the majority less the guard."""
        self.successor: str | None = None
        """Whom the last release was in favour of."""
        self.registers = {broker: Register(spans) for broker in brokers}
        self._spans = spans
        self._quorum = len(brokers) // 2 + 1
        self._epoch_seen = 0
        self._claim_ends = NEVER
        self._not_before = NEVER
        self._fails = 0
        self._invited = False
        self._vacated = False
        self._withdrawing: int | None = None
        self._withdrawing_ends = NEVER
        self._probed = False
        self._occupied_until = NEVER
        self.held = False
        """Kept without a quorum, by the operator's wish."""
        self._other: tuple[Sender, int, int] | None = None

    # ---- what others say ----

    def hear_assertion(
        self, broker: str, sender: Sender, said: Assertion, now: int, lease_ms: int
    ) -> None:
        """A foreign assertion: it blocks claims at that broker."""
        self.registers[broker].hear_assertion(sender, now, lease_ms)
        self._epoch_seen = max(self._epoch_seen, said.epoch)
        self._invited = self._vacated = self._probed = False
        if said.role is Role.OWNER:
            self._other = (sender, said.epoch, now + self._spans.wait_after(lease_ms))

    def hear_yield(
        self, broker: str, sender: Sender, successor: str | None, now: int, *, us: bool
    ) -> None:
        """A foreign yield; `us`: it names this node as the successor."""
        self.registers[broker].hear_yield(sender)
        self._vacated = True
        if self._other is not None and self._other[0] == sender:
            self._other = None
        if us:
            self._invited = True
            self._not_before = min(self._not_before, now)
        elif successor is not None:  # the first go is the successor's
            self._not_before = max(self._not_before, now + self._spans.wait // 2)

    def hear_unreadable(self, broker: str, now: int, lease_ms: int) -> None:
        """Something that may be anybody's assertion of this key."""
        self.registers[broker].hear_assertion(UNREADABLE, now, lease_ms)

    # ---- what time and echoes bring ----

    def held_until(self) -> int:
        """R8: until when a majority of the registers is ours."""
        holds = sorted((r.hold_until for r in self.registers.values()), reverse=True)
        return holds[self._quorum - 1]

    def acting_until(self) -> int:
        """Until when an owner may act."""
        return self.held_until() - self._spans.guard

    def claim_at(self, now: int) -> int:
        """When a follower may claim if nothing more is heard."""
        quiet = sorted(r.quiet_at() for r in self.registers.values())[self._quorum - 1]
        turn = 0 if self._invited else self.rank * self._spans.stagger
        at = max(quiet + turn, self._not_before)
        if self._withdrawing is not None and now < self._withdrawing_ends:
            at = max(at, self._withdrawing_ends)
        return at

    def winnable(self, now: int) -> bool:
        """A claimer can still get a majority."""
        hopeful = (r.claimed() or r.holds(now) or r.claimable(now) for r in self.registers.values())
        return sum(hopeful) >= self._quorum

    def lost(self, now: int) -> bool:
        """A claimer's attempt is over."""
        return now >= self._claim_ends or not self.winnable(now)

    def probe_due(self, claim_at: int, now: int) -> bool:
        """Time to ask the LAN who has the address: before each claim, anew when it is put off."""
        near = now >= claim_at - self._spans.probe_lead
        first, self._probed = near and not self._probed, near
        return first

    def occupied(self, now: int) -> None:
        """Somebody answers for the address without owning it: keep away from it for a while."""
        self._probed = False
        self._occupied_until = now + self._spans.wait
        self._not_before = max(self._not_before, self._occupied_until)

    # ---- transitions ----

    def unwanted(self, reason: Reason) -> None:
        """It is not to be claimed until it is wanted again."""
        self.wanted, self.not_wanted_because = False, reason
        self._probed = False

    def claim(self, now: int, wall_ms: int) -> None:
        """FOLLOWER -> CLAIMING."""
        reason = Reason.YIELDED if self._vacated else Reason.SILENCE
        self._enter(State.CLAIMING, Reason.INVITED if self._invited else reason, now)
        self._claim_ends = now + self._spans.attempt
        self.epoch = min(max(self._epoch_seen + 1, self.epoch + 1, wall_ms), MAX_COUNT)

    def acquire(self, now: int) -> None:
        """CLAIMING -> OWNER."""
        if self._epoch_seen >= self.epoch:  # heard of while claiming
            self.epoch = min(self._epoch_seen + 1, MAX_COUNT)
        self._enter(State.OWNER, self.reason, now)
        self.until = self.acting_until()
        self._fails = 0
        self._invited = self._vacated = self._probed = False
        self._other = None

    def extend(self, until: int) -> None:
        """OWNER, for longer, by the quorum."""
        self.until = until
        if self.held:
            self.held, self.reason = False, Reason.SILENCE

    def hold(self, now: int) -> None:
        """OWNER, for longer, without a quorum."""
        self.until = now + self._spans.lease
        self.held, self.reason = True, Reason.QUORUM_LOST_HELD

    def lose_claim(self, now: int, backoff: int) -> None:
        """CLAIMING -> FOLLOWER, with a pause before the next attempt."""
        self._not_before = now + backoff
        self._follow(Reason.CLAIM_LOST, now)

    def backoff_span(self) -> int:
        """The pause after a lost claim is drawn from [0, this)."""
        self._fails += 1
        return max(1, self._spans.stagger << min(self._fails, _FAILS_COUNTED))

    def release(self, reason: Reason, now: int, successor: str | None) -> None:
        """OWNER -> FOLLOWER; the address counts as configured until its withdrawal is confirmed."""
        self.successor = successor
        self._withdrawing = self.epoch
        self._withdrawing_ends = now + self._spans.wait
        if successor is not None:
            self._not_before = now + self._spans.wait
        self._follow(reason, now)

    def withdrawn(self, epoch: int) -> bool:
        """The address of that epoch is gone; True when others may now be told (R6)."""
        if self._withdrawing != epoch:
            return False
        self._withdrawing = None
        return self.state is State.FOLLOWER

    def may_yield_claim(self) -> bool:
        """No address of ours is left that a yield of this claim would hide."""
        return self._withdrawing is None

    def gone(self, now: int) -> bool:
        """A doomed lease has nothing left to tell."""
        settled = self._withdrawing is None or now >= self._withdrawing_ends
        return self.doomed and self.state is State.FOLLOWER and settled

    def _follow(self, reason: Reason, now: int) -> None:
        self._enter(State.FOLLOWER, reason, now)
        self.until = NEVER
        self.held = self._invited = self._probed = False
        for register in self.registers.values():
            register.drop()

    def _enter(self, state: State, reason: Reason, now: int) -> None:
        self.state, self.reason, self.since = state, reason, now

    # ---- for the group ----

    def assertion_at(self, broker: str, now: int) -> Assertion | None:
        """What to say about the key at the broker: an owner always, a claimer where it may win."""
        if self.state is State.OWNER:
            return Assertion(self.epoch, Role.OWNER)
        register = self.registers[broker]
        if self.state is State.CLAIMING and (
            register.claimable(now) or register.claimed() or register.holds(now)
        ):
            return Assertion(self.epoch, Role.CLAIM)
        return None

    def urgent_at(self, broker: str, now: int) -> bool:
        """That cannot wait for the next renewal: a first claim, or the confirm of R3."""
        register = self.registers[broker]
        return register.confirm_due or (self.state is State.CLAIMING and register.claimable(now))

    def wakeup(self, now: int) -> int:
        """When time alone may change the state."""
        if self.state is State.OWNER:
            return self.until
        if self.state is State.CLAIMING:
            quiet = (r.quiet_at() for r in self.registers.values())
            return min([self._claim_ends, *(at for at in quiet if at > now)])
        if self.doomed:
            return self._withdrawing_ends
        if not self.wanted:
            return FOREVER
        return self.claim_at(now) - (0 if self._probed else self._spans.probe_lead)

    def view(self, now: int) -> KeyView:
        """For status."""
        other = self._other if self._other is not None and now < self._other[2] else None
        return KeyView(
            key=self.key,
            state=self.state,
            epoch=self.epoch,
            until_ns=self.until if self.state is State.OWNER else None,
            since_ns=self.since,
            reason=self._view_reason(now),
            owner=None if other is None else (other[0][0], other[1]),
            holds={b: r.hold_until for b, r in self.registers.items() if r.holds(now)},
        )

    def _view_reason(self, now: int) -> Reason:
        """Why an owner owns, and why another does not."""
        if self.state is not State.FOLLOWER:
            return self.reason
        if not self.wanted:
            return self.not_wanted_because
        if self._withdrawing is not None and now < self._withdrawing_ends:
            return Reason.WITHDRAWING
        if self._other is not None and now < self._other[2]:
            return Reason.OTHER_OWNS
        if now < self._occupied_until:
            return Reason.ADDRESS_IN_USE
        if sum(r.quiet_at() != FOREVER for r in self.registers.values()) < self._quorum:
            return Reason.NO_QUORUM
        if any(r.blocked_by(UNREADABLE, now) for r in self.registers.values()):
            return Reason.UNREADABLE_HEARD
        return Reason.CLAIM_LOST if self.reason is Reason.CLAIM_LOST else Reason.LISTENING
