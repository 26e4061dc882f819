"""Plans through the real engine: sockets answer, or say why not."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from msgspec.structs import replace

from fastpath.users import Users as EngineUsers
from piagent.core.draining import Drained, drained
from piagent.core.filters import (
    BasicAuth,
    Cors,
    ErrorPage,
    Filters,
    ForwardAuth,
    HeaderEdits,
    Mirror,
    RateLimit,
    Redirect,
    Respond,
    Rewrite,
    Users,
)
from piagent.core.model import HashOn, Retries, RetryOn, Sticky, Wildcard
from piagent.core.patterns import compile_pattern
from piagent.core.plan import (
    Plan,
    PlannedBackend,
    PlannedGateway,
    PlannedListener,
    PlannedRoute,
    PlannedService,
)
from piagent.core.predicates import Predicate
from piagent.core.proxying import Balance, Ejection, Limits, ProxyHeader, Proxying, Timeouts
from piagent.core.routing import Target
from piagent.dataplane.filters import engine_filters
from piagent.ports import ListenError
from tests.fakes import FakeDataPlane
from tests.net import free_port

dataplane = pytest.importorskip("piagent.dataplane", reason="the engine is not built")


@pytest.fixture
def backend() -> Iterator[int]:
    """The port of a server that says "hi" and closes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"hi")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def tcp_plan(port: int, backend_port: int) -> Plan:
    backend = PlannedBackend(f"127.0.0.1:{backend_port}", "127.0.0.1", backend_port, 1, True)
    return Plan(
        (PlannedListener("127.0.0.1", port, "s:1", False),),
        (PlannedService("s:1", (backend,)),),
        (),
    )


def test_every_field_of_a_plan_reaches_the_tables() -> None:
    edits = (HeaderEdits(set=(("a", "1"),)), HeaderEdits(remove=("b",)))
    target = Target("api:80", 9, *edits)
    plan = Plan(
        (
            PlannedListener("127.0.0.9", 80, "web", True, draining=True, hosts=("a.lan",)),
            PlannedListener("127.0.0.9", 53, "api:80", False, udp=True),
        ),
        (
            PlannedService(
                "api:80", (PlannedBackend("10.0.0.1:8080", "10.0.0.1", 8080, 3, False),)
            ),
            PlannedService("dns:53/udp", (), Proxying(affinity_ms=0, ejection=None)),
        ),
        (
            PlannedGateway(
                "web",
                Wildcard.ANY_DEPTH,
                merges_slashes=False,
                takes_encoded_slash=False,
                routes=(
                    PlannedRoute(
                        *("r", "*.lan", "/v1", False, (target,), 60_000, 30_000),
                        Retries(attempts=2, on=(RetryOn.RESET,), statuses=(429,), backoff_ms=5),
                        Sticky(cookie="sid", ttl_ms=60_000),
                        HashOn(name="uid", cookie=True),
                        regex=True,
                        methods=("GET",),
                        headers=(Predicate("x", "1"),),
                        query=(Predicate("v", "^a", regex=True),),
                    ),
                ),
            ),
        ),
    )
    made = dataplane.tables(plan)
    assert made.listeners[0]._asdict() == {
        "address": "127.0.0.9", "port": 80, "target": "web", "http": True, "draining": True,
        "udp": False, "hosts": ("a.lan",),
    }  # fmt: skip
    assert [listener.udp for listener in made.listeners] == [False, True]
    assert made.services[0].name == "api:80"
    assert [service.affinity for service in made.services] == [False, True]
    assert [service.eject_failures for service in made.services] == [5, 0]
    assert made.services[0].backends[0]._asdict() == {
        "name": "10.0.0.1:8080", "address": "10.0.0.1", "port": 8080, "weight": 3, "up": False
    }  # fmt: skip
    assert made.gateways[0].any_depth
    assert made.gateways[0].keeps_slashes
    assert made.gateways[0].refuses_slash
    assert made.gateways[0].routes[0]._asdict() == {
        "name": "r", "host": "*.lan", "path": "/v1", "exact": False,
        "targets": (("api:80", 9, ((("a", "1"),), (), ()), ((), (), ("b",))),),
        "request_timeout_ms": 60_000, "backend_timeout_ms": 30_000,
        "retries": (2, ("reset",), (429,), 5), "sticky": ("sid", 60),
        "hash_on": ("uid", True),
        "program": compile_pattern("/v1").program, "methods": ("GET",),
        "headers": (("x", b"1", b""),), "query": (("v", b"^a", compile_pattern("^a").program),),
        "filters": engine_filters(Filters()),
    }  # fmt: skip


