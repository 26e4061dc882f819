"""No order of events makes two owners; and without any one rule some order does."""

from __future__ import annotations

import pytest

from tests.model.searches import MUTANTS, SHORT
from tests.model.spin import WHY_NOT, Search, run

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

_LIMIT_S = 600.0


@pytest.mark.parametrize("search", SHORT, ids=lambda search: search.title)
def test_the_search_is_complete_and_finds_no_two_owners(search: Search) -> None:
    outcome = run(search, limit_s=_LIMIT_S)
    assert not outcome.errors, outcome.trail
    assert outcome.complete


@pytest.mark.parametrize("removed", MUTANTS)
def test_the_search_finds_what_happens_without(removed: str) -> None:
    outcome = run(MUTANTS[removed], limit_s=_LIMIT_S, optimise="-O1")
    assert outcome.errors, f"without {removed} nothing happened in {outcome.states} states"
    assert "acts" in outcome.violated


def test_with_a_total_order_the_barrier_is_not_what_decides() -> None:
    """So it is the serial fan-out that the mutant of R3 is found by."""
    outcome = run(Search("", "WITHOUT_R3"), limit_s=_LIMIT_S)
    assert outcome.complete
    assert not outcome.errors
