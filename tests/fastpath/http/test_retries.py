"""Requests that are tried again, and those that must not be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastpath.engine import Backend, Retries
from tests.fastpath.http.gateways import Client, Peer, Seen, Web, ok, scripted, serving, tables, to
from tests.fastpath.peers import Refusing, break_off, reset
from tests.waiting import wait_until

Talk = Callable[[Peer], None]
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


def again(attempts: int = 2, **changes: Any) -> Retries:
    """At once, for every reason."""
    return Retries(attempts, statuses=(503,), backoff_ms=0)._replace(**changes)


# ---- ways to fail; each after it has read what it says ----


def resets_at_once(peer: Peer) -> None:
    break_off(peer.socket)


def closes(peer: Peer) -> None:
    peer.request()


def resets(peer: Peer) -> None:
    peer.request()
    break_off(peer.socket)


def is_busy(peer: Peer) -> None:
    peer.request()
    peer.send(REFUSED)


def is_silent(peer: Peer) -> None:
    peer.request()
    peer.file.read()


def raves(peer: Peer) -> None:
    peer.request()
    peer.send(b"nonsense\r\n\r\n")


def frames_wrongly(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")


def breaks_off(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 O")


def sends_hints(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")


FAILING: list[Talk] = [
    resets_at_once, closes, resets, is_busy, is_silent, raves, frames_wrongly, breaks_off,
]  # fmt: skip


def patience_ms(talk: Talk) -> int:
    """Only silence has to time out; the others must not, however busy this machine is."""
    return 500 if talk is is_silent else 10_000


class Failing:
    """A backend that fails in its way for the first `times` requests, and then answers."""

    def __init__(self, talk: Talk, times: int) -> None:
        self.tries = 0
        self._talk = talk
        self._times = times
        self._lock = threading.Lock()
        self.server = scripted(self._serve)

    def _serve(self, peer: Peer) -> None:
        with self._lock:
            self.tries += 1
            fails = self.tries <= self._times
        if fails:
            self._talk(peer)
            return
        while (seen := peer.request()) is not None:
            peer.send(ok(seen.line.encode()))

    def backend(self, name: str = "b") -> Backend:
        """As the engine's tables name it."""
        return self.server.backend(name)


