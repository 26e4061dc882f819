"""Who gets through to a TCP service, and how many at a time."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from fastpath.engine import Engine, Listener, Service, Tables
from tests.fastpath.peers import (
    PATIENCE_S,
    Server,
    break_off,
    read_all,
    read_exactly,
    running,
)
from tests.net import free_port
from tests.waiting import wait_until


class Limited:
    """A service behind a port, and clients at several addresses."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.port = free_port()
        self.server = Server()
        self.service = Service("s", (self.server.backend("a"),))
        self.clients: list[socket.socket] = []

    def publish(self, **changes: object) -> None:
        """The service with some values changed, for now."""
        service = self.service._replace(**changes)
        listener = Listener("127.0.0.1", self.port, "s", http=False)
        self.engine.publish(Tables((listener,), (service,), ()))

    def open(self, source: str = "127.0.0.1", preface: bytes = b"") -> bool:
        """Connect; whether it got through. Those that did stay open."""
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S, (source, 0))
        through = False
        with contextlib.suppress(ConnectionError):
            client.sendall(preface + b"x")
            through = read_exactly(client, 1) == b"x"
        if through:
            self.clients.append(client)
        else:
            client.close()
        return through

    def close(self, n: int | None = None) -> None:
        """Close the first `n`, or all, and wait for their end."""
        for client in self.clients[:n]:
            client.close()
        del self.clients[:n]
        wait_until(lambda: self.engine.active() == len(self.clients))

    def rejected(self) -> dict[str, int]:
        """Why some did not get through, without zeros."""
        counts = self.engine.stats()["ends"]["s"]["rejected"]
        return {why: n for why, n in counts.items() if n}


@pytest.fixture
def limited() -> Iterator[Limited]:
    with running(workers=2) as engine:
        made = Limited(engine)
        yield made
        for client in made.clients:
            client.close()
        made.server.close()


def test_only_allowed_sources_get_through(limited: Limited) -> None:
    limited.publish(allowed=("127.0.0.8/31", "192.0.2.0/24"))
    assert limited.open("127.0.0.8")
    assert limited.open("127.0.0.9")
    assert not limited.open("127.0.0.7")
    assert not limited.open("127.0.0.10")
    wait_until(lambda: limited.rejected() == {"source_not_allowed": 2})
    assert limited.server.n_accepted == 2
    limited.publish()
    assert limited.open("127.0.0.7")


def test_a_service_has_no_more_connections_than_it_may_over_all_workers(limited: Limited) -> None:
    limited.publish(connections_max=5)
    assert [limited.open(f"127.0.0.{n}") for n in range(2, 10)] == [True] * 5 + [False] * 3
    wait_until(lambda: limited.rejected() == {"service_limit": 3})
    limited.close(2)
    assert [limited.open() for _ in range(3)] == [True, True, False]
    limited.close()
    assert [limited.open() for _ in range(6)] == [True] * 5 + [False]


def test_a_client_has_no_more_connections_than_it_may_over_all_workers(limited: Limited) -> None:
    limited.publish(connections_per_source=3)
    assert [limited.open("127.0.0.2") for _ in range(5)] == [True] * 3 + [False] * 2
    assert [limited.open("127.0.0.3") for _ in range(5)] == [True] * 3 + [False] * 2
    wait_until(lambda: limited.rejected() == {"client_limit": 4})
    limited.close(1)
    assert not limited.open("127.0.0.3")
    assert limited.open("127.0.0.2")
    assert not limited.open("127.0.0.2")


def test_limits_that_change_count_what_is_open(limited: Limited) -> None:
    limited.publish()
    assert [limited.open() for _ in range(4)] == [True] * 4
    limited.publish(connections_max=4, connections_per_source=2)
    assert not limited.open()  # those from before count for the service
    limited.publish(connections_max=6, connections_per_source=2)
    # They do not count for their client, which was not counted then.
    assert [limited.open() for _ in range(3)] == [True, True, False]
    limited.publish(connections_per_source=1)
    assert not limited.open()
    limited.publish()
    assert limited.open()
    limited.close()
    limited.publish(connections_max=2, connections_per_source=2)
    assert [limited.open() for _ in range(3)] == [True, True, False]


def test_behind_a_proxy_it_is_the_real_client_that_is_limited(limited: Limited) -> None:
    def told(source: str) -> bool:
        return limited.open(preface=f"PROXY TCP4 {source} 192.0.2.9 1 2\r\n".encode())

    limited.publish(
        trusted=("127.0.0.0/8",), allowed=("198.51.100.0/24",), connections_per_source=1
    )
    assert told("198.51.100.1")
    assert told("198.51.100.2")
    assert not told("198.51.100.1")
    assert not told("127.0.0.1")
    wait_until(lambda: limited.rejected() == {"client_limit": 1, "source_not_allowed": 1})


def test_ends_of_every_kind_are_counted_once(limited: Limited) -> None:
    limited.publish(connections_max=1, connections_per_source=1)
    for n in range(20):
        # The one before may have its end under way.
        wait_until(limited.open)
        client = limited.clients.pop()
        if n % 4 == 0:
            break_off(client)
        elif n % 4 == 1:
            limited.server.open[-1].shutdown(socket.SHUT_RDWR)
            assert read_all(client) == b""
        elif n % 4 == 2:
            limited.engine.cut("127.0.0.1")
        client.close()
        wait_until(lambda: limited.engine.active() == 0)
    assert limited.open()
    assert not limited.open()


def test_who_may_not_come_does_not_use_up_the_rate_of_the_others(limited: Limited) -> None:
    limited.publish(accept_rate=1, allowed=("127.0.0.8",))
    began = time.monotonic()
    assert [limited.open("127.0.0.9") for _ in range(30)] == [False] * 30
    assert limited.open("127.0.0.8")
    assert time.monotonic() - began < 20  # by the rate it would be 29 seconds at least
