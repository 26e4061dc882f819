"""Floods of datagrams from ports and addresses that come once, and who is served all the same."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from fastpath.engine import Engine, Service, Tables
from tests.fastpath.peers import Datagrams, running, udp_tables
from tests.net import free_udp_port
from tests.waiting import wait_until

SESSIONS = 256
SHARE = 64
"""Of one client address: a quarter."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running(connections=SESSIONS) as started:
        yield started


@pytest.fixture
def port() -> int:
    return free_udp_port()


def client(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A client with a port of its own."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((address, 0))
    one.connect(("127.0.0.1", port))
    return one


def talk(one: socket.socket) -> None:
    """Like a resolver: ask again when nothing comes, for a flood fills queues of the kernel."""
    one.settimeout(0.3)
    for _ in range(100):
        one.send(b"hello")
        with contextlib.suppress(TimeoutError):
            assert one.recv(100) == b"ahello"
            return
    raise AssertionError("no answer to 100 datagrams")


def flood(port: int, count: int, address_of: Callable[[int], str]) -> None:
    """A datagram each from so many ports; nobody waits for an answer."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            stack.enter_context(client(port, address_of(number))).send(b"flood")


def senders(server: Datagrams, text: bytes) -> set[str]:
    """Which sockets of the engine that came from."""
    return {sender for sender, data in list(server.heard) if data == text}


def evicted(engine: Engine) -> dict[str, int]:
    counted: dict[str, int] = engine.stats()["udp"]["evicted"]
    return counted


def one_address(_number: int) -> str:
    return "127.0.0.1"


def many_addresses(number: int) -> str:
    return f"127.0.{1 + number // 200}.{1 + number % 200}"


@pytest.mark.parametrize("silent", [False, True], ids=["answered", "unanswered"])
@pytest.mark.parametrize("address_of", [one_address, many_addresses])
def test_who_talks_keeps_its_session_in_a_flood(
    engine: Engine, port: int, address_of: Callable[[int], str], silent: bool
) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend()))
    with client(port) as near, client(port, "127.0.0.2") as far:
        for one in (near, far):
            talk(one)
            talk(one)  # it has heard the answer and goes on: that is talking
        before = senders(server, b"hello")
        server.silent = silent
        for _ in range(3):
            flood(port, 2 * SESSIONS, address_of)
        wait_until(lambda: sum(evicted(engine).values()) > SESSIONS)
        server.silent = False
        for one in (near, far):
            talk(one)
        assert senders(server, b"hello") == before
    stats = engine.stats()["udp"]
    reason = "client_limit" if address_of is one_address else "table_full"
    assert all(count == 0 for why, count in stats["evicted"].items() if why != reason)
    assert stats["sessions"] == (SHARE + 1 if address_of is one_address else SESSIONS)
    assert stats["sessions"] == engine.stats()["services"]["s"]["a"]["active"]


def test_one_client_takes_no_more_than_its_share_from_others(engine: Engine, port: int) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend()))
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(client(port, many_addresses(n))) for n in range(SESSIONS - SHARE)
        ]
        for one in others:
            talk(one)
        before = senders(server, b"hello")
        flood(port, 2 * SESSIONS, one_address)
        wait_until(lambda: evicted(engine)["client_limit"] >= SESSIONS)
        for one in others:
            talk(one)
        assert senders(server, b"hello") == before
        assert evicted(engine)["table_full"] == 0


def limited(port: int, server: Datagrams, **limits: object) -> Tables:
    """A service with limits of its own."""
    service = Service("s", (server.backend(),))._replace(**limits)
    return udp_tables(port)._replace(services=(service,))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_service_may_limit_the_sessions_of_a_client(port: int, workers: int) -> None:
    """Over all workers: one that has none of the client's to end can begin none either."""
    server = Datagrams("a")
    with running(workers=workers) as engine, contextlib.ExitStack() as stack:
        engine.publish(limited(port, server, connections_per_source=2))
        made = [stack.enter_context(client(port)) for _ in range(20)]
        for one in made:
            one.send(b"x")
        far = stack.enter_context(client(port, "127.0.0.2"))
        talk(far)

        def gave_way() -> int:
            stats = engine.stats()["udp"]
            return int(stats["evicted"]["client_limit"] + stats["dropped"]["client_limit"])

        wait_until(lambda: gave_way() == 18)
        assert engine.stats()["udp"]["sessions"] == 3
        assert evicted(engine)["table_full"] == 0
        if workers == 1:
            assert evicted(engine)["client_limit"] == 18
            assert len(senders(server, b"x")) == 20
            assert made[19].recv(100) == b"ax"
            talk(made[19])
            assert evicted(engine)["client_limit"] == 18
        engine.publish(Tables((), (), ()))
        wait_until(lambda: engine.stats()["udp"]["sessions"] == 0)
        engine.publish(limited(port, server, connections_per_source=1))
        talk(far)  # nothing of those that ended is counted any more


def test_a_service_may_limit_its_sessions_and_who_has_one_keeps_it(
    engine: Engine, port: int
) -> None:
    server = Datagrams("a")
    engine.publish(limited(port, server, connections_max=2))
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(client(port, many_addresses(n))) for n in range(4)]
        for one in made[:2]:
            talk(one)
        for one in made[2:]:
            one.send(b"x")
        wait_until(lambda: engine.stats()["udp"]["dropped"]["service_limit"] == 2)
        for one in made[:2]:
            talk(one)
        assert engine.stats()["udp"]["sessions"] == 2
    assert senders(server, b"x") == set()


def test_only_allowed_sources_get_a_session(engine: Engine, port: int) -> None:
    server = Datagrams("a")
    engine.publish(limited(port, server, allowed=("127.0.0.2/32",)))
    with client(port) as near, client(port, "127.0.0.2") as far:
        near.send(b"x")
        wait_until(lambda: engine.stats()["udp"]["dropped"]["source_not_allowed"] == 1)
        talk(far)
    assert senders(server, b"x") == set()
    assert engine.stats()["udp"]["sessions"] == 1


def test_a_table_smaller_than_a_batch_serves_every_datagram_of_it(port: int) -> None:
    """Sessions make room in the very turn that they began in: what came for them goes out first."""
    server = Datagrams("a")
    engine = Engine(connections=3)
    engine.publish(udp_tables(port, server.backend()))
    with contextlib.ExitStack() as stack:
        for number in range(50):
            stack.enter_context(client(port)).send(b"%d" % number)
        engine.start()
        wait_until(lambda: len(server.heard) == 50)
    assert sorted(int(data) for _, data in server.heard) == list(range(50))
    assert engine.stats()["udp"]["evicted"]["table_full"] == 47
    engine.stop()