def request(method: str, body: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return method.encode() + b" / HTTP/1.1\r\nHost: a\r\n" + length + b"\r\n" + body


SAFE = [("GET", b""), ("HEAD", b""), ("OPTIONS", b""), ("PUT", b""), ("DELETE", b"")]
UNSAFE = [("POST", b""), ("POST", b"x" * 10), ("PATCH", b"x"), ("PUT", b"x"), ("PROPFIND", b"")]


@pytest.mark.parametrize("talk", FAILING)
def test_what_may_be_repeated_gets_its_answer_however_the_first_tries_fail(talk: Talk) -> None:
    for method, body in SAFE:
        failing = Failing(talk, 2)
        route = to(backend_timeout_ms=patience_ms(talk), retries=again())
        with serving(failing.backend(), routes=(route,)) as (engine, port), Client(port) as client:
            client.send(request(method, body))
            assert client.response(method)[0] == 200
            assert failing.tries == 3
            assert engine.stats()["http"]["retries"]["g"]["r"] == {"begun": 2, "denied": 0}
        if talk is is_silent:
            break  # it takes its time


@pytest.mark.parametrize("talk", FAILING)
def test_what_may_not_be_repeated_is_sent_once_however_the_try_fails(talk: Talk) -> None:
    expected = {is_busy: 503, is_silent: 504}.get(talk, 502)
    for method, body in UNSAFE:
        failing = Failing(talk, 1)
        route = to(backend_timeout_ms=patience_ms(talk), retries=again(10))
        with serving(failing.backend(), routes=(route,)) as (_, port), Client(port) as client:
            client.send(request(method, body))
            status = client.response()[0]
            wait_until(lambda: failing.tries >= 1)  # noqa: B023 -- a 504 may be faster than it
        if talk is resets_at_once:
            # Whether a byte of it was taken before the reset came is the kernel's to know.
            assert (failing.tries, status) in {(1, 502), (2, 200)}
        else:
            assert (failing.tries, status) == (1, expected)


@pytest.mark.parametrize(("method", "body"), SAFE + UNSAFE)
def test_what_was_not_sent_is_tried_again_whatever_it_is(method: str, body: bytes) -> None:
    refusing = Refusing()
    route = to(retries=again(10, backoff_ms=50))
    with serving(refusing.backend("b"), routes=(route,)) as (engine, port), Client(port) as client:
        client.send(request(method, body))
        wait_until(lambda: engine.stats()["http"]["retries"]["g"]["r"]["begun"] >= 2)
        refusing.listen(ok())
        assert client.response(method)[0] == 200


def test_attempts_are_counted_and_the_last_answer_is_passed_on() -> None:
    failing = Failing(is_busy, 100)
    route = to(retries=again(3))
    with serving(failing.backend(), routes=(route,)) as (engine, port), Client(port) as client:
        for n in (1, 2):
            status, _, body = client.get()
            assert (status, body) == (503, b"busy")
            assert failing.tries == 4 * n
        assert engine.stats()["http"]["rejected"]["upstream"] == 0


def test_another_backend_is_tried_before_the_same_one() -> None:
    busy, web = Web(lambda *_: REFUSED), Web()
    routes = (to(retries=again(1)),)
    with serving(busy.backend("a"), web.backend("b"), routes=routes) as (_, port):
        with Client(port) as client:
            for _ in range(20):
                assert client.get()[0] == 200
        assert 0 < len(busy.requests) < 20


@pytest.mark.parametrize(
    ("talk", "status", "retries"),
    [
        (is_busy, 503, again(statuses=(502,))),
        (resets, 502, again(on=("connect-failure", "timeout"))),
        (raves, 502, again(on=("connect-failure", "timeout"))),
        (is_silent, 504, again(on=("connect-failure", "reset"))),
        (sends_hints, 502, again()),
        (is_busy, 503, None),
    ],
)
def test_only_what_was_asked_for_and_before_a_response_is_tried_again(
    talk: Talk, status: int, retries: Retries | None
) -> None:
    failing = Failing(talk, 1)
    route = to(backend_timeout_ms=patience_ms(talk), retries=retries)
    with serving(failing.backend(), routes=(route,)) as (_, port), Client(port) as client:
        client.send(request("GET"))
        while (got := client.response()[0]) < 200:
            pass
        wait_until(lambda: failing.tries >= 1)  # a 504 may be faster than it
        assert (failing.tries, got) == (1, status)


def test_the_time_for_the_whole_exchange_covers_all_tries() -> None:
    for talk, backoff_ms in ((is_silent, 0), (is_busy, 60_000)):
        failing = Failing(talk, 100)
        retries = again(10, backoff_ms=backoff_ms)
        route = to(backend_timeout_ms=100, request_timeout_ms=250, retries=retries)
        with serving(failing.backend(), routes=(route,)) as (_, port), Client(port) as client:
            assert client.get()[0] == 504
            assert failing.tries <= 3


def test_a_budget_keeps_an_overload_from_growing() -> None:
    failing = Failing(is_busy, 1000)
    route = to(retries=again(1, backoff_ms=300_000), request_timeout_ms=0)
    with serving(failing.backend(), routes=(route,)) as (engine, port):
        clients = [Client(port) for _ in range(10)]
        for client in clients:
            client.send(request("GET"))

        def counted() -> dict[str, int]:
            return dict(engine.stats()["http"]["retries"]["g"]["r"])

        wait_until(lambda: sum(counted().values()) == 10)
        # Three wait for their second try, which is in some minutes; the others were told.
        assert counted() == {"begun": 3, "denied": 7}
        for client in clients:
            reset(client.socket)
        wait_until(lambda: engine.active() == 0)
        with Client(port) as client:
            client.send(request("GET"))
            wait_until(lambda: counted()["begun"] == 4)


def test_a_client_that_breaks_off_while_it_waits_is_forgotten() -> None:
    failing = Failing(is_busy, 1000)
    route = to(retries=again(1, backoff_ms=300_000))
    with serving(failing.backend(), routes=(route,)) as (engine, port):
        for n in range(1, 7):
            client = Client(port)
            client.send(request("GET"))
            wait_until(lambda n=n: engine.stats()["http"]["retries"]["g"]["r"]["begun"] == n)
            reset(client.socket)
            wait_until(lambda: engine.active() == 0)


def test_new_tables_count_for_the_next_try() -> None:
    failing, web = Failing(is_busy, 1000), Web()
    route = to(retries=again(5, backoff_ms=200))
    with serving(failing.backend("a"), routes=(route,)) as (engine, port), Client(port) as client:
        client.send(request("GET"))
        wait_until(lambda: engine.stats()["http"]["retries"]["g"]["r"]["begun"] == 1)
        engine.publish(tables(port, web.backend("b"), routes=(route,)))
        assert client.response()[0] == 200


def test_pipelined_requests_keep_their_order() -> None:
    fails = [True]

    def answer(_peer: Peer, seen: Seen) -> bytes:
        if "/1" in seen.line and fails:
            fails.pop()
            return REFUSED
        return ok(seen.line.encode())

    web = Web(answer)
    with serving(web.backend(), routes=(to(retries=again()),)) as (_, port), Client(port) as client:
        client.send(*(f"GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for n in range(4)))
        assert [client.response()[2].split()[1] for _ in range(4)] == [b"/0", b"/1", b"/2", b"/3"]


@pytest.mark.parametrize(
    ("retries", "what"),
    [
        (again(0), "0 attempts"),
        (again(11), "11 attempts"),
        (again(on=("luck",)), "'luck' is none of"),
        (again(statuses=(200,)), "status 200 is not between"),
        (again(backoff_ms=-1), "backoff timeout"),
    ],
)
def test_retries_that_cannot_be_are_refused(retries: Retries, what: str) -> None:
    with pytest.raises(ValueError, match=what), serving(routes=(to(retries=retries),)):
        pass
