"""Failing backends are passed over: HTTP, TCP and UDP with real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from fastpath.engine import Backend, Engine, Gateway, Listener, Service, Tables
from tests.fastpath.http.gateways import Peer, ok, scripted, to
from tests.fastpath.peers import (
    PATIENCE_S,
    Datagrams,
    Refusing,
    Server,
    Silent,
    break_off,
    connect,
    read_all,
    running,
)
from tests.net import free_port
from tests.waiting import wait_until

FAILURES = 3
NAMES = "abc"
LONG_MS = 600_000


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with running(workers=request.param) as started:
        yield started


@dataclass
class Moody:
    """An HTTP backend that answers with its name, or does what `mood` says instead."""

    name: str
    mood: Callable[[Peer], None] | None = None
    over: threading.Event = field(default_factory=threading.Event)
    n_asked: int = 0

    def __post_init__(self) -> None:
        self.server = scripted(self._serve)

    def _serve(self, peer: Peer) -> None:
        while peer.request() is not None:
            self.n_asked += 1
            if self.mood is not None:
                self.mood(peer)
                return
            peer.send(ok(self.name.encode()))

    def backend(self) -> Backend:
        return self.server.backend(self.name)


def close(_peer: Peer) -> None:
    """Close without a word."""


def reset(peer: Peer) -> None:
    """Break the connection off."""
    break_off(peer.socket)
    peer.file.close()
    peer.socket.close()


def babble(peer: Peer) -> None:
    """Say what is no HTTP."""
    peer.send(b"220 smtp.example.com ready\r\n\r\n")


def hang(peer: Peer) -> None:
    """Say nothing, up to the other side's end."""
    with contextlib.suppress(OSError):
        read_all(peer.socket)


def service(*backends: Backend, balance: str = "round-robin", eject_ms: int = LONG_MS) -> Service:
    return Service("s", backends, balance=balance, eject_failures=FAILURES, eject_ms=eject_ms)


def web_tables(port: int, made: Service, *, timeout_ms: int = 10_000) -> Tables:
    gateway = Gateway("g", any_depth=False, routes=(to(backend_timeout_ms=timeout_ms),))
    return Tables((Listener("127.0.0.1", port, "g", http=True),), (made,), (gateway,))


