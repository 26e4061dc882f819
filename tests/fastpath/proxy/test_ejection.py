"""Ejected backends and those that have just come back, beside plain Python models."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.engine import Backend, Service, Tables

probe = pytest.importorskip("fastpath._probe", reason="built without PIAGENT_PROBE=1")

NAMES = "abcde"
POLICIES = ("maglev", "round-robin", "least-connections", "random-two")
EJECT_MS = 1000
FAILURES = 3


def tables(
    names: str = NAMES,
    *,
    down: str = "",
    moved: str = "",
    balance: str = "maglev",
    eject_failures: int = FAILURES,
    eject_ms: int = EJECT_MS,
    slow_start_ms: int = 0,
) -> Tables:
    backends = tuple(
        Backend(name, "10.0.0.2" if name in moved else "10.0.0.1", 80, 1, name not in down)
        for name in names
    )
    service = Service(
        "s",
        backends,
        balance=balance,
        eject_failures=eject_failures,
        eject_ms=eject_ms,
        slow_start_ms=slow_start_ms,
    )
    return Tables((), (service,), ())


def balancer(made: Tables, n_workers: int = 1) -> probe.Balancer:
    balancing = probe.Balancer(n_workers)
    balancing.publish(made)
    balancing.now_ms = 1_000_000
    return balancing


def fail(balancing: probe.Balancer, name: str, n: int = FAILURES) -> None:
    for _ in range(n):
        balancing.fail("s", name)


def passed_over(balancing: probe.Balancer) -> set[str]:
    """Who is passed over as ejected."""
    reasons = balancing.passed_over("s", 1)
    return {name for name, why in reasons.items() if why == probe.PASS_EJECTED}


def chosen(balancing: probe.Balancer, n: int = 200) -> set[str]:
    return {balancing.choose("s", probe.draw(1, at)) for at in range(n)}


@dataclass
class Outlier:
    """A backend as it is written in the documentation."""

    failures: int = 0
    ejections: int = 0
    until: int = 0
    n_ejected: int = 0

    def fail(self, now: int, threshold: int, eject_ms: int) -> None:
        if threshold == 0 or self.until > now:
            return
        self.failures += 1
        if self.failures >= threshold or self.ejections > 0:
            self.ejections += 1
            longer = min(eject_ms * min(self.ejections, 10), 300_000)
            self.until = now + max(eject_ms, longer)
            self.failures = 0
            self.n_ejected += 1

    def answer(self, now: int) -> None:
        self.failures = 0
        if self.until <= now:
            self.ejections = 0


@dataclass
class Model:
    """All of a service's."""

    outliers: dict[str, Outlier] = field(
        default_factory=lambda: {name: Outlier() for name in NAMES}
    )

    def passed_over(self, now: int, down: str) -> set[str]:
        usable = [name for name in NAMES if name not in down]
        ejected = [name for name in usable if self.outliers[name].until > now]
        return set(ejected[: len(usable) // 2])


STEP = st.tuples(
    st.sampled_from(["fail", "fail", "fail", "answer", "wait"]),
    st.sampled_from(NAMES),
    st.integers(0, 2),
    st.integers(0, 5000),
)


@settings(max_examples=300)
@given(
    steps=st.lists(STEP, max_size=60),
    down=st.sampled_from(["", "a", "cd", "abd", "bcde", "abcde"]),
    threshold=st.integers(0, 3),
    eject_ms=st.sampled_from([1, 1000, 100_000, 1_000_000]),
)
def test_backends_are_ejected_as_the_model_says(
    steps: list[tuple[str, str, int, int]], down: str, threshold: int, eject_ms: int
) -> None:
    model = Model()
    made = tables(down=down, eject_failures=threshold, eject_ms=eject_ms)
    balancing = balancer(made, n_workers=3)
    now = 1_000_000
    for what, name, worker, wait_ms in steps:
        outlier = model.outliers[name]
        if what == "fail":
            balancing.fail("s", name, worker)
            outlier.fail(now, threshold, eject_ms)
        elif what == "answer":
            balancing.answer("s", name, worker)
            outlier.answer(now)
        else:
            now += wait_ms
            balancing.now_ms = now
        for each, seen in model.outliers.items():
            assert balancing.ejected_ms("s", each) == max(0, seen.until - now)
            assert balancing.ejections("s", each) == seen.n_ejected
        ejected = passed_over(balancing)
        assert ejected == model.passed_over(now, down)
        assert 2 * len(ejected) <= len(NAMES) - len(down)


def test_answers_in_between_keep_a_backend_in() -> None:
    balancing = balancer(tables())
    for _ in range(10):
        fail(balancing, "a", FAILURES - 1)
        balancing.answer("s", "a")
    assert passed_over(balancing) == set()
    fail(balancing, "a")
    assert passed_over(balancing) == {"a"}


def test_it_is_tried_again_and_stays_away_longer_each_time_until_it_answers() -> None:
    balancing = balancer(tables())
    fail(balancing, "a")
    lengths = [balancing.ejected_ms("s", "a")]
    for _ in range(12):
        balancing.now_ms += lengths[-1]
        assert passed_over(balancing) == set()
        fail(balancing, "a", 1)
        lengths.append(balancing.ejected_ms("s", "a"))
    assert lengths == [EJECT_MS * min(times, 10) for times in range(1, 14)]
    balancing.now_ms += lengths[-1]
    balancing.answer("s", "a")
    fail(balancing, "a", FAILURES - 1)
    assert passed_over(balancing) == set()
    fail(balancing, "a", 1)
    assert balancing.ejected_ms("s", "a") == EJECT_MS


def test_what_was_under_way_when_it_was_ejected_changes_nothing() -> None:
    balancing = balancer(tables())
    fail(balancing, "a", 50)
    assert balancing.ejections("s", "a") == 1
    balancing.now_ms += EJECT_MS // 2
    balancing.answer("s", "a")
    fail(balancing, "a", 50)
    assert balancing.ejected_ms("s", "a") == EJECT_MS // 2
    balancing.now_ms += EJECT_MS // 2
    fail(balancing, "a", 1)
    assert balancing.ejected_ms("s", "a") == 2 * EJECT_MS


@pytest.mark.parametrize("balance", POLICIES)
def test_ejected_backends_get_nothing_while_there_are_others(balance: str) -> None:
    balancing = balancer(tables(balance=balance))
    fail(balancing, "b")
    fail(balancing, "e")
    assert chosen(balancing) == set("acd")
    # A connection that the others refuse still goes to them.
    assert balancing.choose("s", 1, ["a", "c", "d"]) in {"b", "e"}
    assert balancing.choose("s", 1, ["a", "b", "c", "d"]) == "e"
    assert balancing.choose("s", 1, list(NAMES)) is None
    balancing.now_ms += EJECT_MS
    assert chosen(balancing) == set(NAMES)


@pytest.mark.parametrize("balance", POLICIES)
def test_half_of_the_usable_ones_stay_however_many_fail(balance: str) -> None:
    balancing = balancer(tables(balance=balance))
    for name in NAMES:
        fail(balancing, name)
    assert passed_over(balancing) == {"a", "b"}
    assert chosen(balancing) == {"c", "d", "e"}
    # Checks have found one of those that stayed down, so there are four, and two of them stay.
    balancing.publish(tables(down="e", balance=balance))
    assert passed_over(balancing) == {"a", "b"}
    balancing.publish(tables(down="de", balance=balance))
    assert passed_over(balancing) == {"a"}
    assert chosen(balancing) == {"b", "c"}
    balancing.publish(tables(down="bcde", balance=balance))
    assert chosen(balancing) == {"a"}


def test_without_eject_failures_nobody_is_ejected() -> None:
    balancing = balancer(tables(eject_failures=0))
    fail(balancing, "a", 1000)
    assert passed_over(balancing) == set()
    balancing.publish(tables())
    fail(balancing, "a")
    assert passed_over(balancing) == {"a"}
    balancing.publish(tables(eject_failures=0))
    assert passed_over(balancing) == set()
    assert chosen(balancing) == set(NAMES)


def test_ejections_live_through_new_tables_but_not_through_a_new_hand_place_or_health() -> None:
    balancing = balancer(tables())
    for name in "ab":
        fail(balancing, name)
    balancing.publish(tables(NAMES + "z"))
    balancing.publish(tables(down="e"))
    assert passed_over(balancing) == {"a", "b"}
    balancing.publish(tables(down="e", moved="a"))
    assert passed_over(balancing) == {"b"}
    balancing.publish(tables(down="be", moved="a"))
    assert passed_over(balancing) == set()
    balancing.publish(tables(moved="a"))  # its check has found it well
    assert passed_over(balancing) == set()
    fail(balancing, "b", FAILURES - 1)
    assert passed_over(balancing) == set()


def test_a_slot_that_changes_hands_brings_no_ejection_along() -> None:
    balancing = balancer(tables("x"))
    ejected = set[int]()
    for turn in range(5):
        names = [f"{turn}-{each}" for each in range(4000)]  # all that may be there at a time
        backends = tuple(Backend(name, "10.0.0.1", 80, 1, up=True) for name in names)
        service = Service("s", backends, eject_failures=1, eject_ms=1_000_000)
        balancing.publish(Tables((), (service,), ()))
        slots = {balancing.slot("s", name) for name in names}
        assert all(balancing.ejected_ms("s", name) == 0 for name in names)
        for name in names:
            balancing.fail("s", name)
        ejected |= slots
        if turn > 2:
            assert slots <= ejected  # none is fresh


def test_workers_that_see_failures_at_one_moment_eject_once_and_half_at_most() -> None:
    n_rounds = 20_000
    balancing = balancer(tables(eject_failures=1, eject_ms=1), n_workers=2)
    threads = [
        threading.Thread(target=balancing.fail_at_once, args=("s", NAMES, n_rounds, worker))
        for worker in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [balancing.ejections("s", name) for name in NAMES] == [n_rounds] * len(NAMES)
    assert passed_over(balancing) == {"a", "b"}


# ---- slow start ----

SLOW_MS = 10_000


def test_the_share_rises_from_a_tenth_to_the_whole() -> None:
    shares = [probe.share(500, SLOW_MS, 500 + passed) for passed in range(0, SLOW_MS + 1, 100)]
    assert shares[0] == 6554
    assert shares[-1] == 65536
    for passed, share in zip(range(0, SLOW_MS + 1, 100), shares, strict=True):
        assert abs(share - (65536 * (0.1 + 0.9 * passed / SLOW_MS))) <= 1
    assert probe.share(0, SLOW_MS, 1) == 65536  # it never was away
    assert probe.share(500, 0, 500) == 65536
    assert probe.share(500, SLOW_MS, 400) == 6554  # a clock that is behind


def returned(names: str, balance: str, back: str) -> probe.Balancer:
    """A balancer whose backends `back` have just come back."""
    balancing = probe.Balancer()
    balancing.publish(tables(names, down=back, balance=balance, slow_start_ms=SLOW_MS))
    balancing.publish(tables(names, balance=balance, slow_start_ms=SLOW_MS))
    balancing.now_ms = balancing.returned_ms("s", back[0])
    return balancing


@pytest.mark.parametrize("balance", ["maglev", "round-robin", "random-two"])
@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_backend_that_came_back_gets_that_part_of_its_share(balance: str, part: float) -> None:
    balancing = returned("abcd", balance, "b")
    balancing.now_ms += int(SLOW_MS * part)
    n = 20_000
    counts = Counter(balancing.choose("s", probe.draw(9, at)) for at in range(n))
    due = (0.1 + 0.9 * part) * n / 4
    assert abs(counts["b"] - due) <= 5 * due**0.5
    others = (n - counts["b"]) / 3
    assert all(abs(counts[name] - others) <= 6 * others**0.5 for name in "acd")


def test_least_connections_fill_a_backend_that_came_back_slowly() -> None:
    balancing = returned("abcd", "least-connections", "b")
    for name in "acd":
        balancing.connect("s", name, 1000)
    counts = Counter(balancing.choose("s", probe.draw(9, at)) for at in range(10_000))
    assert 850 < counts["b"] < 1150
    balancing.now_ms += SLOW_MS
    assert {balancing.choose("s", probe.draw(9, at)) for at in range(100)} == {"b"}


@given(seed=st.integers(0, 2**64 - 1), part=st.integers(0, SLOW_MS))
@settings(max_examples=100)
def test_by_maglev_only_flows_of_its_own_wait_and_come_back_once(seed: int, part: int) -> None:
    """A flow that is not the returned backend's stays where it is; one that is moves once."""
    balancing = returned(NAMES, "maglev", "b")
    start = balancing.now_ms
    own = balancing.entry("s", seed)
    balancing.now_ms = start + part
    first = balancing.choose("s", seed)
    balancing.now_ms = start + SLOW_MS
    assert balancing.choose("s", seed) == own
    if own != "b":
        assert first == own
    if first == "b":
        for later in range(part, SLOW_MS, 500):
            balancing.now_ms = start + later
            assert balancing.choose("s", seed) == "b"


@pytest.mark.parametrize("balance", POLICIES)
def test_a_backend_that_came_back_is_used_when_it_is_the_only_one(balance: str) -> None:
    balancing = returned("abc", balance, "b")
    assert all(balancing.choose("s", probe.draw(1, at), ["a", "c"]) == "b" for at in range(50))
    balancing = returned("b", balance, "b")
    assert chosen(balancing) == {"b"}
    balancing = returned("abc", balance, "abc")
    assert chosen(balancing) == set("abc")


def test_one_that_came_back_goes_before_one_that_is_ejected() -> None:
    balancing = returned("abc", "maglev", "b")
    fail(balancing, "a")
    assert all(balancing.choose("s", probe.draw(1, at), ["c"]) == "b" for at in range(50))


def test_new_backends_and_those_of_the_start_get_their_whole_share_at_once() -> None:
    balancing = probe.Balancer()
    balancing.publish(tables("ab", slow_start_ms=SLOW_MS))
    balancing.publish(tables("abc", slow_start_ms=SLOW_MS))
    assert [balancing.returned_ms("s", name) for name in "abc"] == [0, 0, 0]
    before = time.monotonic_ns() // 1_000_000
    balancing.publish(tables("abc", down="a", slow_start_ms=SLOW_MS))
    balancing.publish(tables("abc", slow_start_ms=SLOW_MS))
    assert before <= balancing.returned_ms("s", "a") <= time.monotonic_ns() // 1_000_000
    balancing.publish(tables("abcd", slow_start_ms=SLOW_MS))
    assert balancing.returned_ms("s", "a") >= before
