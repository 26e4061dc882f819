"""Connections that begin no faster than a service allows; the others wait in the backlog."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.engine import Engine, Listener, Service, Tables
from tests.fastpath.peers import Server, connect, read_exactly, running
from tests.net import free_port
from tests.waiting import wait_until

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")

S = 1_000_000_000
MS = 1_000_000
START = 1000 * S
RATES = st.one_of(st.integers(1, 20), st.integers(1, 1_000_000))


@given(rate=RATES, pauses=st.lists(st.integers(0, 2 * S), max_size=40))
def test_in_no_span_of_time_begin_more_than_the_rate_and_a_tenth_of_a_second_allow(
    rate: int, pauses: list[int]
) -> None:
    shared = probe.Rate()
    now, moments = START, []
    for pause in pauses:
        now += pause // rate
        if shared.wait_ms(now, rate) == 0:
            moments.append(now)
    interval = S // rate
    for i, first in enumerate(moments):
        for n, last in enumerate(moments[i:]):
            assert n * interval <= last - first + probe.RATE_AHEAD_MS * MS


@given(rate=RATES, lateness=st.lists(st.integers(0, 90), min_size=1, max_size=30))
def test_who_comes_when_it_was_told_or_a_little_later_loses_nothing(
    rate: int, lateness: list[int]
) -> None:
    shared = probe.Rate()
    now, n = START, shared.take_all(START, rate)
    assert n == 1 + probe.RATE_AHEAD_MS * MS // (S // rate)
    for late_ms in lateness:
        wait_ms = shared.wait_ms(now, rate)
        assert wait_ms > 0
        if wait_ms > 1:
            assert shared.wait_ms(now + (wait_ms - 1) * MS, rate) > 0
        now += (wait_ms + late_ms) * MS
        taken = shared.take_all(now, rate)
        assert taken > 0
        n += taken
    assert n == 1 + (now - START + probe.RATE_AHEAD_MS * MS) // (S // rate)


def test_threads_that_ask_at_once_get_together_what_the_rate_allows() -> None:
    shared = probe.Rate()
    taken: list[int] = []

    def take() -> None:
        taken.append(shared.take_all(START, 1_000_000))

    for _ in range(20):
        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken) == 100_001
        shared, taken = probe.Rate(), []


RATE = 40


class Slow:
    """A service with a rate behind a listener, another one without, and clients of both."""

    def __init__(self, engine: Engine, rate: int) -> None:
        self.engine = engine
        self.rate = rate
        self.port, self.other = free_port(), free_port()
        backends = (Server().backend("a"),)
        self.tables = Tables(
            (
                Listener("127.0.0.1", self.port, "slow", http=False),
                Listener("127.0.0.1", self.other, "fast", http=False),
            ),
            (Service("slow", backends, accept_rate=rate), Service("fast", backends)),
            (),
        )
        self.began = time.monotonic()
        engine.publish(self.tables)

    def accepted(self) -> int:
        """How many the listener with the rate has accepted, no more than it may have."""
        n: int = self.engine.stats()["listeners"][f"127.0.0.1:{self.port}"]["accepted"]
        assert n <= 1 + self.rate / 10 + self.rate * (time.monotonic() - self.began)
        return n


def echoes(client: socket.socket) -> bool:
    client.sendall(b"x")
    return read_exactly(client, 1) == b"x"


def each(clients: list[socket.socket], do: Callable[[socket.socket], bool]) -> bool:
    return all(do(client) for client in clients)


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_over_the_rate_wait_and_all_are_served(workers: int) -> None:
    with running(workers=workers) as engine, contextlib.ExitStack() as held:
        slow = Slow(engine, RATE)
        clients = [held.enter_context(connect(slow.port)) for _ in range(RATE)]
        served = held.enter_context(connect(slow.other))
        # Another listener's connections, new and old, do not wait for those.
        while slow.accepted() < RATE:
            assert echoes(served)
            with connect(slow.other) as other:
                assert echoes(other)
        assert each(clients, echoes)


def test_a_listener_that_is_closed_takes_all_that_wait() -> None:
    with running() as engine, contextlib.ExitStack() as held:
        slow = Slow(engine, 1)
        clients = [held.enter_context(connect(slow.port)) for _ in range(20)]
        assert slow.accepted() < 20
        engine.publish(slow.tables._replace(listeners=slow.tables.listeners[1:]))
        assert each(clients, echoes)


def test_a_reload_that_lifts_the_rate_lets_all_in() -> None:
    with running() as engine, contextlib.ExitStack() as held:
        slow = Slow(engine, 1)
        clients = [held.enter_context(connect(slow.port)) for _ in range(20)]
        services = tuple(service._replace(accept_rate=0) for service in slow.tables.services)
        engine.publish(slow.tables._replace(services=services))
        assert each(clients, echoes)
        wait_until(lambda: engine.active() == 20)
