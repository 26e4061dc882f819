"""R9: what lags is found out."""

from __future__ import annotations

from piagent.core.lag_guard import UNECHOED_MAX, UNECHOED_URGENT_MAX, EchoGuard, LoopGuard
from piagent.core.lease_types import Spans
from tests.core.timing import MS, TIMING

SPANS = Spans.of(TIMING)
T0 = 5_000 * MS


def test_the_first_self_echo_is_due_at_once() -> None:
    assert EchoGuard(SPANS, T0).due(T0)


def test_one_self_echo_is_under_way_at_a_time() -> None:
    guard = EchoGuard(SPANS, T0)
    guard.echo_sent("a", T0)
    assert not guard.due(T0 + SPANS.echo)
    guard.echo_returned("a")
    assert not guard.due(T0 + SPANS.echo - 1)
    assert guard.due(T0 + SPANS.echo)


def test_an_echo_older_than_lambda_is_overdue() -> None:
    guard = EchoGuard(SPANS, T0)
    guard.echo_sent("a", T0)
    assert not guard.overdue(T0 + SPANS.lag)
    assert guard.overdue(T0 + SPANS.lag + 1)
    assert guard.wakeup() == T0 + SPANS.lag + 1


def test_only_the_echo_under_way_counts_as_returned() -> None:
    guard = EchoGuard(SPANS, T0)
    guard.echo_sent("a", T0)
    guard.echo_returned("b")
    guard.echo_returned("")
    assert guard.overdue(T0 + SPANS.lag + 1)


def test_a_stall_between_two_checks_stays_below_twice_lambda() -> None:
    assert SPANS.echo <= SPANS.lag


def test_lease_messages_under_way_are_counted_and_limited() -> None:
    guard = EchoGuard(SPANS, T0)
    for seq in range(UNECHOED_MAX):
        assert guard.crowded() == (seq >= UNECHOED_URGENT_MAX)
        assert not guard.full()
        guard.lease_sent(seq)
    assert guard.full()
    guard.lease_echoed(1)
    assert not guard.crowded()


def test_the_loop_is_late_when_it_comes_lambda_after_its_promise() -> None:
    guard = LoopGuard(SPANS, T0)
    guard.promise(T0 + 100 * MS)
    assert not guard.late(T0 + 100 * MS + SPANS.lag)
    assert guard.late(T0 + 100 * MS + SPANS.lag + 1)
