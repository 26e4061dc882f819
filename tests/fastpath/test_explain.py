"""What the engine says of a flow is what becomes of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from fastpath.engine import Backend, Engine, Gateway, Listener, Service, Tables
from tests.fastpath.http.gateways import to
from tests.fastpath.peers import PATIENCE_S, Datagrams, Refusing, Server, read_all, running
from tests.net import free_port
from tests.waiting import wait_until

NAMES = "abc"
POLICIES = ("maglev", "round-robin", "least-connections", "random-two")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running() as started:
        yield started


def greeter(name: str, address: str = "127.0.0.1") -> Backend:
    """A backend that says its name."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(name.encode())
        read_all(connection)

    return Server(serve, address).backend(name)


def tables(port: int, service: Service, *, address: str = "127.0.0.1", udp: bool = False) -> Tables:
    return Tables((Listener(address, port, "s", http=False, udp=udp),), (service,), ())


def bound(kind: int, source: str = "127.0.0.1") -> socket.socket:
    """A client whose port is known before it connects."""
    client = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, kind)
    client.settimeout(PATIENCE_S)
    client.bind((source, 0))
    return client


def n_active(engine: Engine) -> list[int]:
    return [each["active"] for each in engine.stats()["services"]["s"].values()]


def asked_and_seen(
    engine: Engine, port: int, *, target: str = "127.0.0.1", source: str = "127.0.0.1"
) -> tuple[dict[str, Any], str]:
    """What is said of a TCP flow before it comes, and who serves it then."""
    wait_until(lambda: not any(n_active(engine)))
    with bound(socket.SOCK_STREAM, source) as client:
        said = engine.explain(source, client.getsockname()[1], target, port)
        client.connect((target, port))
        return said, client.recv(1).decode()


@pytest.mark.parametrize("balance", POLICIES)
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_flow_goes_where_it_was_said_to_go(engine: Engine, balance: str, address: str) -> None:
    port = free_port()
    backends = tuple(greeter(name) for name in NAMES)
    engine.publish(tables(port, Service("s", backends, balance=balance), address=address))
    for _ in range(20):
        said, seen = asked_and_seen(engine, port)
        assert said["chosen"] == seen
        assert said["orders"][0][0] == seen
        assert sorted(said["orders"][0]) == list(NAMES)
        assert (said["listener"], said["policy"]) == (f"{address}:{port}", balance)
        if balance == "maglev":
            assert said["table"] == seen


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_flow_that_is_logged_goes_where_it_was_said_to_go(engine: Engine, address: str) -> None:
    port = free_port()
    service = Service("s", tuple(greeter(name) for name in NAMES), logs=True)
    engine.publish(tables(port, service, address=address))
    for _ in range(20):
        said, seen = asked_and_seen(engine, port, target="127.0.0.1")
        assert said["chosen"] == seen


def test_a_flow_over_ipv6_goes_where_it_was_said_to_go(engine: Engine) -> None:
    port = free_port()
    backends = tuple(greeter(name, "::1") for name in NAMES)
    engine.publish(tables(port, Service("s", backends), address="::"))
    for _ in range(10):
        said, seen = asked_and_seen(engine, port, target="::1", source="::1")
        assert said["chosen"] == seen
        assert said["listener"] == f"[::]:{port}"


def test_the_next_ones_are_tried_in_the_order_that_was_said(engine: Engine) -> None:
    port = free_port()
    backends = [Refusing().backend(name) for name in "abc"] + [greeter("d"), greeter("e")]
    engine.publish(tables(port, Service("s", tuple(backends))))
    for _ in range(20):
        said, seen = asked_and_seen(engine, port)
        assert next(name for name in said["orders"][0] if name in "de") == seen


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_udp_session_goes_where_it_was_said_to_go(engine: Engine, address: str) -> None:
    port = free_port()
    answering = [Datagrams(name) for name in NAMES]
    service = Service("s", tuple(each.backend() for each in answering))
    engine.publish(tables(port, service, address=address, udp=True))
    for _ in range(20):
        with bound(socket.SOCK_DGRAM) as client:
            said = engine.explain("127.0.0.1", client.getsockname()[1], "127.0.0.1", port, udp=True)
            client.sendto(b"", ("127.0.0.1", port))
            assert said["chosen"] == client.recv(1).decode()
            assert said["listener"] == f"{address}:{port}/udp"
    assert engine.explain("127.0.0.1", 1, "127.0.0.1", port)["listener"] is None  # over TCP
    for each in answering:
        each.close()


