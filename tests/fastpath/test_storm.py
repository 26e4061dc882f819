"""Everything at once: traffic of each kind, changes of the tables, counters read, hand-overs.

What goes wrong only seldom shows here when a sanitizer watches: `make asan`, `make tsan`.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import traceback
from collections.abc import Callable

from fastpath.engine import Engine, Gateway, Listener, Service, Tables
from fastpath.tables import BALANCES
from tests.fastpath.http.gateways import Web, to
from tests.fastpath.peers import Datagrams, Server, connect, read_exactly, running
from tests.net import free_udp_port
from tests.waiting import wait_until

ROUNDS = 150
CUT = "127.0.0.2"
COMING = "127.0.0.3"  # where no other program gets a port while it is closed


class Storm:
    """What is asked of one engine, by threads that go on until told to stop."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.chance = random.Random(7)
        self.servers = [Server() for _ in range(3)]
        self.names = [Datagrams(f"u{number}") for number in range(2)]
        self.web = Web()
        self.port, self.udp_port, self.web_port, self.cut_port = [free_udp_port() for _ in range(4)]
        self.coming = [free_udp_port(COMING) for _ in range(4)]
        self.stopping = threading.Event()
        self.failures: list[str] = []
        self.n_done: dict[str, int] = {}

    def tables(self) -> Tables:
        """Others each time: listeners come and go; backends, policies and limits change."""
        chance = self.chance
        backends = [
            server.backend(
                f"b{number}", weight=chance.randint(1, 5), up=number == 0 or chance.random() < 0.7
            )
            for number, server in enumerate(self.servers)
        ]
        service = Service(
            "s",
            tuple(backends[: chance.randint(1, 3)]),
            balance=chance.choice(BALANCES),
            affinity=chance.random() < 0.5,
            affinity_timeout_ms=chance.choice([0, 50]),
            trusted=("192.0.2.0/24",) * chance.randint(0, 1),
            connections_per_source=chance.choice([0, 100]),
            slow_start_ms=chance.choice([0, 100]),
            eject_failures=chance.choice([0, 3]),
            logs=chance.random() < 0.5,
        )
        datagrams = [
            each.backend(up=n == 0 or chance.random() < 0.7) for n, each in enumerate(self.names)
        ]
        listeners = [
            Listener("127.0.0.1", self.port, "s", http=False),
            Listener("127.0.0.1", self.udp_port, "u", http=False, udp=True),
            Listener("127.0.0.1", self.web_port, "g", http=True),
            Listener(CUT, self.cut_port, "s", http=False),
        ]
        listeners += [
            Listener(COMING, port, "s", http=False) for port in self.coming if chance.random() < 0.5
        ]
        return Tables(
            tuple(listeners),
            (service, Service("u", tuple(datagrams)), Service("w", (self.web.backend(),))),
            (Gateway("g", any_depth=False, routes=(to("w"),)),),
        )

    def keep_on(self, name: str, once: Callable[[], object]) -> threading.Thread:
        """Do something again and again in a thread."""
        self.n_done[name] = 0

        def loop() -> None:
            try:
                while not self.stopping.is_set():
                    once()
                    self.n_done[name] += 1
            except BaseException:  # noqa: BLE001 - it must reach the main thread
                self.failures.append(traceback.format_exc())

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    # ---- what is done again and again ----

    def tcp(self) -> None:
        """A connection with a few bytes, or with so many that the engine splices."""
        data = b"x" * random.choice([1, 1000, 300_000])
        with connect(self.port) as client:
            threading.Thread(target=client.sendall, args=(data,)).start()
            assert len(read_exactly(client, len(data))) == len(data)

    def cut_off(self) -> None:
        """A connection that may be reset at any moment."""
        with contextlib.suppress(ConnectionError), connect(self.cut_port, CUT) as client:
            client.sendall(b"x")
            client.recv(1)
            client.recv(1)

    def http(self) -> None:
        """Some requests on one connection."""
        with connect(self.web_port) as client, client.makefile("rb") as answers:
            for number in range(5):
                body = b"%d" % number
                client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n" + body)
                assert b"200" in answers.readline()
                while answers.readline() != b"\r\n":
                    pass
                assert answers.read(1) == body

    def udp(self) -> None:
        """A new client with a few datagrams; those on their way at a change may be lost."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect(("127.0.0.1", self.udp_port))
            for _ in range(3):
                client.send(b"x")
                with contextlib.suppress(TimeoutError):
                    assert client.recv(100)[2:] == b"x"

    def relay(self) -> None:
        """Two sockets handed over, and bytes through them both ways."""
        client, inside = socket.socketpair()
        backend, outside = socket.socketpair()
        with client, backend:
            self.engine.relay(inside.detach(), outside.detach())
            client.sendall(b"in")
            assert read_exactly(backend, 2) == b"in"
            backend.sendall(b"out")
            assert read_exactly(client, 3) == b"out"

    def look(self) -> None:
        """Everything that can be read while it runs."""
        stats = self.engine.stats()
        assert set(stats["services"]) == {"s", "u", "w"}
        self.engine.active_on("127.0.0.1")
        self.engine.explain("127.0.0.1", 7, "127.0.0.1", self.port)
        self.engine.read_log()
        assert len(self.engine.turns()) == 3


def test_everything_at_once_disturbs_nobody() -> None:
    with running(workers=3) as engine:
        storm = Storm(engine)
        engine.publish(storm.tables())
        does = (storm.tcp, storm.tcp, storm.cut_off, storm.http, storm.udp, storm.relay, storm.look)
        threads = [storm.keep_on(f"{n} {once.__name__}", once) for n, once in enumerate(does)]
        for turn in range(ROUNDS):
            engine.publish(storm.tables())
            if turn % 10 == 9:
                engine.cut(CUT)
            if turn % 25 == 24:
                engine.cut_backends([("u", "u1"), ("s", "gone")])
        wait_until(lambda: min(storm.n_done.values()) > 5 or storm.failures)
        storm.stopping.set()
        for thread in threads:
            while thread.is_alive():
                engine.cut(CUT)  # one that is being cut off may have just connected
                thread.join(0.1)
        assert not storm.failures, "\n".join(storm.failures)
        wait_until(lambda: engine.active() == 0)