def get(port: int, method: str = "GET") -> str:
    """Who answers, or the status of what went wrong."""
    with connect(port) as client:
        client.sendall(f"{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = read_all(client).decode()
        status = answer.split()[1]
        return answer[-1] if status == "200" else status


def state(engine: Engine) -> dict[str, tuple[int, bool]]:
    """How often each was ejected, and whether it is now."""
    backends = engine.stats()["services"]["s"]
    return {name: (each["ejections"], each["ejected"]) for name, each in backends.items()}


def ejected(engine: Engine) -> set[str]:
    return {name for name, (_, out) in state(engine).items() if out}


@pytest.mark.parametrize("mood", [close, reset, babble])
def test_a_backend_that_breaks_its_answers_off_is_ejected_after_so_many(
    engine: Engine, mood: Callable[[Peer], None]
) -> None:
    port = free_port()
    backends = [Moody(name) for name in NAMES]
    backends[1].mood = mood
    engine.publish(web_tables(port, service(*[each.backend() for each in backends])))
    answers = Counter(get(port) for _ in range(60))
    assert answers["502"] == FAILURES
    assert backends[1].n_asked == FAILURES
    assert state(engine) == {"a": (0, False), "b": (1, True), "c": (0, False)}


def test_a_backend_that_hangs_is_ejected() -> None:
    port = free_port()
    backends = [Moody("a"), Moody("b", hang)]
    with running(workers=2) as engine:
        made = service(*[each.backend() for each in backends])
        engine.publish(web_tables(port, made, timeout_ms=50))
        answers = Counter(get(port) for _ in range(20))
        assert answers["504"] == FAILURES
        assert state(engine) == {"a": (0, False), "b": (1, True)}


def test_failures_of_all_workers_count_together() -> None:
    """With one connection in flight at a time: so many failures, whoever saw them."""
    port = free_port()
    backends = [Moody("a"), Moody("b", close)]
    with running(workers=2) as engine:
        engine.publish(web_tables(port, service(*[each.backend() for each in backends])))
        seen = 0
        for _ in range(200):
            seen += get(port) == "502"
        assert seen == FAILURES
        assert all(each["turns"] > 0 for each in engine.stats()["workers"])


def test_answers_in_between_keep_it_in(engine: Engine) -> None:
    port = free_port()
    backends = [Moody("a"), Moody("b")]
    engine.publish(web_tables(port, service(*[each.backend() for each in backends])))
    for _ in range(5):
        backends[1].mood = close
        failed = 0
        while failed < FAILURES - 1:
            failed += get(port) == "502"
        backends[1].mood = None
        while get(port) != "b":
            pass
    assert state(engine) == {"a": (0, False), "b": (0, False)}


@pytest.mark.parametrize("peer", ["refusing", "silent"])
def test_a_backend_that_lets_nobody_connect_is_ejected_and_no_request_suffers(
    engine: Engine, peer: str
) -> None:
    port = free_port()
    bad: Refusing | Silent = Refusing() if peer == "refusing" else Silent()
    made = service(Moody("a").backend(), bad.backend("b"))._replace(connect_timeout_ms=100)
    engine.publish(web_tables(port, made))
    assert {get(port) for _ in range(20)} == {"a"}
    backends = engine.stats()["services"]["s"]
    assert backends["b"]["connect_failures"] == FAILURES
    assert state(engine) == {"a": (0, False), "b": (1, True)}


def test_it_comes_back_and_stays_when_it_is_well(engine: Engine) -> None:
    port = free_port()
    backends = [Moody("a"), Moody("b", close)]
    made = service(*[each.backend() for each in backends], eject_ms=1000)
    engine.publish(web_tables(port, made))
    start = time.monotonic()
    while not ejected(engine):
        get(port)
    backends[1].mood = None
    while get(port) != "b":
        time.sleep(0.01)
    assert time.monotonic() - start >= 1
    assert {get(port) for _ in range(10)} == {"a", "b"}
    # All is forgotten: it takes as many failures again.
    backends[1].mood = close
    assert Counter(get(port) for _ in range(20))["502"] == FAILURES


def test_it_is_out_again_at_once_and_for_longer_when_it_is_not_well(engine: Engine) -> None:
    port = free_port()
    backends = [Moody("a"), Moody("b", close)]
    made = service(*[each.backend() for each in backends], eject_ms=300)
    engine.publish(web_tables(port, made))
    asked, answered = [], []
    while len(answered) < FAILURES + 2:
        before = time.monotonic()
        if get(port) == "502":
            asked.append(before)
            answered.append(time.monotonic())
        elif ejected(engine):
            time.sleep(0.01)
    assert state(engine)["b"] == (3, True)
    assert answered[FAILURES] - asked[FAILURES - 1] >= 0.29
    assert answered[FAILURES + 1] - asked[FAILURES] >= 0.59


@pytest.mark.parametrize("balance", ["maglev", "round-robin", "least-connections", "random-two"])
def test_of_three_backends_of_which_two_fail_one_is_passed_over(
    engine: Engine, balance: str
) -> None:
    port = free_port()
    backends = [Moody("a"), Moody("b", close), Moody("c", close)]
    made = service(*[each.backend() for each in backends], balance=balance)
    engine.publish(web_tables(port, made))
    for _ in range(100):
        get(port)
    assert {name: n for name, (n, _) in state(engine).items()} == {"a": 0, "b": 1, "c": 1}
    assert ejected(engine) == {"b"}
    asked = backends[1].n_asked
    answers = Counter(get(port) for _ in range(60))
    assert backends[1].n_asked == asked
    assert answers["a"] > 10
    assert answers["502"] > 10


def test_when_all_fail_nobody_is_turned_away_without_a_try(engine: Engine) -> None:
    port = free_port()
    backends = [Moody(name, close) for name in NAMES]
    engine.publish(web_tables(port, service(*[each.backend() for each in backends])))
    assert {get(port) for _ in range(30)} == {"502"}
    assert ejected(engine) == {"a"}
    refusing = [Refusing().backend(name) for name in NAMES]
    engine.publish(web_tables(port, service(*refusing)))
    before = sum(each["connect_failures"] for each in engine.stats()["services"]["s"].values())
    assert get(port) == "502"
    after = sum(each["connect_failures"] for each in engine.stats()["services"]["s"].values())
    assert after - before == 3


def test_a_socket_that_was_idle_and_is_closed_is_no_failure() -> None:
    """The backend may close it just when a request is on its way; that says nothing of it."""
    together = threading.Barrier(FAILURES + 1)

    def answer_once(peer: Peer) -> None:
        peer.request()
        together.wait(PATIENCE_S)
        peer.send(ok(b"b"))
        peer.request()  # and close, as if it had done so before that came

    port = free_port()
    with running() as engine:
        engine.publish(web_tables(port, service(scripted(answer_once).backend("b"))))
        asking = [threading.Thread(target=get, args=(port,)) for _ in range(FAILURES + 1)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        idle = engine.stats()["services"]["s"]["b"]
        assert (idle["open"], idle["active"]) == (FAILURES + 1, 0)
        assert [get(port, "POST") for _ in range(FAILURES + 1)] == ["502"] * (FAILURES + 1)
        assert state(engine) == {"b": (0, False)}


def test_ejections_live_through_reloads_and_end_when_checks_find_it_well() -> None:
    port = free_port()
    backends = [Moody("a"), Moody("b", close)]
    made = service(*[each.backend() for each in backends])
    with running() as engine:
        engine.publish(web_tables(port, made))
        while not ejected(engine):
            get(port)
        for _ in range(3):
            engine.publish(web_tables(port, made))
        assert {get(port) for _ in range(10)} == {"a"}
        down = tuple(each._replace(up=each.name == "a") for each in made.backends)
        engine.publish(web_tables(port, made._replace(backends=down)))
        assert ejected(engine) == set()
        backends[1].mood = None
        engine.publish(web_tables(port, made))
        assert {get(port) for _ in range(10)} == {"a", "b"}
        assert state(engine)["b"] == (1, False)  # the counter goes on


# ---- TCP ----


def tcp_serve(engine: Engine, made: Service) -> int:
    port = free_port()
    engine.publish(Tables((Listener("127.0.0.1", port, "s", http=False),), (made,), ()))
    return port


def answering(name: str) -> Backend:
    """A TCP backend that answers what comes first with its name."""

    def serve(connection: socket.socket) -> None:
        if connection.recv(100):
            connection.sendall(name.encode())

    return Server(serve).backend(name)


def say(engine: Engine, port: int) -> str:
    """What comes back for a word; "-" when the connection ends without one. It is over then."""
    with connect(port) as client:
        try:
            client.sendall(b"hello")
            answer = client.recv(10).decode() or "-"
        except ConnectionError:
            answer = "-"
    wait_until(lambda: engine.active() == 0)
    return answer


def hang_up(connection: socket.socket) -> None:
    """Listen, and close without a word."""
    connection.recv(100)


def slam(connection: socket.socket) -> None:
    """Listen, and break the connection off."""
    connection.recv(100)
    break_off(connection)


@pytest.mark.parametrize("mood", [hang_up, slam])
@pytest.mark.parametrize("balance", ["maglev", "round-robin", "least-connections", "random-two"])
def test_a_tcp_backend_that_ends_connections_without_a_word_is_ejected(
    engine: Engine, mood: Callable[[socket.socket], None], balance: str
) -> None:
    made = service(answering("a"), Server(mood).backend("b"), answering("c"), balance=balance)
    port = tcp_serve(engine, made)
    said = Counter()
    while not ejected(engine):
        said[say(engine, port)] += 1
    assert said["-"] == FAILURES
    assert "-" not in {say(engine, port) for _ in range(30)}
    assert state(engine) == {"a": (0, False), "b": (1, True), "c": (0, False)}


@pytest.mark.parametrize("peer", ["refusing", "silent"])
def test_a_tcp_backend_that_lets_nobody_connect_is_ejected_and_no_client_sees_it(
    engine: Engine, peer: str
) -> None:
    bad: Refusing | Silent = Refusing() if peer == "refusing" else Silent()
    made = service(answering("a"), bad.backend("b"))._replace(connect_timeout_ms=100)
    port = tcp_serve(engine, made)
    assert {say(engine, port) for _ in range(20)} == {"a"}
    assert engine.stats()["services"]["s"]["b"]["connect_failures"] == FAILURES
    assert state(engine) == {"a": (0, False), "b": (1, True)}


def test_a_tcp_backend_that_refused_is_back_when_it_listens_again(engine: Engine) -> None:
    bound = Refusing()
    port = tcp_serve(engine, service(answering("a"), bound.backend("b"), eject_ms=500))
    while not ejected(engine):
        assert say(engine, port) == "a"
    bound.listen(b"b")
    while say(engine, port) != "b":
        time.sleep(0.01)
    assert {say(engine, port) for _ in range(10)} == {"a", "b"}


@pytest.mark.parametrize("timeout_ms", [0, 3_600_000], ids=["by hash", "remembered"])
def test_a_client_leaves_the_backend_that_it_stays_with_when_that_is_ejected(
    engine: Engine, timeout_ms: int
) -> None:
    bad: set[str] = set()

    def unless_bad(name: str) -> Backend:
        def serve(connection: socket.socket) -> None:
            if connection.recv(100) and name not in bad:
                connection.sendall(name.encode())

        return Server(serve).backend(name)

    made = service(*[unless_bad(name) for name in NAMES])
    port = tcp_serve(engine, made._replace(affinity=True, affinity_timeout_ms=timeout_ms))
    home = say(engine, port)
    assert {say(engine, port) for _ in range(5)} == {home}
    bad.add(home)
    assert [say(engine, port) for _ in range(FAILURES)] == ["-"] * FAILURES
    other = say(engine, port)
    assert other in set(NAMES) - {home}
    assert {say(engine, port) for _ in range(5)} == {other}


def test_clients_that_say_nothing_or_end_first_are_nobodys_failures(engine: Engine) -> None:
    def wait(connection: socket.socket) -> None:
        connection.recv(100)
        read_all(connection)

    port = tcp_serve(
        engine, service(Server(wait).backend("a"), Server(lambda _: None).backend("b"))
    )
    for _ in range(6 * FAILURES):
        with connect(port) as client:  # "b" closes at once
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    for _ in range(2 * FAILURES):
        with connect(port) as client, contextlib.suppress(ConnectionError):
            client.sendall(b"to a")  # which does not answer, and the client does not wait
    assert state(engine)["a"] == (0, False)


# ---- UDP ----


def udp_client(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(PATIENCE_S)
    client.connect(("127.0.0.1", port))
    return client


def test_a_udp_backend_that_nobody_listens_at_is_ejected(engine: Engine) -> None:
    port = free_port()
    answering, gone = Datagrams("a"), Datagrams("b")
    made = service(answering.backend(), gone.backend())
    listener = Listener("127.0.0.1", port, "s", http=False, udp=True)
    engine.publish(Tables((listener,), (made,), ()))
    gone.close()
    for _ in range(2 * FAILURES + 4):
        with udp_client(port) as client:
            client.settimeout(0.2)
            for _ in range(100):  # the first datagram may be lost to the one that is gone
                client.send(b"")
                with contextlib.suppress(TimeoutError):
                    assert client.recv(10) == b"a"
                    break
            else:
                pytest.fail("no answer")
    assert state(engine) == {"a": (0, False), "b": (1, True)}
    failures = engine.stats()["services"]["s"]["b"]["connect_failures"]
    assert failures == FAILURES
    answering.close()
