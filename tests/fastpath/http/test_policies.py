"""What `balance` and `affinity` of a service do to the requests of a gateway."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fastpath.engine import Engine, Service
from tests.fastpath.http.gateways import Client, Peer, Seen, Web, ok, tables
from tests.fastpath.peers import running
from tests.net import free_port
from tests.waiting import wait_until


class Named(Web):
    """A backend that answers with its name, and holds what asks for /hold."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.goes_on = threading.Event()
        super().__init__(self._answer)

    def _answer(self, _peer: Peer, seen: Seen) -> bytes:
        if "/hold" in seen.line:
            self.goes_on.wait(20)
        return ok(self.name.encode())


@contextlib.contextmanager
def balancing(
    *webs: Named, weights: tuple[int, ...] = (1, 1, 1), **keys: Any
) -> Iterator[tuple[Engine, int]]:
    """A gateway before one service with that policy."""
    with running() as engine:
        publish(engine, port := free_port(), *webs, weights=weights, **keys)
        yield engine, port


def publish(
    engine: Engine, port: int, *webs: Named, weights: tuple[int, ...] = (1, 1, 1), **keys: Any
) -> None:
    backends = tuple(
        web.server.backend(web.name, weight=weight)
        for web, weight in zip(webs, weights, strict=False)
    )
    engine.publish(tables(port, *backends)._replace(services=(Service("s", backends, **keys),)))


def asked(port: int, n: int, address: str = "127.0.0.1") -> Counter[str]:
    """Who answered so many requests."""
    found: Counter[str] = Counter()
    with Client(port, address) as client:
        for _ in range(n):
            found[client.get()[2].decode()] += 1
    return found


def from_address(port: int, source: str) -> str:
    """Who answers a client that has that address."""
    connection = socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0))
    with connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = b""
        while data := connection.recv(1000):
            got += data
    return got[-1:].decode()


def test_round_robin_is_exact() -> None:
    webs = [Named(name) for name in "abc"]
    with balancing(*webs, weights=(5, 3, 2), balance="round-robin") as (_, port):
        for _ in range(3):
            assert asked(port, 10) == {"a": 5, "b": 3, "c": 2}


@pytest.mark.parametrize("balance", ["least-connections", "random-two"])
def test_who_is_busy_gets_nothing_while_another_is_idle(balance: str) -> None:
    webs = [Named(name) for name in "ab"]
    with balancing(*webs, balance=balance) as (engine, port), contextlib.ExitStack() as stack:
        held = stack.enter_context(Client(port))
        held.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: any(web.requests for web in webs))
        (busy,) = [web for web in webs if web.requests]
        (idle,) = [web for web in webs if not web.requests]
        assert asked(port, 30) == {idle.name: 30}
        busy.goes_on.set()
        assert held.response()[2].decode() == busy.name
        wait_until(lambda: engine.stats()["services"]["s"][busy.name]["active"] == 0)
        assert asked(port, 60).keys() == {"a", "b"}


def test_maglev_spreads_requests_not_connections() -> None:
    webs = [Named(name) for name in "abc"]
    with balancing(*webs) as (_, port):
        found = asked(port, 150)
    assert found.keys() == {"a", "b", "c"}
    assert min(found.values()) >= 25


def test_affinity_keeps_a_clients_requests_together_on_every_node() -> None:
    webs = [Named(name) for name in "abc"]
    sources = [f"127.0.{n}.7" for n in range(12)]
    with (
        balancing(*webs, affinity=True) as (_, port),
        balancing(*webs, affinity=True) as (_, other),
    ):
        first = [from_address(port, source) for source in sources]
        assert set(first) == {"a", "b", "c"}
        assert [from_address(port, source) for source in sources] == first
        assert [from_address(other, source) for source in sources] == first
        assert asked(port, 30).most_common()[0][1] == 30


def test_affinity_with_a_time_outlives_new_backends() -> None:
    webs = [Named(name) for name in "abc"]
    keys = {"affinity": True, "affinity_timeout_ms": 600_000}
    with balancing(webs[0], **keys) as (engine, port):
        sources = [f"127.0.{n}.9" for n in range(8)]
        assert {from_address(port, source) for source in sources} == {"a"}
        publish(engine, port, *webs, **keys)
        assert {from_address(port, source) for source in sources} == {"a"}
        others = {from_address(port, f"127.0.{n}.11") for n in range(12)}
        assert others == {"a", "b", "c"}
