"""Connections that begin with a PROXY header, and headers that backends get."""

from __future__ import annotations

import select
import socket
import time

import pytest

from fastpath.engine import Engine, Listener, Service, Tables
from tests.fastpath.peers import Server, connect, echo, read_all, read_exactly, running
from tests.net import free_port
from tests.waiting import wait_until

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 80\r\n"
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V2 = (
    V2_SIGNATURE
    + b"\x21\x11\x00\x0c"
    + socket.inet_aton("192.0.2.7")
    + socket.inet_aton("198.51.100.1")
    + (4567).to_bytes(2, "big")
    + (80).to_bytes(2, "big")
)
V2_LOCAL = V2_SIGNATURE + b"\x20\x00\x00\x00"


def serve(engine: Engine, server: Server, **options: object) -> int:
    """Publish a service with these options; its port."""
    port = free_port()
    service = Service("s", (server.backend("a"),), **options)  # type: ignore[arg-type]
    engine.publish(Tables((Listener("127.0.0.1", port, "s", http=False),), (service,), ()))
    return port


def rejected(engine: Engine) -> dict[str, int]:
    """Why connections were turned away, without zeros."""
    return {why: n for why, n in engine.stats()["ends"]["s"]["rejected"].items() if n}


def who_is_it(connection: socket.socket) -> None:
    """Answer with the first line and all that follows, up to the end."""
    connection.sendall(b"heard " + read_all(connection))


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_is_taken_off_and_the_rest_arrives(header: bytes) -> None:
    with running() as engine, connect(serve(engine, Server(), trusted=("127.0.0.0/8",))) as client:
        client.sendall(header + b"hello")
        assert read_exactly(client, 5) == b"hello"


@pytest.mark.parametrize("header", [V1, V2, V2_LOCAL], ids=["v1", "v2", "local"])
def test_a_header_may_come_byte_by_byte(header: bytes) -> None:
    with running() as engine, connect(serve(engine, Server(), trusted=("127.0.0.0/8",))) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(header)):
            client.sendall(header[i : i + 1])
            if i % 8 == 0:
                time.sleep(0.002)
        client.sendall(b"!")
        assert client.recv(1) == b"!"


def test_a_backend_that_speaks_first_is_heard_behind_a_header() -> None:
    with running() as engine:
        server = Server(lambda connection: connection.sendall(b"220 ready"))
        with connect(serve(engine, server, trusted=("127.0.0.1/32",))) as client:
            assert not select.select([client], [], [], 0.1)[0]
            client.sendall(V1)
            assert read_all(client) == b"220 ready"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        V1.replace(b"4567", b"99999"),
        V2[:12] + b"\x31" + V2[13:],
        b"PROXY TCP4 " + b"1" * 200,
    ],
)
def test_what_is_no_header_is_turned_away(sent: bytes) -> None:
    with running() as engine:
        server = Server()
        port = serve(engine, server, trusted=("127.0.0.1/32",))
        with connect(port) as client:
            client.sendall(sent)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        wait_until(lambda: rejected(engine) == {"bad_preface": 1})
        assert server.n_accepted == 0
        wait_until(lambda: engine.active() == 0)


def test_a_client_that_ends_within_its_header_is_turned_away() -> None:
    with running() as engine:
        port = serve(engine, Server(), trusted=("127.0.0.1/32",))
        for part in (b"", V1[:20], V2[:-1]):
            with connect(port) as client:
                client.sendall(part)
        wait_until(lambda: rejected(engine) == {"bad_preface": 3})
        wait_until(lambda: engine.active() == 0)


def test_a_header_that_does_not_come_is_not_waited_for_for_ever() -> None:
    with running() as engine:
        port = serve(engine, Server(), trusted=("127.0.0.1/32",))
        with connect(port) as client:
            client.sendall(V1[:10])
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert time.monotonic() - began > 2
        assert rejected(engine) == {"bad_preface": 1}


def test_from_others_a_header_is_data() -> None:
    with running() as engine:
        port = serve(engine, Server(who_is_it), trusted=("10.0.0.0/8",))
        with connect(port) as client:
            client.sendall(V1)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"heard " + V1


def test_the_backend_is_told_who_the_client_is() -> None:
    with running() as engine:
        server = Server(who_is_it)
        port = serve(engine, server, proxy_header=1)
        with connect(port) as client:
            mine = client.getsockname()[1]
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == (
                f"heard PROXY TCP4 127.0.0.1 127.0.0.1 {mine} {port}\r\nx".encode()
            )
        counted = engine.stats()["services"]["s"]["a"]
        assert counted["bytes_in"] == 1, "the header is not the client's"


def test_a_header_is_passed_on_in_the_other_version() -> None:
    with running() as engine:
        port = serve(engine, Server(who_is_it), trusted=("127.0.0.1/32",), proxy_header=2)
        with connect(port) as client:
            client.sendall(V1 + b"x")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"heard " + V2 + b"x"


def test_on_a_wildcard_listener_the_backend_is_told_the_address_that_was_used() -> None:
    with running() as engine:
        port = free_port()
        service = Service("s", (Server(who_is_it).backend("a"),), proxy_header=1)
        engine.publish(Tables((Listener("0.0.0.0", port, "s", http=False),), (service,), ()))
        with connect(port, "127.0.0.9") as client:
            client.shutdown(socket.SHUT_WR)
            assert f" 127.0.0.9 {client.getsockname()[1]} {port}\r\n".encode() in read_all(client)


def test_limits_go_by_the_client_that_the_header_names() -> None:
    with running() as engine:
        port = serve(engine, Server(echo), trusted=("127.0.0.1/32",), allowed=("192.0.2.0/24",))
        with connect(port) as client:
            client.sendall(V1 + b"x")
            assert client.recv(1) == b"x"
        with connect(port) as client:
            client.sendall(V1.replace(b"192.0.2.7", b"203.0.113.7") + b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert rejected(engine) == {"source_not_allowed": 1}


def test_a_service_that_is_gone_meanwhile_turns_its_client_away() -> None:
    with running() as engine:
        port = serve(engine, Server(), trusted=("127.0.0.1/32",))
        with connect(port) as client:
            client.sendall(V1[:9])
            wait_until(lambda: engine.active() == 1)
            engine.publish(Tables((), (), ()))
            client.sendall(V1[9:] + b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        wait_until(lambda: engine.active() == 0)
        assert engine.stats()["rejected"]["bad_preface"] == 1


def test_a_service_in_the_slot_of_one_that_is_gone_does_not_get_its_client() -> None:
    with running() as engine:
        port = serve(engine, Server(), trusted=("127.0.0.1/32",))
        with connect(port) as client:
            client.sendall(V1[:9])
            wait_until(lambda: engine.active() == 1)
            other = Server()
            for turn in range(3):  # so many that every slot is used again
                services = tuple(
                    Service(f"{turn}.{number}", (other.backend("b"),)) for number in range(1000)
                )
                engine.publish(Tables((), services, ()))
            with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 -- either
                client.sendall(V1[9:] + b"x")
                client.recv(1)
        assert other.n_accepted == 0
