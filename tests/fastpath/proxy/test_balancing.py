"""Policies through the engine, with real sockets on both sides."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from fastpath.engine import Backend, Engine, Gateway, Listener, Service, Tables
from tests.fastpath.http.gateways import Web, ok, to
from tests.fastpath.peers import PATIENCE_S, Datagrams, Server, connect, read_all, running
from tests.net import free_port
from tests.waiting import wait_until

POLICIES = ("maglev", "round-robin", "least-connections", "random-two")
NAMES = "abc"


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with running(workers=request.param) as started:
        yield started


def greeter(name: str) -> Server:
    """A backend that says its name at once, and waits for the end."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(name.encode())
        read_all(connection)

    return Server(serve)


def tables(port: int, service: Service, *, udp: bool = False) -> Tables:
    return Tables((Listener("127.0.0.1", port, "s", http=False, udp=udp),), (service,), ())


def serve(engine: Engine, balance: str, weights: dict[str, int] | None = None) -> int:
    """Publish a TCP service of greeters; its port."""
    port = free_port()
    weights = weights or dict.fromkeys(NAMES, 1)
    backends = tuple(greeter(name).backend(name, weight=weights[name]) for name in weights)
    engine.publish(tables(port, Service("s", backends, balance=balance)))
    return port


def hold(port: int, clients: contextlib.ExitStack) -> tuple[str, socket.socket]:
    """Who serves a connection that stays open."""
    client = clients.enter_context(connect(port))
    return client.recv(1).decode(), client


def once(port: int) -> str:
    with contextlib.ExitStack() as clients:
        return hold(port, clients)[0]


def active(engine: Engine) -> dict[str, int]:
    return {name: each["active"] for name, each in engine.stats()["services"]["s"].items()}


def test_round_robin_takes_turns_by_weight(engine: Engine) -> None:
    port = serve(engine, "round-robin", {"a": 5, "b": 1, "c": 1})
    chosen = [once(port) for _ in range(35)]
    n_workers = len(engine.turns())
    if n_workers == 1:
        assert "".join(chosen) == "aabacaa" * 5
    # Each worker is less than a turn away from the shares of what it got.
    counts = Counter(chosen)
    assert abs(counts["a"] - 25) <= n_workers
    assert abs(counts["b"] - 5) <= n_workers
    assert abs(counts["c"] - 5) <= n_workers


def test_round_robin_goes_on_through_reloads(engine: Engine) -> None:
    port = free_port()
    backends = tuple(greeter(name).backend(name) for name in NAMES)
    made = tables(port, Service("s", backends, balance="round-robin"))
    chosen = []
    for _ in range(30):
        engine.publish(made)
        chosen.append(once(port))
    n_workers = len(engine.turns())
    assert all(abs(count - 10) <= n_workers for count in Counter(chosen).values())
    if n_workers == 1:
        assert all(before != after for before, after in pairwise(chosen))


def test_least_connections_counts_those_of_all_workers(engine: Engine) -> None:
    weights = {"a": 1, "b": 1, "c": 2}
    port = serve(engine, "least-connections", weights)
    with contextlib.ExitStack() as clients:
        held = [hold(port, clients) for _ in range(40)]
        assert Counter(name for name, _ in held) == {"a": 10, "b": 10, "c": 20}
        for name, client in held:
            if name == "b":
                client.close()
        wait_until(lambda: active(engine)["b"] == 0)
        assert [hold(port, clients)[0] for _ in range(9)] == ["b"] * 9


def test_least_connections_counts_udp_sessions(engine: Engine) -> None:
    port = free_port()
    answering = [Datagrams(name) for name in NAMES]
    backends = tuple(each.backend() for each in answering)
    engine.publish(tables(port, Service("s", backends, balance="least-connections"), udp=True))
    clients = [udp_client(port) for _ in range(12)]
    try:
        answers = []
        for client in clients:
            client.send(b"")
            answers.append(client.recv(10).decode())
        assert Counter(answers) == dict.fromkeys(NAMES, 4)
    finally:
        for closing in (*clients, *answering):
            closing.close()


