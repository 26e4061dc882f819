"""Parts of a hand-over: each counts once, from who was expected, in time, and few wait."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piagent.core import wire
from piagent.core.flow_parts import (
    FLOWS_MAX,
    PART_FLOWS,
    PARTS_MAX,
    WAITING_MAX,
    Arrivals,
    Fault,
    Part,
    read,
    written,
)

VIP, OTHER = "10.0.0.9", "10.0.0.10"
GIVER, STRANGER = ("pi-1", "a" * 16), ("pi-2", "b" * 16)
LATER, EPOCH = 1000, 7


def part(number: int, of: int, flows: bytes = b"flows") -> str:
    return written(Part(number, of, flows))


def expecting() -> Arrivals:
    arrivals = Arrivals()
    arrivals.expect(VIP, GIVER, LATER)
    return arrivals


@given(st.binary(max_size=200), st.integers(1, PARTS_MAX), st.integers(1, PARTS_MAX))
def test_a_part_comes_through_whole(flows: bytes, number: int, of: int) -> None:
    told = Part(number, of, flows)
    assert read(written(told)) == (told if number <= of else None)


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: b.decode("latin1"))))
def test_no_text_is_taken_for_a_part(body: str) -> None:
    assert read(body) is None


def test_the_longest_part_fits_into_a_message_and_all_flows_into_the_parts() -> None:
    longest = written(Part(PARTS_MAX, PARTS_MAX, bytes(20 + 44 * PART_FLOWS)))
    assert len(longest) <= wire.BODY_MAX
    assert PARTS_MAX * PART_FLOWS >= FLOWS_MAX


STEP = st.one_of(
    st.tuples(
        st.just("hear"),
        st.sampled_from([VIP, OTHER]),
        st.sampled_from([GIVER, GIVER, STRANGER]),
        st.sampled_from([EPOCH, EPOCH, EPOCH + 1]),
        st.integers(1, 4),
        st.sampled_from([3, 3, 2]),
    ),
    st.tuples(st.just("take"), st.sampled_from([VIP, OTHER])),
    st.tuples(st.just("expect"), st.sampled_from([VIP, OTHER])),
    st.tuples(st.just("late")),
)


@settings(max_examples=300)
@given(st.lists(STEP, max_size=30))
def test_what_counts_is_each_part_of_the_latest_hand_over_once(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    arrivals, now = Arrivals(), 0
    heard: dict[str, tuple[int, int, set[int]] | None] = {}
    for what, *about in steps:
        if what == "late":
            now = LATER + 1
        elif what == "expect":
            arrivals.expect(about[0], GIVER, LATER)
            heard[about[0]] = (0, 0, set())
        elif what == "take":
            arrival = arrivals.of(about[0])
            if arrival is not None and arrival.waiting:
                arrival.waiting.popleft()
        else:
            vip, giver, epoch, number, of = about
            before = heard.get(vip)
            counts = arrivals.hear(vip, giver, epoch, part(number, of), now) is None
            right = before is not None and giver == GIVER and now <= LATER and number <= of
            if right and before is not None and before[2]:
                right = before[:2] == (epoch, of) and number not in before[2]
            assert counts == right
            if counts and before is not None:
                heard[vip] = (epoch, of, before[2] | {number})
    for vip in (VIP, OTHER):
        arrival = arrivals.of(vip)
        if arrival is not None:
            _, of, seen = heard[vip] or (0, 0, set())
            assert arrival.is_complete() == (len(seen) == of > 0 and not arrival.waiting)


def test_parts_that_wait_are_few_and_the_others_refused() -> None:
    arrivals = Arrivals()
    vips = [f"10.0.0.{n}" for n in range(10)]
    for vip in vips:
        arrivals.expect(vip, GIVER, LATER)
    faults = [
        arrivals.hear(vip, GIVER, EPOCH, part(number, PARTS_MAX), 0)
        for vip in vips
        for number in range(1, PARTS_MAX + 1)
    ]
    assert faults == [None] * WAITING_MAX + [Fault.TOO_MANY] * (len(faults) - WAITING_MAX)


@pytest.mark.parametrize(
    "body",
    [
        part(0, 1),
        part(1, PARTS_MAX + 1),
        part(1, 1).replace('"of"', '"off"'),
        part(1, 1).replace("}", ',"more":1}'),
        msgspec.json.encode([1, 1, ""]).decode(),
        '{"number":1,"of":1,"flows":"!"}',
    ],
)
def test_what_is_no_part_is_malformed(body: str) -> None:
    assert expecting().hear(VIP, GIVER, EPOCH, body, 0) is Fault.MALFORMED


def test_another_hand_over_begins_anew_and_the_end_of_the_former_ends_only_that() -> None:
    arrivals = expecting()
    arrivals.hear(VIP, GIVER, EPOCH, part(1, 2), 0)
    former = arrivals.of(VIP)
    assert former is not None
    arrivals.expect(VIP, STRANGER, LATER)
    arrivals.forget(former)
    assert arrivals.hear(VIP, GIVER, EPOCH, part(2, 2), 0) is Fault.UNEXPECTED
    assert arrivals.hear(VIP, STRANGER, EPOCH + 1, part(1, 1), 0) is None
    arrivals.end(LATER + 1)
    assert arrivals.of(VIP) is None
