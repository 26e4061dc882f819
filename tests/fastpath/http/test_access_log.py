"""What the engine tells of each request, of gateways that log."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from fastpath.engine import Retries, Service
from fastpath.filters import Filters, Respond
from fastpath.options import Options
from fastpath.requests import RequestRecord
from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Peer,
    Seen,
    Web,
    ok,
    scripted,
    serving,
    tables,
    to,
)
from tests.fastpath.peers import reset
from tests.net import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from fastpath.engine import Engine

LOGS = Options(logs=True)
KEPT = 4096
"""As in http/records.pxd."""


def told(engine: Engine, n: int = 1) -> list[RequestRecord]:
    """The next `n` records, and no more."""
    found: list[RequestRecord] = []

    def enough() -> bool:
        found.extend(each for each in engine.read_log() if isinstance(each, RequestRecord))
        return len(found) >= n

    wait_until(enough, f"{n} records")
    assert len(found) == n
    return found


def test_a_record_says_who_asked_what_of_whom_and_what_became_of_it() -> None:
    web = Web()
    before = time.time()
    with serving(web.backend(), options=LOGS) as (engine, port), Client(port) as client:
        client.send(
            b"POST /a/./b%41?secret=1 HTTP/1.1\r\nHost: A.Example:80\r\nContent-Length: 5\r\n"
            b'Referer: http://x.example/p?q=1#f\r\nUser-Agent: tester "1"\r\n'
            b"Cookie: secret=2\r\nAuthorization: Basic secret3\r\n\r\nhello"
        )
        assert client.response()[0] == 200
        (first,) = told(engine)
        assert client.get("/again")[0] == 200
        (second,) = told(engine)
    assert before - 1 <= first.started <= time.time() + 1
    assert 0 <= first.head_s <= first.duration_s
    assert 0 <= (first.connect_s or 0) <= first.duration_s
    assert 0 <= (first.response_s or 0) <= first.duration_s
    assert first.queue_s == 0
    assert first.connect_s is not None
    assert first.response_s is not None
    fixed = first._replace(started=0, head_s=0, connect_s=0, response_s=0, duration_s=0, id=None)
    assert fixed == RequestRecord(
        gateway="g", route="r", service="s", backend="b", client="127.0.0.1", method="POST",
        host="a.example", path="/a/bA", version="HTTP/1.1", status=200, bytes_in=5, bytes_out=5,
        started=0, head_s=0, queue_s=0, connect_s=0, response_s=0, duration_s=0, retries=0,
        end="done", id=None, referer="http://x.example/p", agent='tester "1"',
    )  # fmt: skip
    assert "secret" not in repr(first)
    assert (second.path, second.connect_s, second.agent) == ("/again", 0, None)


def test_a_gateway_that_does_not_log_tells_nothing() -> None:
    web = Web()
    with serving(web.backend()) as (engine, port), Client(port) as client:
        assert client.get()[0] == 200
        engine.publish(tables(port, web.backend(), options=LOGS))
        assert client.get("/logged")[0] == 200
        assert told(engine)[0].path == "/logged"


@pytest.mark.parametrize(
    ("sent", "path", "status", "end"),
    [
        (b"GET /none?q HTTP/1.1\r\nHost: a\r\n\r\n", "/none", 404, "no-route"),
        (b"GET /a?q HTTP/1.1\r\nHost: a\r\nbad field: 1\r\n\r\n", "/a", 400, "field"),
        (b"GET /%zz?q HTTP/1.1\r\nHost: a\r\n\r\n", "/%zz", 400, "path"),
        (b"GET http://u:p@h/a HTTP/1.1\r\nHost: a\r\n\r\n", None, 400, "target"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", None, 405, "method"),
        (b"GET / HTTP/1.1\r\n\r\n", "/", 400, "host"),
    ],
)
def test_a_request_that_is_refused_has_its_record(
    sent: bytes, path: str | None, status: int, end: str
) -> None:
    routes = (to(path="/web"),)
    with serving(options=LOGS, routes=routes) as (engine, port), Client(port) as client:
        client.send(sent)
        assert client.response()[0] == status
        (record,) = told(engine)
    assert (record.path, record.status, record.end) == (path, status, end)
    assert (record.method, record.backend) == (sent.split()[0].decode(), None)
    assert record.bytes_out > 0


def test_what_has_no_method_has_no_record_and_takes_none_from_before() -> None:
    with serving(options=LOGS, routes=()) as (engine, port):
        with Client(port) as client:
            assert client.get("/before")[0] == 404
        with Client(port) as client:
            client.send(b"G@T / HTTP/1.1\r\n\r\n")
            assert client.response()[0] == 400
        with Client(port) as client:
            assert client.get("/after")[0] == 404
        assert [each.path for each in told(engine, 2)] == ["/before", "/after"]


def test_a_head_that_takes_too_long_is_told_with_its_method() -> None:
    slow = {"header_timeout_ms": 100}
    with serving(options=LOGS, **slow) as (engine, port), Client(port) as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: ")
        assert client.response()[0] == 408
        (record,) = told(engine)
    assert (record.method, record.path, record.end) == ("GET", "/slow", "header-timeout")
    assert record.head_s >= 0.05


def test_long_texts_are_cut_and_marked() -> None:
    with serving(options=LOGS, routes=()) as (engine, port), Client(port) as client:
        client.get(f"/{'a' * 255}", f"User-Agent: {'b' * 256}")
        client.get(f"/{'a' * 256}", f"User-Agent: {'b' * 257}", f"Referer: {'c' * 8000}")
        exact, cut = told(engine, 2)
    assert (exact.path, exact.agent) == (f"/{'a' * 255}", "b" * 256)
    assert (cut.path, cut.agent) == (f"/{'a' * 255}...", f"{'b' * 256}...")
    assert cut.referer == f"{'c' * 256}..."


def test_bytes_are_those_of_bodies() -> None:
    def answer(_peer: Peer, seen: Seen) -> bytes:
        if seen.line.startswith("HEAD"):
            return b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"
        if "none" in seen.line:
            return b"HTTP/1.1 204 No Content\r\n\r\n"
        return b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"x" * 100_000)

    web = Web(answer)
    with serving(web.backend(), options=LOGS) as (engine, port), Client(port) as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n", b"y" * 70_000)
        assert client.response()[0] in {100, 200}
        (whole,) = told(engine)
    assert (whole.bytes_in, whole.bytes_out) == (70_000, 100_000)
    with serving(web.backend(), options=LOGS) as (engine, port), Client(port) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response("HEAD")[0] == 200
        assert client.get("/none")[0] == 204
        assert [each.bytes_out for each in told(engine, 2)] == [0, 0]


def test_who_asks_is_who_a_trusted_proxy_says() -> None:
    options = Options(logs=True, trusted=("127.0.0.0/8",))
    with serving(options=options, routes=()) as (engine, port), Client(port) as client:
        client.get("/", "X-Forwarded-For: 2001:db8::7")
        client.get("/")
        assert [each.client for each in told(engine, 2)] == ["2001:db8::7", "127.0.0.1"]


def test_a_backend_that_breaks_off_is_told() -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    server = scripted(serve)
    with serving(server.backend("b"), options=LOGS) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.rest().endswith(b"half")
        (record,) = told(engine)
    assert (record.end, record.status, record.bytes_out) == ("backend-cut", 200, 4)


def test_a_client_that_breaks_off_is_told() -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                peer.send(b"x" * 10_000)

    server = scripted(serve)
    with serving(server.backend("b"), options=LOGS) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        while not client.heard.endswith(b"x"):  # the head may come alone
            client.heard += client.socket.recv(1000)
        reset(client.socket)
        (record,) = told(engine)
    assert (record.end, record.status, record.backend) == ("client-gone", 200, "b")
    assert 0 < record.bytes_out < 1_000_000_000


def test_a_backend_that_takes_too_long_is_told() -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.socket.recv(1)

    server = scripted(serve)
    routes = (to(backend_timeout_ms=100),)
    with (
        serving(server.backend("b"), options=LOGS, routes=routes) as (engine, port),
        Client(port) as client,
    ):
        assert client.get()[0] == 504
        (record,) = told(engine)
    assert (record.end, record.status, record.backend) == ("timeout", 504, "b")


def test_a_tunnel_is_told_when_it_is_over() -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(SWITCH)
        peer.socket.recv(4)
        peer.send(b"answer")

    server = scripted(serve)
    with serving(server.backend("b"), options=LOGS) as (engine, port), Client(port) as client:
        client.send(WEBSOCKET)
        assert client.response()[0] == 101
        assert engine.read_log() == []
        client.send(b"ping")
        assert client.rest() == b"answer"
        client.socket.close()
        (record,) = told(engine)
    assert (record.end, record.status) == ("tunnel", 101)
    assert (record.bytes_in, record.bytes_out) == (4, 6)


def test_retries_are_counted_and_not_carried_over() -> None:
    retries = Retries(1, ("connect-failure",), (), 1)
    routes = (to(retries=retries), to(name="q", path="/here", targets=()))
    with serving(options=LOGS, routes=routes) as (engine, port), Client(port) as client:
        service = Service("s", (Web().backend()._replace(port=free_port()),))
        engine.publish(tables(port, options=LOGS, routes=routes)._replace(services=(service,)))
        assert client.get()[0] == 502
        assert client.get("/here")[0] == 500
        first, second = told(engine, 2)
    assert (first.retries, first.end, first.backend) == (1, "connect", None)
    assert (second.retries, second.end, second.route) == (0, "no-backend", "q")


def test_the_time_in_the_queue_is_told() -> None:
    def answer(_peer: Peer, seen: Seen) -> bytes:
        time.sleep(0.05)
        return ok(seen.line.encode())

    web = Web(answer)
    service = Service("s", (web.backend(),), connections_max=1)
    with serving(options=LOGS) as (engine, port), Client(port) as one, Client(port) as two:
        engine.publish(tables(port, options=LOGS)._replace(services=(service,)))
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        two.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one.response()[0] == two.response()[0] == 200
        waited = sorted(each.queue_s for each in told(engine, 2))
    assert waited[0] == 0 < waited[1]


def test_what_is_under_way_when_the_engine_stops_is_told() -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.socket.recv(1)

    server = scripted(serve)
    with serving(server.backend("b"), options=LOGS) as (engine, port), Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: engine.stats()["services"]["s"]["b"]["active"] == 1, "it is asked")
        engine.stop()
        (record,) = told(engine)
    assert record.end == "stopped"


def test_what_nobody_reads_is_dropped_and_counted() -> None:
    more, rounds = 100, 42
    each_round = 100
    answer = to(filters=Filters(respond=Respond(204)), targets=())
    with serving(options=LOGS, routes=(answer,)) as (engine, port), Client(port) as client:
        for _ in range(rounds):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * each_round)
            for _ in range(each_round):
                assert client.response()[0] == 204
        dropped = rounds * each_round - KEPT
        wait_until(lambda: engine.stats()["log_dropped"] == dropped, "the last ones are dropped")
        records = told(engine, KEPT)
        assert {each.end for each in records} == {"respond"}
        assert dropped >= more
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response()[0] == 204
        told(engine)


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [
        ((), False),
        (("X-Request-Id: a.B_9-",), True),
        (("x-request-ID: " + "a" * 64,), True),
        (("X-Request-Id: " + "a" * 65,), False),
        (("X-Request-Id:",), False),
        (("X-Request-Id: a b",), False),
        (("X-Request-Id: a@b",), False),
        (("X-Request-Id: a", "X-Request-Id: b"), False),
        (("X_Request_Id: a",), False),
    ],
)
@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_request_has_an_id_of_its_own_or_a_trusted_proxy_s(
    sent: tuple[str, ...], *, is_kept: bool, is_trusted: bool
) -> None:
    web = Web()
    options = Options(logs=True, underscores="keep", trusted=("127.0.0.0/8",) if is_trusted else ())
    with serving(web.backend(), options=options) as (engine, port), Client(port) as client:
        assert client.get("/", *sent)[0] == 200
        assert client.get("/", "Connection: X-Request-Id")[0] == 200
        records = told(engine, 2)
    ids = [each for seen in web.requests for each in seen.all("x-request-id")]
    assert ids == [each.id for each in records]
    first, second = ids
    assert len(second) == 32
    assert int(second, 16) >= 0
    if is_kept and is_trusted:
        assert first == sent[0].partition(": ")[2]
    else:
        assert (first[:16], int(first[16:], 16) + 1) == (second[:16], int(second[16:], 16))
    assert [each for seen in web.requests for each in seen.all("x_request_id")] == []


def test_workers_give_ids_of_their_own() -> None:
    found = set()
    for _ in range(3):
        with serving(options=LOGS, routes=()) as (engine, port), Client(port) as client:
            assert client.get()[0] == 404
            found.add((told(engine)[0].id or "")[:16])
    assert len(found) == 3