def test_with_affinity_it_is_the_client_and_what_is_remembered_of_it(engine: Engine) -> None:
    port = free_port()
    backends = tuple(greeter(name) for name in NAMES)
    service = Service("s", backends, affinity=True, balance="round-robin")
    engine.publish(tables(port, service))
    said, seen = asked_and_seen(engine, port)
    assert (said["policy"], said["affinity"], said["chosen"]) == ("maglev", True, seen)
    assert said["hash"] == engine.explain("127.0.0.1", 9, "127.0.0.1", port)["hash"]

    # It is remembered at another one when its own has been away.
    kept = service._replace(affinity_timeout_ms=3_600_000)
    away = tuple(each._replace(up=each.name != seen) for each in backends)
    engine.publish(tables(port, kept._replace(backends=away)))
    said, other = asked_and_seen(engine, port)
    assert (said["remembered"], said["chosen"]) == (None, other)
    engine.publish(tables(port, kept))
    said, seen_again = asked_and_seen(engine, port)
    assert said["table"] == seen
    assert (said["remembered"], said["chosen"], seen_again) == (other, other, other)
    assert said["orders"][0][0] == other
    assert sorted(said["orders"][0]) == list(NAMES)


def test_a_udp_client_that_is_not_known_goes_by_the_hash(engine: Engine) -> None:
    port = free_port()
    answering = [Datagrams(name) for name in NAMES]
    backends = tuple(each.backend() for each in answering)
    service = Service("s", backends, affinity=True, affinity_timeout_ms=3_600_000)
    engine.publish(tables(port, service, udp=True))
    said = engine.explain("127.0.0.1", 1, "127.0.0.1", port, udp=True)
    with bound(socket.SOCK_DGRAM) as client:
        client.sendto(b"", ("127.0.0.1", port))
        assert client.recv(1).decode() == said["chosen"] == said["table"]
    assert said["remembered"] is None
    for each in answering:
        each.close()


def test_a_udp_client_goes_where_it_was_before(engine: Engine) -> None:
    """As by TCP: its own backend was away when it first came."""
    port = free_port()
    answering = [Datagrams(name) for name in NAMES]
    service = Service(
        "s",
        tuple(each.backend() for each in answering),
        affinity=True,
        affinity_timeout_ms=3_600_000,
    )
    engine.publish(tables(port, service, udp=True))
    own = engine.explain("127.0.0.1", 1, "127.0.0.1", port, udp=True)["chosen"]
    away = tuple(each._replace(up=each.name != own) for each in service.backends)
    engine.publish(tables(port, service._replace(backends=away), udp=True))
    with bound(socket.SOCK_DGRAM) as client:
        client.sendto(b"", ("127.0.0.1", port))
        other = client.recv(1).decode()
    engine.publish(tables(port, service, udp=True))
    said = engine.explain("127.0.0.1", 1, "127.0.0.1", port, udp=True)
    assert said["table"] == own != other
    assert (said["remembered"], said["chosen"], said["orders"][0][0]) == (other, other, other)
    with bound(socket.SOCK_DGRAM) as client:
        client.sendto(b"", ("127.0.0.1", port))
        assert client.recv(1).decode() == other
    for each in answering:
        each.close()


def test_asking_changes_nothing(engine: Engine) -> None:
    port = free_port()
    backends = tuple(greeter(name) for name in NAMES)
    engine.publish(tables(port, Service("s", backends, balance="round-robin")))
    before = engine.stats()["services"]
    first = engine.explain("127.0.0.1", 1, "127.0.0.1", port)
    assert first["chosen"] == "a"
    assert all(engine.explain("127.0.0.1", 1, "127.0.0.1", port) == first for _ in range(10))
    assert engine.stats()["services"] == before


def test_what_depends_on_the_worker_is_said_for_each() -> None:
    port = free_port()
    backends = tuple(greeter(name) for name in NAMES)
    with running(workers=2) as engine:
        engine.publish(tables(port, Service("s", backends, balance="round-robin")))
        assert asked_and_seen(engine, port)[1] == "a"
        said = engine.explain("127.0.0.1", 1, "127.0.0.1", port)
        assert sorted(order[0] for order in said["orders"]) == ["a", "b"]
        assert said["chosen"] is None


def test_of_each_backend_it_is_said_what_it_is_and_why_it_is_left_out(engine: Engine) -> None:
    port = free_port()
    backends = tuple(greeter(name) for name in "abcd")
    service = Service("s", backends, slow_start_ms=600_000)
    changed = (
        backends[0],
        backends[1]._replace(weight=0),
        backends[2]._replace(up=False),
        backends[3]._replace(up=False),
    )
    engine.publish(tables(port, service._replace(backends=changed)))
    changed = (*changed[:2], backends[2]._replace(weight=7), changed[3])
    engine.publish(tables(port, service._replace(backends=changed)))
    said = engine.explain("127.0.0.1", 1, "127.0.0.1", port)["backends"]
    assert (said["b"]["weight"], said["b"]["passed_over"]) == (0, "unusable")
    assert (said["d"]["up"], said["d"]["passed_over"]) == (False, "unusable")
    assert (said["c"]["weight"], said["c"]["up"]) == (7, True)
    assert 0.1 <= said["c"]["share"] < 0.2
    assert said["a"]["share"] == 1


