"""How much work giving out is: counted in executed lines, which are the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from piagent.core import address_book, allocation, allocation_why, exchange
from piagent.core.allocation import Request, allocate
from tests.core.allocating import ask, held_of, pool

OURS = {module.__file__ for module in (address_book, allocation, allocation_why, exchange)}


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of the allocator are executed."""
    count = 0

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        return local if frame.f_code.co_filename in OURS else None

    former = sys.gettrace()
    sys.settrace(enter)
    try:
        work()
    finally:
        sys.settrace(former)
    return count


def asks(count: int, **more: Any) -> list[Request]:
    return [ask(f"service/{number}", **more) for number in range(count)]


MILLION, ENDLESS = "10.16.0.0/12", "fd00::/64"
SIZES = [
    pytest.param("10.16.0.0/20", MILLION, False, id="a million IPv4 addresses"),
    pytest.param("10.16.0.0/20", MILLION, True, id="a million, some to be avoided"),
    pytest.param("fd00::/116", ENDLESS, False, id="an IPv6 /64"),
    pytest.param("10.16.0.0/20 fd00::/116", f"{MILLION} {ENDLESS}", False, id="both"),
]


def fresh(spans: str, count: int, *, avoid: bool = False, **more: Any) -> int:
    """The lines that it takes to give so many their first address."""
    pools, requests = [pool(spans, avoid_buggy_ips=avoid)], asks(count, **more)
    return lines_of(lambda: allocate(pools, requests, {}))


@pytest.mark.parametrize(("small", "large", "avoid"), SIZES)
def test_the_size_of_the_pool_makes_no_difference(small: str, large: str, avoid: bool) -> None:
    assert fresh(small, 300, avoid=avoid) == fresh(large, 300, avoid=avoid)


@pytest.mark.parametrize(("small", "large", "avoid"), SIZES)
def test_twice_as_many_requests_are_twice_the_work(small: str, large: str, avoid: bool) -> None:
    assert fresh(large, 500, avoid=avoid) < 2.1 * fresh(large, 250, avoid=avoid)


def test_an_address_at_the_far_end_costs_no_more_than_the_first() -> None:
    pools, requests = [pool(f"{ENDLESS} {MILLION}")], [ask("a"), ask("b"), ask("c")]
    first = {"a": ("fd00::",), "b": ("10.16.0.1",)}
    last = {"a": ("fd00::ffff:ffff:ffff:ffff",), "b": ("10.31.255.255",)}
    near, far = (lines_of(lambda h=held: allocate(pools, requests, h)) for held in (first, last))
    assert far <= near


@pytest.mark.parametrize(("small", "large", "avoid"), SIZES)
def test_a_newcomer_costs_a_step_for_each_that_is_there(
    small: str, large: str, avoid: bool
) -> None:
    pools, requests = [pool(large, avoid_buggy_ips=avoid)], asks(400)
    held = held_of(allocate(pools, requests, {}))
    without = lines_of(lambda: allocate(pools, requests, held))
    with_one = lines_of(lambda: allocate(pools, [*requests, ask("new")], held))
    assert with_one - without < 4 * len(requests) + 200


def test_a_pool_of_many_ranges_is_not_gone_through_for_each_request() -> None:
    spans = " ".join(f"10.0.{number // 100}.{number % 100 * 2}/32" for number in range(1000))
    assert fresh(spans, 800) < 2.1 * fresh(spans, 400)


def test_one_sharing_key_for_all_is_not_gone_through_for_each_request() -> None:
    assert fresh(MILLION, 400, key="k") < 2.1 * fresh(MILLION, 200, key="k")


def test_a_chain_of_moves_is_not_gone_through_for_each_of_them() -> None:
    def moves(count: int) -> int:
        held = {f"service/{n}": (f"10.16.{n // 250}.{n % 250}",) for n in range(count)}
        requests = [
            ask(f"service/{n}", f"10.16.{(n + 1) // 250}.{(n + 1) % 250}") for n in range(count)
        ]
        return lines_of(lambda: allocate([pool(MILLION)], requests, held))

    assert moves(400) < 2.1 * moves(200)
