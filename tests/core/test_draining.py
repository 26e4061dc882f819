"""What is on its way out of a plan, and for how long."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from piagent.core.draining import Drain, Drained, drained
from piagent.core.plan import Plan, PlannedBackend, PlannedListener, PlannedService
from piagent.core.proxying import Proxying

DRAIN_MS: Final = 1000
Weights = dict[str, dict[str, int]]
"""Service -> backend -> weight."""


def a_plan(weights: Weights, drain_ms: int = DRAIN_MS) -> Plan:
    services = tuple(
        PlannedService(name, tuple(map(backend, each, each.values())), Proxying(drain_ms=drain_ms))
        for name, each in weights.items()
    )
    return Plan((PlannedListener("192.0.2.9", 80, "a:80", http=False),), services, ())


def backend(name: str, weight: int = 1) -> PlannedBackend:
    return PlannedBackend(name, "192.0.2.1", 80, weight, up=True)


def weights_of(made: Drained) -> Weights:
    return {one.name: {b.name: b.weight for b in one.backends} for one in made.plan.services}


BOTH: Weights = {"a:80": {"x": 1, "y": 2}}
FIRST = drained(a_plan(BOTH), None, 0)


def test_nothing_is_on_its_way_out_of_a_first_plan() -> None:
    assert drained(a_plan({"a:80": {"x": 0}}), None, 0).drains == {}
    assert Drained(a_plan(BOTH), {}) == FIRST
    assert FIRST.next_ms() is None
    assert FIRST.due(10**9) == frozenset()


def test_a_weight_of_0_has_a_deadline() -> None:
    wanted = a_plan({"a:80": {"x": 0, "y": 2}})
    made = drained(wanted, FIRST, 500)
    assert made == Drained(wanted, {("a:80", "x"): Drain(500, 1500, stays=True)})
    assert made.next_ms() == 1500
    assert made.due(1499) == made.leaving() == frozenset()
    assert made.due(1500) == {("a:80", "x")}


def test_the_deadline_stays_whatever_else_changes_and_goes_by_the_time_that_the_service_has() -> (
    None
):
    made = drained(a_plan({"a:80": {"x": 0, "y": 2}}), FIRST, 500)
    again = drained(a_plan({"a:80": {"x": 0, "z": 7}}, drain_ms=3000), made, 900)
    assert again.drains == {
        ("a:80", "x"): Drain(500, 3500, stays=True),
        ("a:80", "y"): Drain(900, 3900, stays=False),
    }


def test_what_a_service_has_no_more_stays_with_a_weight_of_0_until_it_was_cut() -> None:
    wanted = a_plan({"a:80": {"y": 2}})
    made = drained(wanted, FIRST, 0)
    assert weights_of(made) == {"a:80": {"y": 2, "x": 0}}
    assert made.leaving() == {("a:80", "x")}
    assert drained(wanted, made, 5000) == made, "nobody has cut it"
    assert drained(wanted, made, 5000, made.due(5000)) == Drained(wanted, {})


def test_a_service_that_is_gone_stays_with_its_backends_until_they_were_cut() -> None:
    wanted = a_plan({"b:80": {"x": 1}})
    made = drained(wanted, FIRST, 0)
    assert weights_of(made) == {"b:80": {"x": 1}, "a:80": {"x": 0, "y": 0}}
    assert drained(wanted, made, 1000, made.due(1000)) == Drained(wanted, {})


def test_what_comes_back_is_as_if_it_had_never_left() -> None:
    for without in ({"a:80": {"y": 2}}, {"a:80": {"x": 0, "y": 2}}, {}):
        made = drained(a_plan(without), FIRST, 0)
        assert drained(a_plan(BOTH), made, 10) == FIRST


def test_what_was_cut_at_a_weight_of_0_is_not_cut_again() -> None:
    wanted = a_plan({"a:80": {"x": 0, "y": 2}})
    made = drained(wanted, drained(wanted, FIRST, 0), 1000, frozenset({("a:80", "x")}))
    for after in (wanted, a_plan({"a:80": {"y": 2}}), a_plan({})):
        assert ("a:80", "x") not in drained(after, made, 2000).drains


def test_a_weight_of_0_that_goes_keeps_its_deadline() -> None:
    made = drained(a_plan({"a:80": {"x": 0, "y": 2}}), FIRST, 0)
    made = drained(a_plan({"a:80": {"y": 2}}), made, 400)
    assert made.drains == {("a:80", "x"): Drain(0, 1000, stays=False)}


def test_a_backend_that_is_down_has_no_deadline() -> None:
    down = tuple(replace(one, up=False) for one in FIRST.plan.services[0].backends)
    wanted = replace(FIRST.plan, services=(replace(FIRST.plan.services[0], backends=down),))
    assert drained(wanted, FIRST, 0) == Drained(wanted, {})


def test_what_leaves_keeps_all_but_its_weight() -> None:
    down = replace(backend("x"), up=False)
    service = PlannedService("a:80", (down,), Proxying(drain_ms=5, slow_start_ms=7))
    before = drained(Plan((), (service,), ()), None, 0)
    (made,) = drained(Plan((), (), ()), before, 0).plan.services
    assert made == replace(service, backends=(replace(down, weight=0),))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # The policy is no longer "local", or is now; x runs elsewhere now.
        ({"a:80": {"x": 1}, "a:80@local": {"x": 1}}, {"a:80": {"x": 1}}),
        ({"a:80@local": {"x": 1}}, {"a:80": {"x": 1}, "a:80@local": {}}),
        ({"a:80": {"x": 1}}, {"a:80@local": {"x": 1}}),
    ],
)
def test_who_was_sent_to_a_backend_that_others_are_still_sent_to_has_no_deadline(
    before: Weights, after: Weights
) -> None:
    made = drained(a_plan(after), drained(a_plan(before), None, 0), 0)
    assert made == Drained(a_plan(after), {})


def test_a_backend_that_is_gone_for_inside_and_outside_drains_in_both() -> None:
    before = drained(a_plan({"a:80": {"x": 1}, "a:80@local": {"x": 1}}), None, 0)
    both = {("a:80", "x"), ("a:80@local", "x")}
    assert drained(a_plan({"a:80": {}, "a:80@local": {}}), before, 0).leaving() == both
    made = drained(a_plan({"a:80": {"x": 0}}), before, 0)
    assert made.drains.keys() == both
    assert made.leaving() == {("a:80@local", "x")}


# ---- against a model ----------------------------------------------------------------------------

_weights = st.dictionaries(
    st.sampled_from(["a:80", "b:80"]),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2), max_size=3),
    max_size=2,
)


@given(st.lists(st.tuples(_weights, st.integers(0, 700), st.booleans()), max_size=12))
def test_whoever_may_have_connections_has_a_share_or_a_deadline(
    steps: list[tuple[Weights, int, bool]],
) -> None:
    """The model: who has a share, and since when each of those has none that had one."""
    share: set[tuple[str, str]] = set()
    lost: dict[tuple[str, str], int] = {}
    now, made = 0, None
    for weights, wait_ms, cuts in steps:
        now += wait_ms
        ended = made.due(now) if made and cuts else frozenset()
        lost = {key: since for key, since in lost.items() if key not in ended}
        before = share
        share = {(s, b) for s, each in weights.items() for b, weight in each.items() if weight}
        for key in before - share:
            lost.setdefault(key, now)
        lost = {key: since for key, since in lost.items() if key not in share}

        made = drained(a_plan(weights), made, now, ended)
        assert {key: drain.since_ms for key, drain in made.drains.items()} == lost
        there = {(s, b): w for s, each in weights_of(made).items() for b, w in each.items()}
        wanted = {(s, b): w for s, each in weights.items() for b, w in each.items()}
        assert there == dict.fromkeys(lost, 0) | wanted
        assert [one.name for one in made.plan.services][: len(weights)] == [*weights]
