"""Check results -> up or down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from piagent.core.health import BackendHealth, HealthReason, Status, step
from piagent.core.model import HealthCheck

CHECK = HealthCheck(rise=2, fall=3)
LETTERS = {Status.UNKNOWN: "?", Status.UP: "u", Status.DOWN: "d"}


def run(results: str, check: HealthCheck = CHECK) -> str:
    """The status after each result: `+` good, `-` bad; `u` up, `d` down."""
    state, seen = BackendHealth(), ""
    for result in results:
        state = step(state, check, good=result == "+", detail=result)
        seen += LETTERS[state.status]
    return seen


def test_an_unchecked_backend_is_used() -> None:
    state = BackendHealth()
    assert state.usable
    assert state.reason is HealthReason.NOT_CHECKED


def test_the_first_result_decides_at_once() -> None:
    assert run("+") == "u"
    assert run("-") == "d"


def test_fall_bad_results_in_a_row_take_it_down() -> None:
    assert run("+---") == "uuud"


def test_rise_good_results_in_a_row_bring_it_up() -> None:
    assert run("-++") == "ddu"


def test_a_result_in_between_starts_the_count_again() -> None:
    assert run("+--+--+--+") == "u" * 10
    assert run("-+-+-+") == "d" * 6


def test_rise_and_fall_of_one_follow_every_result() -> None:
    assert run("+-+-", HealthCheck(rise=1, fall=1)) == "udud"


def test_the_reason_tells_what_changed_the_status_and_the_detail_is_the_last_result() -> None:
    state = step(BackendHealth(), CHECK, good=True, detail="connected")
    assert state == BackendHealth(Status.UP, HealthReason.FIRST_RESULT, 0, "connected")
    state = step(state, CHECK, good=False, detail="refused")
    assert state == BackendHealth(Status.UP, HealthReason.FIRST_RESULT, 1, "refused")
    for _ in range(2):
        state = step(state, CHECK, good=False, detail="timeout")
    assert state == BackendHealth(Status.DOWN, HealthReason.FALL_REACHED, 0, "timeout")
    assert not state.usable
    for _ in range(2):
        state = step(state, CHECK, good=True, detail="connected")
    assert state == BackendHealth(Status.UP, HealthReason.RISE_REACHED, 0, "connected")


@given(st.text("+-", max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_a_change_comes_exactly_after_a_full_run(results: str, rise: int, fall: int) -> None:
    seen = run(results, HealthCheck(rise=rise, fall=fall))
    for i in range(1, len(results)):
        if seen[i] != seen[i - 1]:
            sign, count = ("+", rise) if seen[i] == "u" else ("-", fall)
            assert results[: i + 1].endswith(sign * count)
            assert set(seen[i - count + 1 : i]) <= {seen[i - 1]}


@given(st.text("+-", max_size=10), st.integers(1, 5), st.integers(1, 5))
def test_a_check_that_could_not_be_made_says_nothing(results: str, rise: int, fall: int) -> None:
    check, state = HealthCheck(rise=rise, fall=fall), BackendHealth()
    for result in results:
        state = step(state, check, good=result == "+", detail=result)
        assert step(state, check, good=None, detail=state.detail) == state
        assert step(state, check, good=None, detail="no memory").detail == "no memory"
