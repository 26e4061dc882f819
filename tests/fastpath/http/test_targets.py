"""Routes that lead to several services, by weight."""

from __future__ import annotations

import socket
from collections import Counter
from itertools import pairwise

import pytest

from fastpath.engine import Engine, Gateway, Listener, Route, Service, Tables, Target
from tests.fastpath.http.gateways import Client, to
from tests.fastpath.peers import Server, running
from tests.net import free_port

PIPELINED = 100


def named(name: str) -> Server:
    """A backend that answers every request with its name, many at a time."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode()

    def talk(connection: socket.socket) -> None:
        while data := connection.recv(1 << 16):
            connection.sendall(answer * data.count(b"\r\n\r\n"))

    return Server(talk)


def publish(engine: Engine, port: int, route: Route, *services: Service) -> None:
    listener = Listener("127.0.0.1", port, "g", http=True)
    engine.publish(Tables((listener,), services, (Gateway("g", False, (route,)),)))


def asked(port: int, n: int) -> str:
    """The names that so many requests over one connection were answered with."""
    names = []
    with Client(port) as client:
        file = client.socket.makefile("rb")
        for _ in range(n // PIPELINED):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * PIPELINED)
            for _ in range(PIPELINED):
                while file.readline() != b"\r\n":
                    pass
                names.append(file.read(1).decode())
    return "".join(names)


def test_a_canary_gets_its_share_evenly_mixed() -> None:
    services = [Service(name, (named(name).backend("b"),)) for name in "ab"]
    route = to(targets=(Target("a", 9), Target("b", 1)))
    with running() as engine:
        port = free_port()
        publish(engine, port, route, *services)
        names = asked(port, 10_000)
    assert abs(names.count("b") - 1000) <= 10
    turns = [place for place, name in enumerate(names) if name == "b"]
    assert {b - a for a, b in pairwise(turns)} <= {5, 8, 13}  # the three distances
    for hundred in range(100):
        assert 8 <= names[100 * hundred :][:100].count("b") <= 12


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (0, 7, 93), (1_000_000, 1, 0)])
def test_every_weight_counts(weights: tuple[int, ...]) -> None:
    services = [Service(name, (named(name).backend("b"),)) for name in "abc"]
    route = to(targets=tuple(map(Target, "abc", weights)))
    with running(workers=2) as engine:
        port = free_port()
        publish(engine, port, route, *services)
        for n in (200, 2000):
            found = Counter(asked(port, n))
            for name, weight in zip("abc", weights, strict=True):
                assert abs(found[name] - n * weight / sum(weights)) <= 5
                assert weight or not found[name]


def test_a_share_without_a_backend_is_answered_for_itself() -> None:
    up, down = named("a"), named("c")
    services = Service("a", (up.backend("b"),)), Service("c", (down.backend("b", up=False),))
    port = free_port()
    with running() as engine:
        publish(engine, port, to("a"), *services)
        client = Client(port)
        for targets, expected in (
            ((Target("a", 2), Target("", 1), Target("c", 1)), {200: 20, 500: 10, 503: 10}),
            ((Target("", 1),), {500: 40}),
            ((Target("a", 0), Target("c", 0)), {500: 40}),
            ((), {500: 40}),
        ):
            publish(engine, port, to(targets=targets), *services)
            found = Counter(client.get()[0] for _ in range(40))
            assert found.keys() == expected.keys()
            assert all(abs(found[status] - n) <= 1 for status, n in expected.items())


@pytest.mark.parametrize(
    ("targets", "what"),
    [
        ((Target("x"),), "there is no service 'x'"),
        ((Target("s", -1),), "weight -1 of 's' is not between 0 and 1000000"),
        ((Target("s"),) * 17, "17 targets, 16 at most"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets: tuple[Target, ...], what: str) -> None:
    with running() as engine, pytest.raises(ValueError, match=what):
        publish(engine, free_port(), to(targets=targets), Service("s", ()))
