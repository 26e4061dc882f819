"""rate_limit on real exchanges, and its table alone."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from fastpath.engine import Route
from fastpath.filters import Filters, RateLimit, Respond
from tests.fastpath.http.gateways import Client, Web, serving, tables, to

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

S = 1_000_000_000


def limited(requests: int, period_ms: int, burst: int, **more: Any) -> Route:
    return to(filters=Filters(rate=RateLimit(requests, period_ms, burst, **more)))


def test_after_a_burst_requests_come_evenly() -> None:
    rates = probe.Rates()
    taken = [rates.take(7, now, S // 10, 2 * S // 10) == 0 for now in range(0, S, S // 100)]
    at = [index for index, was in enumerate(taken) if was]
    assert at == [0, 1, 2, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_who_is_too_early_hears_when_to_come_again() -> None:
    rates = probe.Rates()
    assert rates.take(7, 0, S, 0) == 0
    assert rates.take(7, S // 4, S, 0) == 3 * S // 4
    assert rates.take(8, S // 4, S, 0) == 0
    assert rates.take(7, S, S, 0) == 0


def test_a_full_table_forgets_who_is_closest_to_a_full_bucket() -> None:
    rates = probe.Rates()
    keys = range(1, 8)  # all of one bucket
    for key in keys:
        assert rates.take(key, 0, key * S, 0) == 0
    assert rates.take(99, 0, 100 * S, 0) == 0  # in the place of 1
    assert all(rates.take(key, 0, key * S, 0) > 0 for key in range(2, 8))
    assert rates.take(99, 0, 100 * S, 0) > 0


def test_above_the_rate_there_is_429_and_when_to_come_again() -> None:
    web = Web()
    routes = (limited(1, 60_000, 2),)
    with serving(web.backend(), routes=routes) as (engine, port), Client(port) as client:
        assert [client.get()[0] for _ in range(2)] == [200, 200]
        status, fields, _ = client.get()
        assert status == 429
        assert 1 <= int(fields["retry-after"]) <= 60
        assert engine.stats()["http"]["rejected"]["rate"] == 1
        engine.publish(tables(port, web.backend(), routes=routes))
        assert client.get()[0] == 429  # a reload forgives nothing
        with Client(port) as another:
            assert another.get()[0] == 429  # nor does another connection
    assert len(web.requests) == 2


def test_each_value_of_a_header_has_a_limit_of_its_own() -> None:
    routes = (limited(1, 60_000, 1, header="X-Api-Key"),)
    web = Web()
    with serving(web.backend(), routes=routes) as (_, port), Client(port) as client:
        assert client.get("/", "x-api-key: a")[0] == 200
        assert client.get("/", "X-API-KEY:  a ")[0] == 429
        assert client.get("/", "x-api-key: b")[0] == 200
        assert client.get("/")[0] == 200  # the address
        assert client.get("/")[0] == 429


def test_routes_count_apart() -> None:
    routes = (limited(1, 60_000, 1)._replace(name="a", path="/a"), limited(1, 60_000, 1))
    web = Web()
    with serving(web.backend(), routes=routes) as (_, port), Client(port) as client:
        assert [client.get(path)[0] for path in ("/a", "/b", "/a", "/b")] == [200, 200, 429, 429]


def test_a_limit_holds_over_connections_and_workers() -> None:
    """The burst is a second's requests, so a client that stands still for less loses none."""
    rate: int = 400
    statuses: list[int] = []
    page = Respond(200, b"x")
    route = to("", filters=Filters(rate=RateLimit(rate, 1000, rate), respond=page))
    with serving(routes=(route,), workers=2) as (_, port):
        start = time.monotonic()

        def ask() -> None:
            with Client(port) as client:
                while time.monotonic() < start + 2:
                    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 8)
                    statuses.extend(client.response()[0] for _ in range(8))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        duration = time.monotonic() - start
    assert 429 in statuses
    assert statuses.count(200) == pytest.approx(rate + rate * duration, rel=0.05)
