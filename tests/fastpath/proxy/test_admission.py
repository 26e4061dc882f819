"""Who may connect: allowed sources, the limits of services and clients; what is given back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")

MAPPED = 0xFFFF << 32


def lan() -> tuple[int, int]:
    """192.0.2.0/24, as the tables have it."""
    first = MAPPED + int(ip_address("192.0.2.0"))
    return first, first + 255


def test_sources_are_checked_first_then_the_services_limit_then_the_clients() -> None:
    admission = probe.Admission(7)
    admission.limit(in_all=2, per_client=1, allowed=lan())
    first = admission.enter("192.0.2.0")
    assert isinstance(first, int)
    assert admission.enter("192.0.2.0") == "client"
    assert admission.enter("192.0.3.0") == "source"
    assert admission.enter("192.0.1.255") == "source"
    assert admission.enter("2001:db8::1") == "source"
    second = admission.enter("192.0.2.255")
    assert isinstance(second, int)
    assert admission.enter("192.0.2.0") == "service"
    assert admission.enter("192.0.2.1") == "service"
    assert admission.enter("192.0.3.0") == "source"
    assert admission.n_open == 2
    admission.leave(second)
    assert isinstance(admission.enter("192.0.2.1"), int)
    assert admission.enter("192.0.2.0") == "service"


def test_without_limits_everybody_may_connect_and_is_counted() -> None:
    admission = probe.Admission(2047)
    held = [admission.enter(f"192.0.2.{last}") for last in range(100)]
    assert all(isinstance(each, int) for each in held)
    assert admission.n_open == 100
    assert admission.n_clients == 0
    admission.limit(in_all=100)
    assert admission.enter("192.0.2.1") == "service"


CLIENT = st.sampled_from(["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1", "fe80::1"])
LIMIT = st.integers(0, 3)
RELOAD = st.tuples(LIMIT, LIMIT, st.booleans())


@given(steps=st.lists(st.one_of(CLIENT, RELOAD, st.integers(0, 10)), max_size=60))
def test_reloads_that_change_limits_in_between_leave_the_counts_even(
    steps: list[str | tuple[int, int, bool] | int],
) -> None:
    admission = probe.Admission(3)
    held: list[int] = []
    for step in steps:
        if isinstance(step, tuple):
            in_all, per_client, limited = step
            admission.limit(
                in_all=in_all, per_client=per_client, allowed=lan() if limited else None
            )
        elif isinstance(step, str):
            entered = admission.enter(step)
            if isinstance(entered, int):
                held.append(entered)
        elif held:
            admission.leave(held.pop(step % len(held)))
        assert admission.n_open == len(held)
        assert admission.n_clients <= len(held)
    while held:
        admission.leave(held.pop())
    assert admission.n_open == 0
    assert admission.n_clients == 0
