"""Services whose clients stay with one backend, whatever port and protocol they come by."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from fastpath.engine import Backend, Engine, Gateway, Listener, Service, Tables
from tests.fastpath.http.gateways import to
from tests.fastpath.peers import PATIENCE_S, Datagrams, Server, read_all, running
from tests.net import free_port
from tests.waiting import wait_until

CLIENTS = [f"127.0.0.{last}" for last in range(10, 40)]
NAMES = "abc"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running(workers=2) as started:
        yield started


def named(name: str) -> Server:
    """A backend that says its name, whatever it is asked."""
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + name.encode()

    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer)

    return Server(serve)


def over_tcp(source: str, port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S, (source, 0)) as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        return read_all(client)[-1:].decode()


def over_udp(source: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.bind((source, 0))
        client.sendto(b"", ("127.0.0.1", port))
        return client.recv(100).decode()


def tables(ports: list[int], streams: list[Backend], datagrams: list[Backend]) -> Tables:
    """Two TCP listeners, an HTTP one and a UDP one, whose services have like backends."""
    first, second, web = ports
    return Tables(
        (
            Listener("127.0.0.1", first, "tcp", http=False),
            Listener("127.0.0.1", second, "tcp", http=False),
            Listener("127.0.0.1", web, "web", http=True),
            Listener("127.0.0.1", first, "udp", http=False, udp=True),
        ),
        (
            Service("tcp", tuple(streams), affinity=True),
            Service("udp", tuple(datagrams), affinity=True),
        ),
        (Gateway("web", any_depth=False, routes=(to("tcp"),)),),
    )


def test_a_client_has_one_backend_whatever_it_comes_by(engine: Engine) -> None:
    streams = [named(name).backend(name) for name in NAMES]
    datagrams = [Datagrams(name).backend() for name in NAMES]
    ports = [free_port() for _ in range(3)]
    made = tables(ports, streams, datagrams)
    engine.publish(made)
    chosen: dict[str, str] = {}
    for source in CLIENTS:
        answers = {over_tcp(source, port) for port in ports for _ in range(3)}
        answers |= {over_udp(source, ports[0]) for _ in range(3)}
        assert len(answers) == 1
        chosen[source] = answers.pop()
    assert set(chosen.values()) == set(NAMES)

    with running() as other:  # another node
        engine.publish(Tables((), (), ()))
        other.publish(made)
        assert {source: over_tcp(source, ports[2]) for source in CLIENTS} == chosen
        assert {source: over_udp(source, ports[0]) for source in CLIENTS} == chosen

        down = [each._replace(up=each.name != "b") for each in streams]
        other.publish(tables(ports, down, datagrams))
        after = {source: over_tcp(source, ports[1]) for source in CLIENTS}
        moved = {source for source in CLIENTS if after[source] != chosen[source]}
        assert {source for source in CLIENTS if chosen[source] == "b"} <= moved
        assert "b" not in after.values()
        # Maglev moves a few of the others, too.
        assert len([source for source in moved if chosen[source] != "b"]) <= 2


def test_without_affinity_a_clients_connections_spread(engine: Engine) -> None:
    port = free_port()
    backends = tuple(named(name).backend(name) for name in NAMES)
    listener = Listener("127.0.0.1", port, "s", http=False)
    engine.publish(Tables((listener,), (Service("s", backends),), ()))
    assert {over_tcp("127.0.0.1", port) for _ in range(60)} == set(NAMES)


REMEMBERED_MS = 10_000_000


def remembering(
    port: int, backends: list[Backend], timeout_ms: int = REMEMBERED_MS, *, http: bool = False
) -> Tables:
    """A listener of a service that remembers who was where, or of a gateway to it."""
    service = Service("s", tuple(backends), affinity=True, affinity_timeout_ms=timeout_ms)
    return Tables(
        (Listener("127.0.0.1", port, "g" if http else "s", http=http),),
        (service,),
        (Gateway("g", any_depth=False, routes=(to("s"),)),),
    )


def everybody(port: int) -> dict[str, str]:
    """Which backend each client gets."""
    return {source: over_tcp(source, port) for source in CLIENTS}


@pytest.mark.parametrize("http", [False, True])
def test_a_client_stays_where_it_was_until_that_is_long_ago(engine: Engine, *, http: bool) -> None:
    backends = [named(name).backend(name) for name in NAMES]
    only_a = [backend._replace(up=backend.name == "a") for backend in backends]
    port = free_port()
    engine.publish(remembering(port, only_a, http=http))
    assert set(everybody(port).values()) == {"a"}
    engine.publish(remembering(port, backends, http=http))
    assert set(everybody(port).values()) == {"a"}
    engine.publish(remembering(port, backends, 1, http=http))
    time.sleep(0.1)  # so that it is: workers read the clock once a turn
    by_hash = everybody(port)
    assert set(by_hash.values()) == set(NAMES)
    # From here on they are remembered where they are now.
    engine.publish(remembering(port, backends, http=http))
    assert everybody(port) == by_hash


def test_whose_backend_goes_away_moves_once(engine: Engine) -> None:
    backends = [named(name).backend(name) for name in NAMES]
    port = free_port()
    engine.publish(remembering(port, backends))
    before = everybody(port)
    for gone in (backends[1]._replace(up=False), backends[1]._replace(weight=0)):
        engine.publish(remembering(port, [backends[0], gone, backends[2]]))
        after = everybody(port)
        assert "b" not in after.values()
        assert all(after[source] == name for source, name in before.items() if name != "b")
        engine.publish(remembering(port, backends))
        assert everybody(port) == after


def test_a_new_backend_with_the_slot_of_an_old_one_does_not_inherit_its_clients(
    engine: Engine,
) -> None:
    old, kept, new = (named(name).backend(name) for name in NAMES)
    port = free_port()
    engine.publish(remembering(port, [old]))
    assert set(everybody(port).values()) == {"a"}
    engine.publish(remembering(port, [kept]))
    wait_until(lambda: engine.active() == 0)
    # Use up all slots that nobody ever had: 8192 in all, 4096 at a time.
    made = remembering(port, [kept])
    for turn in range(2):
        others = tuple(Backend(f"{turn}.{n}", "127.0.0.1", 9, 1, up=False) for n in range(4095))
        engine.publish(made._replace(services=(*made.services, Service("others", others))))
    engine.publish(remembering(port, [kept, new]))
    assert set(everybody(port).values()) == {"b", "c"}
