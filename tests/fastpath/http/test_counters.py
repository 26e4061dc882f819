"""Counters of requests have an end, whatever the number of routes."""

from __future__ import annotations

import pytest

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

CELLS = 8192
DURATIONS = 1024


def test_each_route_and_code_is_counted_and_timed() -> None:
    told = probe.count_requests([(1, 200, 10), (1, 200, 20), (1, 404, 5000), (7, 200, 1)])
    assert told["requests"]["g"] == {"r1": {"GET": {200: 2, 404: 1}}, "r7": {"GET": {200: 1}}}
    assert told["durations"]["g"]["r1"]["count"] == 3
    assert told["durations"]["g"]["r1"]["sum"] == pytest.approx(0.00503)
    assert told["others"]["requests"] == told["others"]["durations"]["count"] == 0


def test_what_finds_no_room_is_counted_with_the_others() -> None:
    n = 20_000
    told = probe.count_requests([(slot, 200, 10) for slot in range(n)])
    apart = [codes["GET"][200] for codes in told["requests"]["g"].values() if codes]
    assert len(apart) <= CELLS
    assert sum(apart) + told["others"]["requests"] == n
    durations = told["durations"]["g"]
    assert list(durations) == [f"r{slot}" for slot in range(DURATIONS)]
    assert told["others"]["durations"]["count"] == n - DURATIONS


def test_a_route_that_has_its_place_keeps_it() -> None:
    many = [(slot, 200, 10) for slot in range(2 * DURATIONS)]
    told = probe.count_requests([*many, (0, 200, 10), (2 * DURATIONS - 1, 200, 10)])
    assert told["durations"]["g"]["r0"]["count"] == 2
    assert told["others"]["durations"]["count"] == DURATIONS + 1