def test_filters_reach_the_tables() -> None:
    edits = HeaderEdits(set=(("a", "1"),), add=(("b", "2"),), remove=("c",))
    filters = Filters(
        allowed=("192.0.2.0/24",),
        denied=("192.0.2.1/32",),
        in_flight=3,
        rate_limit=RateLimit(requests=10, period_ms=1000, burst=20, header="x-key"),
        body_limit=4,
        basic_auth=BasicAuth(realm="e", users=Users({"f": "g"})),
        respond=Respond(status=200, body="é", content_type="text/html"),
        redirect=Redirect(
            scheme="https", host="a", port=8443, path="/b", by_prefix=True, status=308
        ),
        rewrite=Rewrite(host="c", path="/d", by_prefix=True),
        strip_prefix="/e",
        add_prefix="/f",
        request_headers=edits,
        response_headers=HeaderEdits(remove=("d",)),
        forward_auth=ForwardAuth(service="auth:80", path="/g?h", copy_headers=("x-i",)),
        cors=Cors(
            origins=("https://a",),
            methods=("PUT",),
            headers=("b",),
            exposed=("c",),
            max_age_ms=9000,
            credentials=True,
        ),
        compress=("br", "gzip"),
        mirror=Mirror(service="next:80", percent=7),
        error_pages=(ErrorPage(first=500, last=599, body=b"x", content_type="a/b"),),
    )
    assert engine_filters(filters)._asdict() == {
        "allowed": ("192.0.2.0/24",), "denied": ("192.0.2.1/32",), "in_flight": 3,
        "rate": (10, 1000, 20, "x-key"), "body_size": 4,
        "auth": ("e", EngineUsers({"f": "g"})),
        "respond": (200, "é".encode(), "text/html"),
        "redirect": ("https", "a", 8443, "/b", True, 308), "rewrite": ("c", "/d", True),
        "strip_prefix": "/e", "add_prefix": "/f",
        "request_headers": ((("a", "1"),), (("b", "2"),), ("c",)),
        "response_headers": ((), (), ("d",)),
        "cors": (("https://a",), ("PUT",), ("b",), ("c",), 9, True),
        "compress": ("br", "gzip"), "pages": ((500, 599, b"x", "a/b"),),
        "forward_auth": ("auth:80", "/g?h", ("x-i",)),
        "mirror": ("next:80", 7),
    }  # fmt: skip


def test_what_becomes_of_connections_reaches_the_tables() -> None:
    how = Proxying(
        balance=Balance.RANDOM_TWO,
        affinity_ms=1000,
        allowed=("192.0.2.0/24",),
        trusted=("198.51.100.1/32",),
        header=ProxyHeader.V2,
        sources=("192.0.2.1", "2001:db8::1"),
        limits=Limits(connections=100, connections_per_source=10, accept_rate=20),
        timeouts=Timeouts(connect_ms=500, idle_ms=0),
        slow_start_ms=30_000,
        ejection=Ejection(failures=3, time_ms=5_000),
        access_log="-",
    )
    (made,) = dataplane.tables(Plan((), (PlannedService("s:1", (), how),), ())).services
    assert made._asdict() == {
        "name": "s:1", "backends": (), "connect_timeout_ms": 500, "idle_timeout_ms": 0,
        "affinity": True, "balance": "random-two", "affinity_timeout_ms": 1000,
        "allowed": ("192.0.2.0/24",), "trusted": ("198.51.100.1/32",), "proxy_header": 2,
        "sources": ("192.0.2.1", "2001:db8::1"), "connections_max": 100,
        "connections_per_source": 10, "accept_rate": 20, "slow_start_ms": 30_000,
        "eject_failures": 3, "eject_ms": 5_000, "logs": True,
    }  # fmt: skip


def test_the_engine_takes_every_way_to_balance() -> None:
    services = tuple(PlannedService(f"{one}:1", (), Proxying(balance=one)) for one in Balance)
    plane = dataplane.EngineDataPlane(1, b"secret")
    try:
        plane.apply(Plan((), services, ()))
    finally:
        plane.stop()


def test_flow_hash_key_depends_on_the_secret_alone() -> None:
    assert dataplane.flow_hash_key(b"a") == dataplane.flow_hash_key(b"a")
    assert dataplane.flow_hash_key(b"a") != dataplane.flow_hash_key(b"b")
    assert len(dataplane.flow_hash_key(b"")) == 16


