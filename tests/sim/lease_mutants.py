"""The lease's rules, removed one at a time from the real core."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from piagent.core import lease_types
from piagent.core.key_lease import KeyLease
from piagent.core.lag_guard import EchoGuard, LoopGuard
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    FOREVER,
    NEVER,
    Assertion,
    LeaseMessage,
    Reason,
    Released,
    Sender,
    State,
)
from piagent.core.register import Register, Said
from tests.sim.mutant import Mutant

# ---- R1 ----


def _no_wait_after_suback(patch: pytest.MonkeyPatch) -> None:
    real = Register.listen

    def listen(self: Register, now: int) -> None:
        real(self, now - self._spans.wait)

    patch.setattr(Register, "listen", listen)


def _one_wait_a_life(patch: pytest.MonkeyPatch) -> None:
    real = Register.listen
    first: dict[int, tuple[Register, int]] = {}

    def listen(self: Register, now: int) -> None:
        real(self, first.setdefault(id(self), (self, now))[1])

    patch.setattr(Register, "listen", listen)


def _new_key_counts_as_quiet(patch: pytest.MonkeyPatch) -> None:
    real = LeaseGroup._set_keys

    def set_keys(self: LeaseGroup, keys: Any) -> None:
        before = set(self._leases)
        real(self, keys)
        for key in set(self._leases) - before:
            for broker in self._links:
                self._leases[key].registers[broker].listen(self._now - self._spans.wait)

    patch.setattr(LeaseGroup, "_set_keys", set_keys)


def _wait_shorter_than_lease(patch: pytest.MonkeyPatch) -> None:
    real = lease_types.Spans.of

    def of(timing: Any) -> lease_types.Spans:
        return msgspec.structs.replace(real(timing), wait=timing.lease_ms * 850_000)

    patch.setattr(lease_types.Spans, "of", of)


# ---- R2 to R5 ----


def _no_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Register, "_close_windows", lambda self: None)


def _no_barrier(patch: pytest.MonkeyPatch) -> None:
    real = Register.hear_own

    def hear_own(self: Register, seq: int, now: int) -> None:
        real(self, seq, now)
        if self._echoed is not None and self._echoed.seq == seq:
            self._certify(self._echoed, now)

    patch.setattr(Register, "hear_own", hear_own)


def _base_is_the_echo(patch: pytest.MonkeyPatch) -> None:
    real = Register._certify

    def certify(self: Register, said: Said, now: int) -> None:
        real(self, Said(said.seq, now, claim=said.claim), now)

    patch.setattr(Register, "_certify", certify)


def _no_chain(patch: pytest.MonkeyPatch) -> None:
    def certify(self: Register, said: Said, now: int) -> None:
        until = said.at + self._spans.lease
        if until > now and (self.hold_until > 0 or said.claim):
            self.hold_until = max(self.hold_until, until)

    def expire(self: LeaseGroup) -> None:
        """Stop acting, but go on renewing."""
        for lease in self._leases.values():
            if lease.state is State.OWNER and 0 < lease.until <= self._now:
                lease.until = 0
                lease._enter(State.CLAIMING, lease.reason, self._now)
                lease._claim_ends = FOREVER
                self._out.append(Released(lease.key, Reason.LEASE_RAN_OUT, None, lease.epoch))

    patch.setattr(Register, "_certify", certify)
    patch.setattr(Register, "claimed", lambda self: True)
    patch.setattr(LeaseGroup, "_expire", expire)
    real = KeyLease.acquire

    def acquire(self: KeyLease, now: int) -> None:
        self.epoch += 1
        real(self, now)

    patch.setattr(KeyLease, "acquire", acquire)


# ---- R6 ----


def _any_yield_cancels(patch: pytest.MonkeyPatch) -> None:
    real = LeaseGroup._hear_other

    def hear_other(self: LeaseGroup, broker: str, message: LeaseMessage) -> None:
        real(self, broker, message)
        for key in message.yields:
            if key in self._leases:
                self._leases[key].registers[broker].hear_yield(message.sender)

    patch.setattr(LeaseGroup, "_hear_other", hear_other)


def _yield_ends_the_wait(patch: pytest.MonkeyPatch) -> None:
    real = Register.hear_yield

    def hear_yield(self: Register, sender: Sender) -> None:
        self._quiet_since -= self._spans.wait
        self._blocked_until.setdefault(sender, NEVER)
        real(self, sender)

    patch.setattr(Register, "hear_yield", hear_yield)


def _yield_before_withdrawal(patch: pytest.MonkeyPatch) -> None:
    real = LeaseGroup._release

    def release(
        self: LeaseGroup, lease: KeyLease, reason: Reason, successor: str | None = None
    ) -> None:
        real(self, lease, reason, successor)
        self._yield(lease.key, successor)

    patch.setattr(LeaseGroup, "_release", release)


def _lost_claim_hides_an_address(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyLease, "may_yield_claim", lambda self: True)
    real = KeyLease.claim_at

    def claim_at(self: KeyLease, now: int) -> int:
        self._withdrawing_ends = now
        return real(self, now)

    patch.setattr(KeyLease, "claim_at", claim_at)


def _yielder_keeps_its_hold(patch: pytest.MonkeyPatch) -> None:
    def drop(self: Register) -> None:
        self._forget_said()

    patch.setattr(Register, "drop", drop)


# ---- R7 to R9 ----


def _own_by_name(patch: pytest.MonkeyPatch) -> None:
    real = LeaseGroup._hear

    def hear(self: LeaseGroup, broker: str, message: LeaseMessage) -> None:
        if message.node == self._me[0]:
            self._hear_own(broker, message)
        else:
            real(self, broker, message)

    patch.setattr(LeaseGroup, "_hear", hear)


def _minority(patch: pytest.MonkeyPatch) -> None:
    real = KeyLease.__init__

    def init(self: KeyLease, *args: Any) -> None:
        real(self, *args)
        self._quorum = 1

    patch.setattr(KeyLease, "__init__", init)


def _no_connection_guard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EchoGuard, "overdue", lambda self, now: False)
    patch.setattr(EchoGuard, "due", lambda self, now: False)
    patch.setattr(EchoGuard, "wakeup", lambda self: FOREVER)
    patch.setattr(EchoGuard, "crowded", lambda self: False)
    patch.setattr(EchoGuard, "full", lambda self: False)


def _no_loop_guard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LoopGuard, "late", lambda self, now: False)


# ---- trust, epochs, liveness ----


def _unreadable_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyLease, "hear_unreadable", lambda *args: None)


def _unreadable_only_blocks_one_key(patch: pytest.MonkeyPatch) -> None:
    real = LeaseGroup._hear_unreadable

    def hear_unreadable(self: LeaseGroup, *args: Any) -> None:
        every, self._leases = self._leases, dict(list(self._leases.items())[:1])
        real(self, *args)
        self._leases = every

    patch.setattr(LeaseGroup, "_hear_unreadable", hear_unreadable)


def _lower_epochs_ignored(patch: pytest.MonkeyPatch) -> None:
    real = KeyLease.hear_assertion

    def hear_assertion(
        self: KeyLease, broker: str, sender: Sender, said: Assertion, *rest: int
    ) -> None:
        if said.epoch >= max(self._epoch_seen, self.epoch):
            real(self, broker, sender, said, *rest)

    patch.setattr(KeyLease, "hear_assertion", hear_assertion)


def _epoch_without_clock(patch: pytest.MonkeyPatch) -> None:
    real = KeyLease.claim
    patch.setattr(KeyLease, "claim", lambda self, now, wall_ms: real(self, now, 0))


def _failed_once_gives_up(patch: pytest.MonkeyPatch) -> None:
    real = KeyLease.lose_claim

    def lose_claim(self: KeyLease, now: int, backoff: int) -> None:
        real(self, now, FOREVER)

    patch.setattr(KeyLease, "lose_claim", lose_claim)


LEASE_MUTANTS: dict[str, Mutant] = {
    "r1-suback": Mutant("R1", "the wait after SUBACK", _no_wait_after_suback, "plain", 0),
    "r1-per-life": Mutant("R1", "the wait at each connection", _one_wait_a_life, "plain", 0),
    "r1-new-key": Mutant("R1", "the wait after a key is new", _new_key_counts_as_quiet, "plain", 2),
    "wait": Mutant("R1", "W >= L", _wait_shorter_than_lease, "plain", 1),
    "r2": Mutant("R2", "the window", _no_window, "plain", 1),
    "r3": Mutant("R3", "the barrier, with serial fan-out", _no_barrier, "racing", 22),
    "r4": Mutant("R4", "the base at the sending", _base_is_the_echo, "racing", 25),
    "r5": Mutant("R5", "the chain", _no_chain, "plain", 6),
    "r6-seq": Mutant("R6", "a yield cancels only what is older", _any_yield_cancels, "haunted", 62),
    "r6-suback": Mutant(
        "R6", "a yield leaves the wait after SUBACK", _yield_ends_the_wait, "restless", 46
    ),
    "r6-withdrawn": Mutant(
        "R6", "the address goes before the yield", _yield_before_withdrawal, "plain", 0
    ),
    "r6-claim": Mutant(
        "R6", "also before a lost claim's yield", _lost_claim_hides_an_address, "slow-removal", 4
    ),
    "r6-drop": Mutant(
        "R6", "the yielder drops its hold first", _yielder_keeps_its_hold, "restless", 73
    ),
    "r7": Mutant("R7", "the incarnation, among twins", _own_by_name, "twins", 0),
    "r8": Mutant("R8", "the majority", _minority, "three-brokers", 0),
    "r9-echo": Mutant("R9", "the self-echo and the limit", _no_connection_guard, "clogged", 0),
    "r9-loop": Mutant("R9", "the loop guard", _no_loop_guard, "crowded", 2),
    "fail-safe": Mutant("fail-safe", "unreadable blocks", _unreadable_ignored, "other-secret", 0),
    "fail-safe-config": Mutant(
        "config hash", "another configuration blocks", _unreadable_ignored, "other-config", 0
    ),
    "fail-safe-keys": Mutant(
        "fail-safe", "it blocks every key", _unreadable_only_blocks_one_key, "other-secret", 0
    ),
    "epoch-order": Mutant("epoch", "every epoch blocks", _lower_epochs_ignored, "plain", 0),
    "epoch-clock": Mutant(
        "epoch", "the clock in the epoch", _epoch_without_clock, "plain", 4, ("after epoch",)
    ),
    "liveness": Mutant(
        "liveness", "another attempt", _failed_once_gives_up, "plain", 2, ("after the storm",)
    ),
}
