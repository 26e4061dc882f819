"""R1 to R6 at one broker, one rule at a time."""

from __future__ import annotations

import pytest

from piagent.core.lease_types import FOREVER, NEVER, Spans
from piagent.core.register import Register
from tests.core.timing import MS, TIMING

SPANS = Spans.of(TIMING)
WAIT = SPANS.wait
LEASE = SPANS.lease
OTHER = ("pi2", "2" * 16)
THIRD = ("pi3", "3" * 16)
T0 = 10_000 * MS


@pytest.fixture
def register() -> Register:
    """It listens since T0."""
    register = Register(SPANS)
    register.listen(T0)
    return register


def _win(register: Register, now: int) -> None:
    register.say(1, now)
    register.hear_own(1, now + MS)
    register.say(2, now + MS)
    register.hear_own(2, now + 2 * MS)


def test_without_a_connection_nothing_may_be_claimed() -> None:
    assert Register(SPANS).quiet_at() == FOREVER


def test_a_claim_waits_after_the_subscription(register: Register) -> None:
    assert register.quiet_at() == T0 + WAIT
    assert not register.claimable(T0 + WAIT - 1)
    assert register.claimable(T0 + WAIT)


def test_a_claim_waits_after_each_foreign_assertion(register: Register) -> None:
    register.hear_assertion(OTHER, T0 + WAIT)
    assert register.quiet_at() == T0 + 2 * WAIT


def test_who_holds_for_longer_is_waited_for_longer(register: Register) -> None:
    register.hear_assertion(OTHER, T0 + WAIT, lease_ms=3 * TIMING.lease_ms)
    assert register.quiet_at() == T0 + 4 * WAIT


def test_a_later_short_lease_does_not_shorten_the_wait_for_a_long_one(register: Register) -> None:
    register.hear_assertion(OTHER, T0, lease_ms=5 * TIMING.lease_ms)
    register.hear_assertion(OTHER, T0 + MS, lease_ms=1)
    assert register.quiet_at() == T0 + 5 * WAIT


def test_claim_and_confirm_give_a_hold_from_the_sending_of_the_claim(register: Register) -> None:
    now = T0 + WAIT
    _win(register, now)
    assert register.hold_until == now + LEASE


def test_the_echo_of_the_claim_alone_gives_nothing_and_asks_for_the_confirm(
    register: Register,
) -> None:
    register.say(1, T0 + WAIT)
    register.hear_own(1, T0 + WAIT + MS)
    assert register.hold_until == NEVER
    assert register.confirm_due


def test_a_message_sent_too_early_is_no_claim(register: Register) -> None:
    _win(register, T0 + WAIT - 1)
    assert register.hold_until == NEVER


@pytest.mark.parametrize("when", ["before the echo", "before the confirm's echo"])
def test_a_foreign_assertion_in_the_window_voids_the_claim(register: Register, when: str) -> None:
    now = T0 + WAIT
    register.say(1, now)
    if when == "before the echo":
        register.hear_assertion(OTHER, now + 1)
    register.hear_own(1, now + 2)
    register.say(2, now + 3)
    if when == "before the confirm's echo":
        register.hear_assertion(OTHER, now + 4)
    register.hear_own(2, now + 5)
    assert register.hold_until == NEVER
    assert not register.claimed()


def test_a_hold_is_extended_by_each_certified_message_despite_others(register: Register) -> None:
    now = T0 + WAIT
    _win(register, now)
    register.hear_assertion(OTHER, now + 3 * MS)
    register.say(3, now + 200 * MS)
    register.hear_own(3, now + 201 * MS)
    assert register.hold_until == now + MS + LEASE


def test_a_hold_that_ran_out_is_not_extended(register: Register) -> None:
    now = T0 + WAIT
    _win(register, now)
    register.hear_assertion(OTHER, now + 3 * MS)
    register.say(3, now + 200 * MS)
    register.say(4, now + 201 * MS)
    register.hear_own(3, now + LEASE - 1)
    end = register.hold_until
    register.hear_own(4, end)
    assert register.hold_until == end


def test_a_reconnect_keeps_the_hold_and_can_extend_it(register: Register) -> None:
    now = T0 + WAIT
    _win(register, now)
    register.listen(now + 100 * MS)
    register.say(3, now + 101 * MS)
    register.hear_own(3, now + 102 * MS)
    register.say(4, now + 103 * MS)
    register.hear_own(4, now + 104 * MS)
    assert register.hold_until == now + 101 * MS + LEASE


def test_what_was_sent_on_an_earlier_connection_certifies_nothing(register: Register) -> None:
    now = T0 + WAIT
    register.say(1, now)
    register.listen(now + MS)
    register.hear_own(1, now + 2 * MS)
    register.say(2, now + 3 * MS)
    register.hear_own(2, now + 4 * MS)
    assert register.hold_until == NEVER


def test_a_duplicate_echo_is_no_confirm(register: Register) -> None:
    register.say(1, T0 + WAIT)
    register.hear_own(1, T0 + WAIT + MS)
    register.hear_own(1, T0 + WAIT + 2 * MS)
    assert register.hold_until == NEVER


def test_an_echo_later_than_the_lease_is_worth_nothing(register: Register) -> None:
    now = T0 + WAIT
    register.say(1, now)
    register.hear_own(1, now + MS)
    register.say(2, now + MS)
    register.hear_own(2, now + LEASE)
    assert register.hold_until == NEVER


def test_a_yield_cancels_its_sender_and_nobody_else(register: Register) -> None:
    register.hear_assertion(OTHER, T0 + WAIT)
    register.hear_assertion(THIRD, T0 + WAIT - MS)
    register.hear_yield(OTHER)
    assert register.quiet_at() == T0 + 2 * WAIT - MS


def test_a_yield_does_not_end_the_wait_after_the_subscription(register: Register) -> None:
    register.hear_assertion(OTHER, T0 + MS)
    register.hear_yield(OTHER)
    assert register.quiet_at() == T0 + WAIT


def test_dropping_gives_up_the_hold_and_the_claim_under_way(register: Register) -> None:
    now = T0 + WAIT
    _win(register, now)
    register.say(3, now + 3 * MS)
    register.drop()
    register.hear_own(3, now + 4 * MS)
    assert register.hold_until == NEVER
    assert not register.claimed()


def test_senders_that_block_no_longer_are_forgotten(register: Register) -> None:
    for life in range(100):
        register.hear_assertion(("pi2", f"{life:016x}"), T0 + life * WAIT)
    assert len(register._blocked_until) < 20
    assert register.quiet_at() == T0 + 100 * WAIT
