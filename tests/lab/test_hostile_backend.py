"""Backends that answer with what is no answer, or with one that never ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.lab.intruder import rss_kib
from tests.lab.lab import ENTRY_PORT, HTTP_PORT, VIP, Lab
from tests.lab.test_bad_input import active, clients, owner_alone
from tests.lab.test_traffic import ask_http
from tests.lab.traffic import connect, wait_until

OK = b"HTTP/1.1 200 OK\r\n"
ENOUGH = 4 << 20
"""Bytes that a client reads at most; backends that never end have 8 times as many."""
REFUSED = (b"HTTP/1.1 502 ", b"HTTP/1.1 504 ")
CUT: tuple[bytes, ...] = ()
"""What has begun cannot be taken back: the connection ends in the middle, or before it."""
CASES: dict[str, tuple[Iterable[bytes], tuple[bytes, ...]]] = {
    "nothing": ((), REFUSED),
    "garbage": ((bytes(range(256)) * 100,), REFUSED),
    "a head cut short": ((OK, b"Content-Le"), REFUSED),
    "an endless field": ((OK, b"A: ", *[b"x" * 65536] * 512), REFUSED),
    "endless fields": ((OK, *[b"A: b\r\n" * 10_000] * 512), REFUSED),
    "endless blank lines": ([b"\r\n" * 32768] * 512, REFUSED),
    "two lengths": ((OK, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), REFUSED),
    "a field that splits": ((OK, b"A: b\rSet-Cookie: c\r\n\r\n"), REFUSED),
    "an upgrade nobody asked for": ((b"HTTP/1.1 101 Go\r\n\r\n",), REFUSED),
    "endless interim answers": ([b"HTTP/1.1 103 Hi\r\n\r\n" * 3000] * 512, CUT),
    "a body cut short": ((OK, b"Content-Length: 10\r\n\r\nabc"), CUT),
    "an endless chunk extension": (
        (OK, b"Transfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 65536] * 512),
        CUT,
    ),
    "endless trailers": (
        (OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n", *[b"A: b\r\n" * 10_000] * 512),
        CUT,
    ),
}


@contextmanager
def backend(lab: Lab, pieces: Iterable[bytes]) -> Iterator[None]:
    """In the place of backend1: answers whatever comes with the pieces, then closes."""
    lab.backends["backend1"].kill()
    with lab.backends["backend1"].host.entered():
        server = socket.create_server((lab.backend_address("backend1"), HTTP_PORT))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(65536)
                    for piece in pieces:
                        connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


def heard(lab: Lab) -> bytes:
    """What a client gets, up to the end or to where it no longer matters."""
    got = bytearray()
    with connect(lab.client, VIP, ENTRY_PORT) as client, suppress(OSError):
        client.sendall(b"GET /v1/ HTTP/1.1\r\nHost: api.lab\r\nConnection: close\r\n\r\n")
        while len(got) < ENOUGH and (more := client.recv(65536)):
            got += more
    return bytes(got)


@pytest.fixture(scope="module")
def house() -> Iterator[Lab]:
    with Lab(nodes=1) as built:
        config = built.nodes["node1"].config
        hostile = f'"{built.backend_address("backend1")}", '
        config.write_text(config.read_text().replace(hostile, ""))  # the only one of api alone
        owner_alone(built)
        yield built


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_backend_harms_nobody_else(house: Lab, name: str) -> None:
    pieces, expected = CASES[name]
    node = house.nodes["node1"]
    assert node.popen is not None
    before = rss_kib(node.agent)
    with backend(house, pieces):
        started_s = time.monotonic()
        got = heard(house)
        print(f"{time.monotonic() - started_s:.2f} s, {len(got)} bytes: {got[:60]!r}")
        if expected:
            assert got.startswith(expected)
        assert b"Set-Cookie" not in got
        assert len(got) < 8192
        wait_until(lambda: active(node) == 0, "the exchange is over")
        assert ask_http(house) in house.backends
    assert rss_kib(node.agent) - before < 2048
    wait_until(lambda: clients(node) == 0, "no connection is left")
