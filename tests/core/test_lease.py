"""The lease group: claims, ownership, yields, and what cannot be trusted."""

from __future__ import annotations

import msgspec
import pytest

from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    MAX_KEYS,
    MAX_LEASE_MS,
    Acquired,
    Alarm,
    CloseConnection,
    Disconnected,
    Extended,
    HandOver,
    Heard,
    Rank,
    Reason,
    Released,
    Role,
    Send,
    SetKeys,
    State,
    Subscribed,
    Tick,
    Unreadable,
    Want,
    Withdrawn,
)
from piagent.core.model import Timing
from tests.core.lease_bench import KEY, ME, WALL_MS, Bench
from tests.core.timing import MS, TIMING

WAIT = TIMING.wait_ms * MS
LEASE = TIMING.lease_ms * MS
GUARD = TIMING.guard_ms * MS
OTHER_KEY = "10.0.0.2"
THREE = ("b1", "b2", "b3")


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def owner() -> Bench:
    bench = Bench()
    bench.own()
    return bench


def _yields(bench: Bench) -> list[dict[str, str | None]]:
    return [send.message.yields for send in bench.taken(Send) if send.message.yields]


# ---- claiming ----


def test_a_silent_key_is_claimed_after_the_wait_and_not_before(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT - 1)
    assert bench.taken(Send) == []
    assert bench.view().reason is Reason.LISTENING
    bench.run(1)
    (acquired,) = bench.taken(Acquired)
    assert acquired.until_ns == bench.now + LEASE - GUARD
    assert acquired.reason is Reason.SILENCE
    assert bench.view().state is State.OWNER


def test_without_a_quorum_nothing_is_claimed() -> None:
    bench = Bench(THREE)
    bench.connect("b1")
    bench.run(5 * WAIT)
    assert bench.taken(Send) == []
    assert bench.view().reason is Reason.NO_QUORUM
    bench.connect("b2")
    bench.run(WAIT)
    assert len(bench.taken(Acquired)) == 1


def test_the_epoch_is_the_wall_clock_or_more_than_was_seen(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT)
    (acquired,) = bench.taken(Acquired)
    assert acquired.epoch == WALL_MS + TIMING.wait_ms

    later = Bench()
    later.connect()
    later.hear("b1", later.foreign({KEY: (WALL_MS * 2, Role.OWNER)}))
    later.run(WAIT)
    (acquired,) = later.taken(Acquired)
    assert acquired.epoch == WALL_MS * 2 + 1


def test_a_corrected_wall_clock_is_taken_over(bench: Bench) -> None:
    bench.step(Tick(wall_ms=WALL_MS + 10**9))
    bench.connect()
    bench.run(WAIT)
    assert bench.taken(Acquired)[0].epoch == WALL_MS + 10**9 + TIMING.wait_ms


def test_a_live_owner_is_left_alone(bench: Bench) -> None:
    bench.connect()
    for _ in range(20):
        bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
        bench.run(200 * MS)
    assert bench.taken(Send) == []
    assert bench.view().reason is Reason.OTHER_OWNS
    assert bench.view().owner == ("pi2", 5)


def test_an_owner_with_longer_leases_is_waited_for_longer(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT - MS)
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}, lease_ms=4 * TIMING.lease_ms))
    bench.run(4 * WAIT - 1)
    assert bench.taken(Send) == []
    bench.run(1)
    assert len(bench.taken(Acquired)) == 1


def test_the_rank_delays_the_claim() -> None:
    bench = Bench(rank=2)
    bench.connect()
    bench.run(WAIT + 2 * TIMING.stagger_ms * MS - 1)
    assert bench.taken(Send) == []
    bench.step(Rank(KEY, 1))
    assert len(bench.taken(Acquired)) == 1


def test_two_claims_at_once_both_fail_and_are_yielded(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT - 100 * MS)
    bench.deaf = {"b1"}
    bench.run(100 * MS)
    (claim,) = bench.taken(Send)
    bench.hear("b1", bench.foreign({KEY: (9, Role.CLAIM)}))
    bench.hear("b1", claim.message)
    assert bench.view().state is State.FOLLOWER
    assert bench.taken(Acquired) == []
    assert _yields(bench) == [{KEY: None}]


