"""Clients and backends that misbehave at random: whoever gets an answer gets the right one."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import Counter

from tests.fastpath.http.gateways import Client, Peer, scripted, serving, tables, to
from tests.waiting import wait_until

SECONDS = 2.0


class Moody:
    """A backend that answers with the request's path and body, or does something else."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = scripted(self.talk)

    def talk(self, peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            mood = self.chance.random()
            body = seen.line.encode() + b"|" + seen.body
            if mood < 0.03:
                return
            if mood < 0.06:
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) + 1), body)
                return
            if mood < 0.08:
                peer.send(b"nonsense")
                return
            if mood < 0.11:
                time.sleep(0.25)
            if mood < 0.2:
                peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            if mood < 0.5:
                half = len(body) // 2
                peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                peer.send(b"%x\r\n%s\r\n" % (half, body[:half]))
                peer.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body) - half, body[half:]))
            else:
                whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                # Bytes that belong to no request must never become somebody's response. (Those that
                # come later than their response cannot be told from the next one, by nobody.)
                stray = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
                peer.send(whole + stray if mood > 0.97 and len(whole) < 1000 else whole)
            if 0.22 < mood < 0.25:
                return


class Shopper:
    """A client that sends a few requests at once, and now and then leaves early."""

    def __init__(self, port: int, seed: int, outcomes: Counter[str]) -> None:
        self.port = port
        self.chance = random.Random(seed)
        self.outcomes = outcomes
        self.n = seed * 1_000_000

    def run(self) -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with Client(self.port) as client:
                try:
                    self.visit(client)
                except ConnectionError:
                    self.outcomes["reset"] += 1

    def request(self) -> tuple[bytes, bytes]:
        """A request, and the body that answers it."""
        self.n += 1
        path = b"/%d" % self.n
        body = self.chance.randbytes(self.chance.choice([1, 100, 40_000])).hex().encode()
        kind = self.chance.random()
        if kind < 0.5:
            return b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path, b"GET %s HTTP/1.1|" % path
        answer = b"POST %s HTTP/1.1|%s" % (path, body)
        head = b"POST %s HTTP/1.1\r\nHost: a\r\n" % path
        if kind < 0.75:
            return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body), answer
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n", answer

    def visit(self, client: Client) -> None:
        for _ in range(self.chance.randrange(1, 6)):
            batch = [self.request() for _ in range(self.chance.randrange(1, 4))]
            sender = threading.Thread(target=self.send, args=(client, [r for r, _ in batch]))
            sender.start()
            try:
                if self.chance.random() < 0.1:
                    return
                for _, expected in batch:
                    if not self.is_served(client, expected):
                        return
            finally:
                if sender.is_alive():
                    with contextlib.suppress(OSError):
                        client.socket.shutdown(socket.SHUT_RDWR)
                sender.join()

    @staticmethod
    def send(client: Client, requests: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            client.send(*requests)

    def is_served(self, client: Client, expected: bytes) -> bool:
        """Read a response; whether the connection goes on."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.socket.recv(1)
            if not byte:
                self.outcomes["closed"] += 1
                return False
            head += byte
        if head.startswith(b"HTTP/1.1 103"):
            return self.is_served(client, expected)
        client.heard = b""
        status = int(head[9:12])
        body = self.body(client, head)
        if status == 200 and body is not None:
            assert body == expected, "somebody else's response"
        self.outcomes[f"cut {status}" if body is None else str(status)] += 1
        return body is not None and b"\r\nConnection: close\r\n" not in head

    @staticmethod
    def body(client: Client, head: bytes) -> bytes | None:
        """The whole body; None when it was cut."""
        file = client.socket.makefile("rb", buffering=0)

        def exactly(size: int) -> bytes | None:
            parts = b""
            while len(parts) < size:
                part = file.read(size - len(parts))
                if not part:
                    return None
                parts += part
            return parts

        if b"Content-Length: " in head:
            return exactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
        whole = b""
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                byte = exactly(1)
                if byte is None:
                    return None
                line += byte
            size = int(line, 16)
            chunk = exactly(size + 2)
            if chunk is None:
                return None
            if size == 0:
                return whole
            whole += chunk[:-2]


def test_nobody_ever_gets_somebody_elses_response() -> None:
    backends = [Moody(seed) for seed in range(3)]
    outcomes: Counter[str] = Counter()
    failures: list[BaseException] = []

    def run(shopper: Shopper) -> None:
        try:
            shopper.run()
        except BaseException as error:  # noqa: BLE001 - it must reach the main thread
            failures.append(error)

    named = [each.server.backend(f"b{n}") for n, each in enumerate(backends)]
    routes = (to(backend_timeout_ms=200),)
    with serving(*named, workers=2, routes=routes) as (engine, port):
        shoppers = [Shopper(port, seed, outcomes) for seed in range(1, 9)]
        threads = [threading.Thread(target=run, args=(shopper,)) for shopper in shoppers]
        for thread in threads:
            thread.start()
        for n in range(20):
            time.sleep(SECONDS / 20)
            engine.publish(tables(port, *named[: 2 + n % 2], routes=routes))
        for thread in threads:
            thread.join()
        wait_until(lambda: engine.active() == 0)
        stats = engine.stats()["services"]["s"]
        wait_until(lambda: all(engine.stats()["services"]["s"][b]["active"] == 0 for b in stats))
    assert not failures
    assert outcomes["200"] > 50
    assert outcomes["502"] > 0
