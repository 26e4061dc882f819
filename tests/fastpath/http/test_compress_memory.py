"""Compressing with no memory left: what has begun is cut, what has not goes out as it is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.fastpath.http.codings import ALL, TEXT, decoded, words
from tests.fastpath.http.gateways import Client, Peer, Seen, Web
from tests.waiting import wait_until

AT_A_TIME = 32
"""As CODERS_MAX in http/coders.pxd."""
SAID_KIB = {"gzip": 150, "br": 600, "zstd": 550}
"""As in docs/reference/http.md."""
BUFFERS_KIB = 64
"""Of any exchange under way."""
BODY = words(200_000)
GATEWAY = """
import resource, sys
from collections import Counter
from fastpath.engine import Backend
from fastpath.options import Options
from tests.fastpath.http.codings import compressing

def limit(spare):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + spare, resource.RLIM_INFINITY))

backend = Backend("b", "127.0.0.1", int(sys.argv[1]), 1, True)
with compressing(backend, options=Options(logs=True)) as (engine, port):
    print(port, flush=True)
    ends = Counter()
    for line in sys.stdin:
        if line == "limit\\n":
            limit(65536)
            print("limited", flush=True)
        else:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            ends.update(each.end for each in engine.read_log())
            http = engine.stats()["http"]
            print(ends["trouble"], http["uncompressed"], http["compressing"], flush=True)
"""


class Limited:
    """A gateway in a process of its own."""

    def __init__(self, backend_port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GATEWAY, str(backend_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Else glibc sets aside 64 MiB for each thread at once (mallopt(3)).
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )
        self.port = int(self.said())

    def said(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, word: str) -> str:
        """Have it do something; what it says of that."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.said()

    def resident_kib(self) -> int:
        """The memory that it takes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def close(self) -> None:
        """End it in order: it would say what it has not given back."""
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0


def outcome(client: Client, name: str) -> str:
    """What became of a response."""
    try:
        _, fields, data = client.response()
    except (ConnectionError, ValueError):
        return "cut"
    if "content-encoding" not in fields:
        assert data == BODY
        return "as it is"
    assert decoded(name, data) == BODY
    return "compressed"


class Halting(Web):
    """A backend that sends half of a body, and the rest when it may."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        super().__init__(self._halves)

    def _halves(self, peer: Peer, _seen: Seen) -> bytes:
        head = b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: %d\r\n\r\n" % (TEXT, len(BODY))
        peer.send(head, BODY[:100_000])
        assert self.go_on.wait(60)
        return BODY[100_000:]


def ask(client: Client, name: str) -> None:
    """Ask, and see the response begin."""
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %s\r\n\r\n" % name.encode())
    client.socket.recv(1, socket.MSG_PEEK)


@pytest.mark.skipif("PIAGENT_SANITIZE" in os.environ, reason="a sanitizer needs memory of its own")
@pytest.mark.parametrize("name", ALL)
def test_without_memory_nothing_is_sent_that_is_not_right(name: str) -> None:
    web = Halting()
    gateway = Limited(web.server.port)
    with contextlib.closing(gateway):
        assert gateway.tell("limit") == "limited\n"
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(gateway.port)) for _ in range(AT_A_TIME)]
            for client in clients:
                ask(client, name)
            web.go_on.set()
            found = Counter(outcome(client, name) for client in clients)
        wait_until(lambda: gateway.tell("free").endswith(" 0\n"))
        trouble, uncompressed, _ = map(int, gateway.tell("free").split())
        assert found["cut"] == trouble
        assert found["as it is"] == uncompressed
        assert trouble + uncompressed > 0, found
        with Client(gateway.port) as client:
            ask(client, name)
            assert outcome(client, name) == "compressed"


@pytest.mark.skipif("PIAGENT_SANITIZE" in os.environ, reason="a sanitizer needs memory of its own")
@pytest.mark.parametrize("name", ALL)
def test_one_response_takes_no_more_memory_than_is_said(name: str) -> None:
    web = Halting()
    gateway = Limited(web.server.port)
    with contextlib.closing(gateway), contextlib.ExitStack() as stack:
        held: list[Client] = []

        def compressing() -> int:
            return int(gateway.tell("free").split()[2])

        def hold(n: int) -> int:
            for _ in range(n):
                held.append(stack.enter_context(Client(gateway.port)))
                ask(held[-1], name)
            wait_until(lambda: compressing() == len(held))
            return gateway.resident_kib()

        few = hold(2)
        many = hold(AT_A_TIME - 2)
        web.go_on.set()
    assert (many - few) / (AT_A_TIME - 2) < SAID_KIB[name] + BUFFERS_KIB