def test_a_claim_that_nobody_returns_is_given_up_after_the_attempt(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT - 100 * MS)
    bench.deaf = {"b1"}
    bench.run(100 * MS + TIMING.attempt_ms * MS - 1)
    assert bench.view().state is State.CLAIMING
    bench.run(1)
    assert bench.taken(Acquired) == []
    assert _yields(bench) == [{KEY: None}]


def test_a_new_connection_waits_anew(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT - MS)
    bench.step(Disconnected("b1"))
    bench.connect()
    bench.run(WAIT - 1)
    assert bench.taken(Send) == []


# ---- owning ----


def test_an_owner_renews_and_extends(owner: Bench) -> None:
    owner.run(1000 * MS)
    sends = owner.taken(Send)
    assert len(sends) == 5
    assert all(s.message.asserts[KEY].role is Role.OWNER for s in sends)
    untils = [extended.until_ns for extended in owner.taken(Extended)]
    assert untils == sorted(set(untils))
    assert owner.view().until_ns == untils[-1]


def test_an_owner_that_hears_nothing_releases_at_its_deadline(owner: Bench) -> None:
    owner.deaf = {"b1"}
    until = owner.view().until_ns
    assert until is not None
    owner.run(until - owner.now - 1)
    assert owner.taken(Released) == []
    owner.run(1)
    (released,) = owner.taken(Released)
    assert released.reason is Reason.LEASE_RAN_OUT


def test_an_announced_deadline_is_kept_even_if_the_echo_comes_just_then(owner: Bench) -> None:
    owner.deaf = {"b1"}
    owner.run(300 * MS)
    last = owner.taken(Send)[-1]
    connection, until = owner.connection(), owner.view().until_ns
    assert until is not None
    owner.now = until
    owner.step(Heard("b1", connection, last.message))
    assert [released.reason for released in owner.taken(Released)] == [Reason.LEASE_RAN_OUT]


def test_a_reconnect_does_not_cost_the_lease(owner: Bench) -> None:
    owner.step(Disconnected("b1"))
    owner.run(300 * MS)
    owner.connect()
    owner.run(2000 * MS)
    assert owner.taken(Released) == []


def test_one_broker_of_three_may_be_silent() -> None:
    bench = Bench(THREE)
    bench.own()
    bench.step(Disconnected("b2"))
    bench.run(5000 * MS)
    assert bench.taken(Released) == []
    assert set(bench.view().holds) == {"b1", "b3"}
    bench.step(Disconnected("b3"))
    bench.run(LEASE)
    assert [released.reason for released in bench.taken(Released)] == [Reason.LEASE_RAN_OUT]


def test_an_owner_regains_a_broker_that_came_back() -> None:
    bench = Bench(THREE)
    bench.own()
    bench.step(Disconnected("b2"))
    bench.run(3000 * MS)
    bench.connect("b2")
    bench.run(WAIT + 500 * MS)
    assert set(bench.view().holds) == set(THREE)


def test_of_two_owners_the_one_with_the_lower_epoch_gives_way(owner: Bench) -> None:
    owner.hear("b1", owner.foreign({KEY: (1, Role.OWNER)}))
    assert owner.taken(Released) == []
    owner.hear("b1", owner.foreign({KEY: (WALL_MS * 2, Role.OWNER)}))
    assert [released.reason for released in owner.taken(Released)] == [Reason.ANOTHER_OWNER]
    assert [alarm.reason for alarm in owner.taken(Alarm)] == [Reason.ANOTHER_OWNER]


# ---- giving up ----


def test_others_are_told_only_when_the_address_is_gone(owner: Bench) -> None:
    owner.step(Want(KEY, wanted=False, reason=Reason.STOPPING))
    (released,) = owner.taken(Released)
    assert released.reason is Reason.STOPPING
    owner.run(3000 * MS)
    assert owner.taken(Send) == []
    owner.step(Withdrawn(KEY, released.epoch))
    assert _yields(owner) == [{KEY: None}]


def test_a_withdrawal_of_an_earlier_lease_does_not_count(owner: Bench) -> None:
    owner.step(Want(KEY, wanted=False))
    (released,) = owner.taken(Released)
    owner.step(Withdrawn(KEY, released.epoch - 1))
    assert owner.taken(Send) == []