def test_applied_plan_carries_traffic_and_is_counted(backend: int) -> None:
    plane = dataplane.EngineDataPlane(1, b"secret")
    try:
        port = free_port()
        plane.apply(tcp_plan(port, backend))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            assert client.recv(10) == b"hi"
        counted = plane.stats()["services"]["s:1"][f"127.0.0.1:{backend}"]
        assert counted["connections"] == 1
    finally:
        plane.stop()


def test_port_in_use_names_the_place_and_the_cure_and_changes_nothing(backend: int) -> None:
    plane = dataplane.EngineDataPlane(1, b"secret")
    try:
        port = free_port()
        plane.apply(tcp_plan(port, backend))
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            taken = other.getsockname()[1]
            with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{taken}.*ss -lntup") as caught:
                plane.apply(tcp_plan(taken, backend))
            error = caught.value
            assert (error.errno, error.address, error.port, error.udp) == (
                errno.EADDRINUSE, "127.0.0.1", taken, False
            )  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            assert client.recv(10) == b"hi"
    finally:
        plane.stop()


def test_drain_refuses_new_connections_and_waits_for_the_open_ones() -> None:
    plane = dataplane.EngineDataPlane(1, b"secret")
    try:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            port = free_port()
            plane.apply(tcp_plan(port, silent.getsockname()[1]))
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                upstream, _ = silent.accept()
                assert asyncio.run(plane.drain(100)) == 1
                with pytest.raises(ConnectionError):
                    socket.create_connection(("127.0.0.1", port), timeout=10)
                client.close()
                upstream.close()
                assert asyncio.run(plane.drain(10_000)) == 0
    finally:
        plane.stop()


def test_connections_are_counted_by_address_and_cut() -> None:
    plane = dataplane.EngineDataPlane(1, b"secret")
    try:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            port = free_port()
            plane.apply(tcp_plan(port, silent.getsockname()[1]))
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                silent.accept()[0].close()
                assert client.recv(1) == b""
                assert plane.connections("127.0.0.1") == 1
                assert plane.connections("127.0.0.2") == plane.cut("127.0.0.2") == 0
                assert plane.cut("127.0.0.1") == 1
                assert plane.connections("127.0.0.1") == 0
    finally:
        plane.stop()


def test_the_connections_of_a_backend_outlive_its_share_until_they_are_cut() -> None:
    plane = dataplane.EngineDataPlane(1, b"secret")
    try:
        with (
            closing(socket.create_server(("127.0.0.1", 0))) as first,
            closing(socket.create_server(("127.0.0.1", 0))) as second,
        ):
            port, one, other = free_port(), first.getsockname()[1], second.getsockname()[1]
            wanted = tcp_plan(port, one)
            before = Drained(wanted, {})
            plane.apply(wanted)
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                accepted, _ = first.accept()
                wanted = replace(tcp_plan(port, other), listeners=wanted.listeners)
                draining = drained(wanted, before, 0)
                assert len(draining.plan.services[0].backends) == 2
                plane.apply(draining.plan)
                with socket.create_connection(("127.0.0.1", port), timeout=10):
                    second.accept()[0].close()
                accepted.sendall(b"still there")
                assert client.recv(20) == b"still there"
                plane.cut_backends(draining.due(10**9))
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
                accepted.close()
            plane.apply(wanted)
            assert list(plane.stats()["services"]["s:1"]) == [f"127.0.0.1:{other}"]
    finally:
        plane.stop()


def test_a_relay_is_the_engines_once_it_was_taken(backend: int) -> None:
    plane = dataplane.EngineDataPlane(1, b"secret")
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname(), timeout=10)
            front, _ = listening.accept()
        with socket.socket() as unconnected, pytest.raises(OSError, match="not connected"):
            plane.relay(front, unconnected)
        assert front.fileno() >= 0
        back = socket.create_connection(("127.0.0.1", backend), timeout=10)
        plane.relay(front, back)
        assert front.fileno() == back.fileno() == -1
        with client:
            assert client.recv(10) == b"hi"
            assert plane.stats()["relays"]["total"] == 1
    finally:
        plane.stop()


def test_what_stands_for_the_engine_in_tests_counts_what_it_counts() -> None:
    real, fake = dataplane.EngineDataPlane(1, b"secret").stats(), FakeDataPlane().stats()
    assert fake.keys() == real.keys()
    assert fake["http"].keys() == real["http"].keys()