def udp_client(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(PATIENCE_S)
    client.connect(("127.0.0.1", port))
    return client


def test_udp_sessions_take_turns() -> None:
    port = free_port()
    answering = [Datagrams(name) for name in NAMES]
    backends = tuple(each.backend() for each in answering)
    with running() as engine:
        engine.publish(tables(port, Service("s", backends, balance="round-robin"), udp=True))
        answers = ""
        for _ in range(6):
            with udp_client(port) as client:
                for _ in range(2):  # a session stays where it is
                    client.send(b"")
                    answers += client.recv(10).decode()
    for each in answering:
        each.close()
    assert answers == "aabbccaabbcc"


def requests(port: int, n: int) -> list[str]:
    """Who answers so many requests of one connection, its status first."""
    answers = []
    with connect(port) as client, client.makefile("rb") as file:
        for _ in range(n):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += file.read(1)
            answers.append(head.split()[1].decode() + file.read(1).decode())
    return answers


def web_tables(port: int, service: Service) -> Tables:
    gateway = Gateway("g", any_depth=False, routes=(to(),))
    return Tables((Listener("127.0.0.1", port, "g", http=True),), (service,), (gateway,))


def web(name: str) -> Web:
    return Web(lambda _peer, _seen: ok(name.encode()))


def test_http_requests_take_turns() -> None:
    port = free_port()
    backends = tuple(web(name).backend(name) for name in NAMES)
    with running() as engine:
        engine.publish(web_tables(port, Service("s", backends, balance="round-robin")))
        assert requests(port, 9) == [f"200{name}" for name in "abc" * 3]


@pytest.mark.parametrize("balance", ["least-connections", "random-two"])
def test_http_requests_pass_over_the_busy(engine: Engine, balance: str) -> None:
    """Idle sockets to a backend do not count, only requests under way."""
    port, tcp_port = free_port(), free_port()
    backends = tuple(web(name).backend(name) for name in NAMES)
    made = web_tables(port, Service("s", backends, balance=balance))
    hold_them = Listener("127.0.0.1", tcp_port, "s", http=False)
    engine.publish(made._replace(listeners=(*made.listeners, hold_them)))
    with contextlib.ExitStack() as clients:
        for _ in range(30):  # so many that each backend has some
            clients.enter_context(connect(tcp_port))
        wait_until(lambda: sum(active(engine).values()) == 30)
        before = active(engine)
        assert all(before.values())
        counts = Counter(requests(port, 60))
        assert counts.total() == 60
        assert all(each.startswith("200") for each in counts)
        wait_until(lambda: active(engine) == before)
        if balance == "random-two" and len(set(before.values())) == len(before):
            most = max(before, key=before.__getitem__)
            assert f"200{most}" not in counts


@pytest.mark.parametrize("balance", POLICIES)
def test_a_backend_that_drains_keeps_what_it_has_and_gets_nothing_new(
    engine: Engine, balance: str
) -> None:
    port = free_port()
    backends = tuple(greeter(name).backend(name) for name in NAMES)
    service = Service("s", backends, balance=balance)
    engine.publish(tables(port, service))
    with contextlib.ExitStack() as clients:
        held = [hold(port, clients) for _ in range(30)]
        before = active(engine)
        assert before["b"] > 0
        drained = tuple(each._replace(weight=int(each.name != "b")) for each in backends)
        engine.publish(tables(port, service._replace(backends=drained)))
        assert "b" not in {once(port) for _ in range(30)}
        wait_until(lambda: active(engine) == before)
        for name, client in held:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b"", name  # it was there up to its end


@pytest.mark.parametrize("balance", POLICIES)
def test_all_policies_try_the_others_when_one_refuses(engine: Engine, balance: str) -> None:
    port = free_port()
    servers = {name: greeter(name) for name in NAMES}
    backends = tuple(each.backend(name) for name, each in servers.items())
    engine.publish(tables(port, Service("s", backends, balance=balance)))
    servers["b"].close()
    assert {once(port) for _ in range(40)} == {"a", "c"}


@pytest.mark.parametrize("balance", ["maglev", "round-robin", "random-two"])
def test_a_backend_that_came_back_gets_little_at_first(engine: Engine, balance: str) -> None:
    port = free_port()
    backends = tuple(greeter(name).backend(name) for name in "ab")
    service = Service("s", backends, balance=balance, slow_start_ms=600_000)
    engine.publish(tables(port, service))
    down = tuple(each._replace(up=each.name != "b") for each in backends)
    engine.publish(tables(port, service._replace(backends=down)))
    assert {once(port) for _ in range(10)} == {"a"}
    engine.publish(tables(port, service))
    counts = Counter(once(port) for _ in range(200))
    assert 0 < counts["b"] < 40  # 10 of 100 are its share
    engine.publish(tables(port, service._replace(slow_start_ms=0)))
    counts = Counter(once(port) for _ in range(200))
    assert 60 < counts["b"] < 140


def test_with_affinity_a_client_stays_whatever_the_policy(engine: Engine) -> None:
    port = free_port()
    backends: tuple[Backend, ...] = tuple(greeter(name).backend(name) for name in NAMES)
    service = Service("s", backends, balance="least-connections", affinity=True)
    engine.publish(tables(port, service))
    with contextlib.ExitStack() as clients:
        assert len({hold(port, clients)[0] for _ in range(12)}) == 1