def test_no_claim_is_made_while_the_address_may_still_be_there(owner: Bench) -> None:
    owner.step(Want(KEY, wanted=False))
    owner.step(Want(KEY, wanted=True))
    assert owner.view().reason is Reason.WITHDRAWING
    owner.run(WAIT - 1)
    assert owner.taken(Send) == []
    owner.run(1)
    assert len(owner.taken(Acquired)) == 1


def test_a_confirmed_withdrawal_frees_the_way_at_once(owner: Bench) -> None:
    owner.step(Want(KEY, wanted=False))
    (released,) = owner.taken(Released)
    owner.step(Withdrawn(KEY, released.epoch))
    owner.step(Want(KEY, wanted=True))
    (acquired,) = owner.taken(Acquired)
    assert acquired.epoch > released.epoch


def test_a_hand_over_names_the_successor_and_waits(owner: Bench) -> None:
    owner.step(HandOver(KEY, "pi2"))
    (released,) = owner.taken(Released)
    assert (released.reason, released.successor) == (Reason.HANDED_OVER, "pi2")
    owner.step(Withdrawn(KEY, released.epoch))
    assert _yields(owner) == [{KEY: "pi2"}]
    owner.run(WAIT - 1)
    assert owner.taken(Acquired) == []


def test_an_invited_successor_claims_at_once_whatever_its_rank() -> None:
    bench = Bench(rank=3)
    bench.connect()
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
    bench.run(WAIT)
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
    bench.hear("b1", bench.foreign(yields={KEY: ME}))
    (acquired,) = bench.taken(Acquired)
    assert acquired.reason is Reason.INVITED


def test_others_leave_the_first_go_to_the_successor(bench: Bench) -> None:
    bench.connect()
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
    bench.run(WAIT - MS)
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
    bench.run(MS)
    bench.hear("b1", bench.foreign(yields={KEY: "pi3"}))
    bench.run(WAIT // 2 - 1)
    assert bench.taken(Send) == []
    bench.run(1)
    assert bench.taken(Acquired)[0].reason is Reason.YIELDED


def test_an_old_yield_cancels_nothing(bench: Bench) -> None:
    bench.connect()
    old = bench.foreign(yields={KEY: None})
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
    bench.run(WAIT - MS)
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
    bench.hear("b1", old)
    bench.run(WAIT - 1)
    assert bench.taken(Send) == []


def test_an_old_yield_cancels_nothing_after_replays_of_many_former_lives(bench: Bench) -> None:
    bench.connect()
    old = bench.foreign(yields={KEY: None})
    bench.run(WAIT - MS)
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}))
    for life in range(300):
        bench.hear("b1", bench.foreign(node="pi3", incarnation=f"{life:016x}"))
    bench.hear("b1", old)
    bench.run(WAIT - 1)
    assert bench.taken(Send) == []


# ---- several keys, reload ----


def test_one_message_carries_all_keys() -> None:
    keys = tuple(f"10.0.1.{i}" for i in range(MAX_KEYS))
    bench = Bench(keys=keys)
    bench.connect()
    bench.run(WAIT)
    assert len(bench.taken(Acquired)) == len(keys)
    assert all(len(send.message.asserts) == len(keys) for send in bench.taken(Send))


def test_more_keys_than_a_message_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_KEYS} keys"):
        Bench(keys=tuple(map(str, range(MAX_KEYS + 1))))


def test_a_key_that_left_the_file_is_released_and_yielded(owner: Bench) -> None:
    owner.step(SetKeys({OTHER_KEY: 0}))
    (released,) = owner.taken(Released)
    assert (released.key, released.reason) == (KEY, Reason.REMOVED)
    assert [view.key for view in owner.group.view()] == [OTHER_KEY]
    owner.step(Withdrawn(KEY, released.epoch))
    assert _yields(owner) == [{KEY: None}]
    owner.run(3 * WAIT)
    assert {acquired.key for acquired in owner.taken(Acquired)} == {OTHER_KEY}


def test_a_new_key_waits_although_the_connection_is_old(owner: Bench) -> None:
    owner.run(3 * WAIT)
    owner.taken(Acquired)
    owner.step(SetKeys({KEY: 0, OTHER_KEY: 0}))
    owner.run(WAIT - 1)
    assert owner.taken(Acquired) == []
    owner.run(1)
    assert [acquired.key for acquired in owner.taken(Acquired)] == [OTHER_KEY]
    assert owner.taken(Released) == []