def test_an_ejected_backend_and_one_that_starts_slowly_are_named(engine: Engine) -> None:
    port = free_port()
    gone, answering = Datagrams("b"), Datagrams("a")
    backends = (answering.backend(), gone.backend())
    service = Service("s", backends, eject_failures=1, eject_ms=600_000, balance="round-robin")
    engine.publish(tables(port, service, udp=True))
    gone.close()
    for _ in range(2):
        with bound(socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            for _ in range(100):
                client.sendto(b"", ("127.0.0.1", port))
                with contextlib.suppress(TimeoutError):
                    client.recv(1)
                    break
    said = engine.explain("127.0.0.1", 1, "127.0.0.1", port, udp=True)
    assert said["backends"]["b"]["passed_over"] == "ejected"
    assert 0 < said["backends"]["b"]["ejected_ms"] <= 600_000
    assert said["backends"]["a"] | {"active": 0} == {
        "weight": 1, "up": True, "active": 0, "share": 1, "ejected_ms": 0, "passed_over": "",
    }  # fmt: skip
    assert said["orders"] == [["a", "b"]]  # the last resort

    slow = service._replace(slow_start_ms=600_000, balance="maglev", eject_failures=0)
    away = tuple(each._replace(up=each.name == "a") for each in backends)
    engine.publish(tables(port, slow._replace(backends=away), udp=True))
    engine.publish(tables(port, slow, udp=True))
    seen = [
        engine.explain("127.0.0.1", sport, "127.0.0.1", port, udp=True) for sport in range(1, 200)
    ]
    waiting = [each for each in seen if each["backends"]["b"]["passed_over"] == "slow_start"]
    assert 150 < len(waiting) < 199
    assert all(each["chosen"] == "a" for each in waiting)
    answering.close()


def test_who_may_not_connect_and_who_must_send_a_header_is_said(engine: Engine) -> None:
    port = free_port()
    service = Service(
        "s", (greeter("a"),), allowed=("127.0.0.0/30", "::1/128"), trusted=("127.0.0.2/32",)
    )
    engine.publish(tables(port, service))
    said = [engine.explain(f"127.0.0.{last}", 1, "127.0.0.1", port) for last in (1, 2, 9)]
    assert [each["allowed"] for each in said] == [True, True, False]
    assert [each["header"] for each in said] == [False, True, False]
    engine.publish(tables(port, service._replace(allowed=())))
    assert engine.explain("127.0.0.9", 1, "127.0.0.1", port)["allowed"]


def test_gateways_and_places_where_nobody_listens_are_said_to_be_so(engine: Engine) -> None:
    port = free_port()
    gateway = Gateway("g", any_depth=False, routes=(to(),))
    listeners = (
        Listener("127.0.0.1", port, "g", http=True),
        Listener("0.0.0.0", port, "s", http=False),
    )
    engine.publish(Tables(listeners, (Service("s", (greeter("a"),)),), (gateway,)))
    said = engine.explain("127.0.0.9", 1, "127.0.0.1", port)
    assert (said["listener"], said["gateway"]) == (f"127.0.0.1:{port}", "g")
    assert {said[each] for each in ("service", "chosen", "orders", "hash")} == {None}
    assert engine.explain("127.0.0.9", 1, "127.0.0.2", port)["service"] == "s"
    assert engine.explain("::1", 1, "::1", port)["listener"] is None
    assert set(engine.explain("127.0.0.1", 1, "127.0.0.1", port % 65535 + 1).values()) == {None}


def test_without_a_usable_backend_there_is_no_order(engine: Engine) -> None:
    port = free_port()
    engine.publish(tables(port, Service("s", (greeter("a")._replace(up=False),))))
    said = engine.explain("127.0.0.1", 1, "127.0.0.1", port)
    assert (said["table"], said["chosen"], said["orders"]) == (None, None, [[]])


@pytest.mark.parametrize(
    "flow",
    [
        ("localhost", 1, "127.0.0.1", 1),
        ("127.0.0.1", 0, "127.0.0.1", 1),
        ("127.0.0.1", 1, "127.0.0.1", 65536),
        ("127.0.0.1", 1, "::1", 1),
        ("", 1, "127.0.0.1", 1),
    ],
)
def test_what_is_no_flow_is_refused(engine: Engine, flow: tuple[str, int, str, int]) -> None:
    with pytest.raises(ValueError, match=r"address|port|version"):
        engine.explain(*flow)