def test_yields_that_come_in_a_burst_share_messages() -> None:
    keys = tuple(f"10.0.1.{i}" for i in range(20))
    bench = Bench(keys=keys)
    bench.connect()
    bench.run(WAIT)
    bench.deaf = {"b1"}
    bench.effects.clear()
    for key in keys:
        bench.step(Want(key, wanted=False))
    for released in bench.taken(Released):
        bench.step(Withdrawn(released.key, released.epoch))
    sends = bench.taken(Send)
    assert len(sends) == 3
    assert bench.group.yields_pending()
    bench.hear("b1", sends[-1].message)
    rest = _yields(bench)
    assert [len(told) for told in rest] == [len(keys) - 3]
    assert not bench.group.yields_pending()


def test_a_yield_that_waits_is_not_said_when_the_key_was_owned_again_meanwhile() -> None:
    """The address is there again: what was true when the yield began to wait is not now (R6)."""
    others = tuple(f"10.0.1.{i}" for i in range(5))
    bench = Bench(THREE, keys=(KEY, *others))
    bench.own()
    bench.deaf = {"b1"}
    for key in (*others, KEY):
        bench.step(Want(key, wanted=False))
        (released,) = bench.taken(Released)
        bench.step(Withdrawn(key, released.epoch))
    last = [send for send in bench.taken(Send) if send.broker == "b1"][-1]
    assert bench.group.yields_pending()
    bench.step(Want(KEY, wanted=True))
    assert len(bench.taken(Acquired)) == 1
    bench.step(HandOver(KEY, "pi2"))
    (released,) = bench.taken(Released)
    bench.effects.clear()
    bench.hear("b1", last.message)
    assert all(KEY not in yields for yields in _yields(bench))
    bench.step(Withdrawn(KEY, released.epoch))
    assert _yields(bench) == [{KEY: "pi2"}] * 3


# ---- what cannot be trusted ----


def _unreadable(bench: Bench, sender: str = "pi9", lease_ms: int = 0) -> Unreadable:
    return Unreadable("b1", bench.connection(), sender, Reason.BAD_SIGNATURE, lease_ms)


def test_something_unreadable_blocks_every_key() -> None:
    bench = Bench(keys=(KEY, OTHER_KEY))
    bench.connect()
    bench.run(WAIT - MS)
    bench.step(_unreadable(bench))
    assert {view.reason for view in bench.group.view()} == {Reason.UNREADABLE_HEARD}
    bench.run(WAIT - 1)
    assert bench.taken(Send) == []
    bench.run(1)
    assert len(bench.taken(Acquired)) == 2


def test_something_unreadable_takes_nothing_away(owner: Bench) -> None:
    for _ in range(30):
        owner.step(_unreadable(owner))
        owner.run(100 * MS)
    assert owner.taken(Released) == []
    assert len(owner.taken(Alarm)) == 1


def test_what_may_hold_for_longer_blocks_for_longer(bench: Bench) -> None:
    bench.connect()
    bench.step(_unreadable(bench, lease_ms=2 * TIMING.lease_ms))
    bench.run(2 * WAIT - 1)
    assert bench.taken(Send) == []


def test_many_strangers_do_not_make_many_alarms(owner: Bench) -> None:
    for i in range(1000):
        owner.step(_unreadable(owner, sender=f"stranger-{i}"))
    alarms = owner.taken(Alarm)
    assert len(alarms) < 100
    assert alarms[-1].reason is Reason.ALARMS_SUPPRESSED
    owner.hear("b1", owner.foreign({KEY: (WALL_MS * 2, Role.OWNER)}))
    assert [alarm.reason for alarm in owner.taken(Alarm)] == [Reason.ANOTHER_OWNER]


def test_another_configuration_blocks_and_its_yields_count_for_nothing(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT - MS)
    bench.hear("b1", bench.foreign({KEY: (5, Role.OWNER)}, config_hash="else"))
    bench.hear("b1", bench.foreign(yields={KEY: None}, config_hash="else"))
    assert [alarm.reason for alarm in bench.taken(Alarm)] == [Reason.CONFIG_MISMATCH]
    bench.run(WAIT - 1)
    assert bench.taken(Send) == []


def test_two_owners_of_different_configurations_end_all_the_same(owner: Bench) -> None:
    said = {KEY: (WALL_MS * 2, Role.OWNER)}
    owner.hear("b1", owner.foreign(said, config_hash="else"))
    assert [released.reason for released in owner.taken(Released)] == [Reason.ANOTHER_OWNER]


def test_a_twin_is_a_stranger_and_raises_an_alarm(owner: Bench) -> None:
    owner.run(2 * WAIT)
    said = {KEY: (WALL_MS * 2, Role.OWNER)}
    owner.hear("b1", owner.foreign(said, node=ME))
    reasons = [alarm.reason for alarm in owner.taken(Alarm)]
    assert reasons == [Reason.TWIN, Reason.ANOTHER_OWNER]


def test_an_own_message_from_another_broker_is_no_echo() -> None:
    bench = Bench(THREE)
    bench.connect()
    bench.run(WAIT - MS)
    bench.deaf = {"b2", "b3"}
    bench.run(MS)
    for send in bench.taken(Send):
        bench.hear("b2", msgspec.structs.replace(send.message, broker="b1"))
    assert "b2" not in bench.view().holds
    assert bench.taken(Alarm)[0].reason is Reason.BRIDGED


# ---- connections, lag ----


def test_a_late_self_echo_closes_its_connection_and_no_other() -> None:
    bench = Bench(THREE)
    bench.own()
    bench.deaf = {"b2"}
    bench.run(2 * TIMING.lag_ms * MS + 10 * MS)
    assert bench.taken(CloseConnection) == [CloseConnection("b2", Reason.ECHO_OVERDUE)]
    assert bench.group.connected() == ("b1", "b3")


def test_a_late_loop_closes_every_connection_before_it_reads_anything(bench: Bench) -> None:
    bench.connect()
    bench.run(WAIT - 100 * MS)
    connection = bench.connection()
    bench.now = bench.group.next_wakeup_ns() + TIMING.lag_ms * MS + 1
    effects = bench.step(Heard("b1", connection, bench.foreign({KEY: (1, Role.OWNER)})))
    assert effects == [CloseConnection("b1", Reason.LOOP_LATE)]
    assert bench.group.connected() == ()
    assert bench.view().owner is None


def test_what_an_earlier_connection_still_brings_is_ignored(bench: Bench) -> None:
    bench.connect()
    old = bench.connection()
    bench.connect()
    bench.step(Heard("b1", old, bench.foreign({KEY: (1, Role.OWNER)})))
    assert bench.view().owner is None


def test_an_unknown_broker_is_no_broker(bench: Bench) -> None:
    bench.step(Subscribed("b9", "c"))
    assert bench.group.connected() == ()


def test_renewals_that_nobody_returns_close_the_connection() -> None:
    bench = Bench(THREE, timing=msgspec.structs.replace(TIMING, lag_ms=60_000))
    bench.own()
    bench.deaf = {"b2"}
    bench.run(6 * TIMING.renew_ms * MS)
    assert len([send for send in bench.taken(Send) if send.broker == "b2"]) == 4
    assert bench.taken(CloseConnection) == [CloseConnection("b2", Reason.TOO_MANY_UNECHOED)]


@pytest.mark.parametrize(
    "changes",
    [
        {"wait_ms": 899},
        {"renew_ms": 300},
        {"attempt_ms": 820},
        {"lease_ms": MAX_LEASE_MS + 1, "wait_ms": 2 * MAX_LEASE_MS},
        {"lease_ms": 0},
    ],
    ids=["wait below lease", "renewals too seldom", "attempt too long", "too long", "no lease"],
)
def test_timing_that_cannot_be_safe_or_work_is_refused(changes: dict[str, int]) -> None:
    timing: Timing = msgspec.structs.replace(TIMING, **changes)
    with pytest.raises(ValueError, match="must"):
        LeaseGroup(timing, ("b1",), ME, "1" * 16, {}, config_hash="", seed=1, now_ns=0, wall_ms=0)


def test_the_same_events_give_the_same_effects() -> None:
    first, again = Bench(THREE), Bench(THREE)
    for bench in (first, again):
        bench.own()
        bench.run(3000 * MS)
    assert first.effects == again.effects
