"""Requests that wait for their password to be checked, and what becomes of them meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fastpath.engine import Predicate
from fastpath.filters import Filters, HeaderEdits, RateLimit, Rewrite
from fastpath.options import Options
from fastpath.requests import RequestRecord
from tests.fastpath.http.gateways import (
    SWITCH,
    WEBSOCKET,
    Client,
    Web,
    ok,
    serving,
    tables,
    to,
)
from tests.fastpath.http.users import (
    ALICE,
    OTHER,
    SECRET,
    From,
    Gate,
    asking,
    basic,
    gated,
    http,
    locked,
    rejected,
    wait_for,
)
from tests.fastpath.peers import reset, running
from tests.net import free_port
from tests.waiting import wait_until

CHECKS_MAX = 256
"""As in http/checks.pxd; of one worker."""
AHEAD = 20
"""As CHECKS_AHEAD in http/filters/auth.pyx."""


@pytest.fixture
def gate() -> Iterator[Gate]:
    with gated() as found:
        yield found


def test_many_who_say_the_same_at_a_time_cost_one_check(gate: Gate) -> None:
    web = Web()
    gate.shuts()
    made = serving(web.backend(), routes=(locked(),), workers=2)
    with made as (engine, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(30)]
        for client in clients:
            client.send(asking(ALICE))
        wait_for(engine, 30)
        gate.opens()
        assert {client.response()[0] for client in clients} == {200}
        wait_for(engine, 0)
    assert gate.checked == [b"secret"]


def test_a_thousand_unknown_ones_are_bounded_and_who_is_known_is_served(gate: Gate) -> None:
    web, port = Web(), free_port()
    with running(connections=2048) as engine, contextlib.ExitStack() as stack:
        engine.publish(tables(port, web.backend(), routes=(locked(),)))
        alice = stack.enter_context(Client(port))
        assert alice.get("/", ALICE)[0] == 200
        gate.shuts()
        attackers = []
        for n in range(1000):
            client = stack.enter_context(From(port, f"127.0.1.{n // 25 + 1}"))
            client.send(asking(basic("alice", f"guess {n}")))
            attackers.append(client)
        refused = 1000 - CHECKS_MAX
        wait_until(
            lambda: rejected(engine, "checks-busy") + rejected(engine, "checks-rate") >= refused
        )
        assert http(engine)["checking"] <= CHECKS_MAX
        assert http(engine)["checks"] <= 1 + 40 * AHEAD
        for _ in range(10):
            assert alice.get("/", ALICE)[0] == 200
        assert http(engine)["rejected"]["credentials"] == 0
        gate.opens()
        heard = [client.response()[0] for client in attackers]
        assert set(heard) <= {401, 429, 503}
        assert heard.count(401) <= CHECKS_MAX
        wait_for(engine, 0)
        assert alice.get("/", ALICE)[0] == 200
    assert len(web.requests) == 12


def test_sources_take_turns(gate: Gate) -> None:
    web = Web()
    gate.shuts()
    with (
        serving(web.backend(), routes=(locked(),)) as (engine, port),
        contextlib.ExitStack() as stack,
    ):
        many = [stack.enter_context(Client(port)) for _ in range(10)]
        for n, client in enumerate(many):
            client.send(asking(basic("alice", f"guess {n}")))
            wait_for(engine, n + 1)
        one = stack.enter_context(From(port, "127.0.0.2"))
        one.send(asking(ALICE))
        wait_for(engine, 11)
        gate.opens()
        assert one.response()[0] == 200
        assert {client.response()[0] for client in many} == {401}
    # The first one was being checked, and another one may have been taken along with it.
    assert gate.checked.index(b"secret") <= 2


@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "end"])
def test_who_leaves_while_waiting_leaves_nothing_behind(gate: Gate, leave: Any) -> None:
    web = Web()
    with serving(web.backend(), routes=(locked(in_flight=4),)) as (engine, port):
        for n in range(5):
            gate.shuts()
            clients = [From(port, f"127.0.0.{n + 2}") for _ in range(4)]
            for i, client in enumerate(clients):
                client.send(asking(basic("alice", f"guess {n} {i}")))
            wait_for(engine, 4)
            for client in clients[1:]:
                leave(client.socket)
            if leave is reset:
                wait_for(engine, 1)
            gate.opens()
            assert clients[0].response()[0] == 401
            clients[0].socket.close()
            wait_for(engine, 0)
            wait_until(lambda: engine.active() == 0)
        with From(port, "127.0.0.99") as client:
            assert client.get("/", ALICE)[0] == 200


def test_what_comes_behind_a_request_that_waits_has_its_turn(gate: Gate) -> None:
    web = Web()
    gate.shuts()
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        client.send(asking(ALICE, "/1"), asking("X: y", "/2"), asking(ALICE, "/3"))
        wait_for(engine, 1)
        client.send(asking(ALICE, "/4")[:20])
        gate.opens()
        heard = [client.response()[::2] for _ in range(3)]
        assert [status for status, _ in heard] == [200, 401, 200]
        assert heard[2][1] == b"GET /3 HTTP/1.1"
        client.send(asking(ALICE, "/4")[20:])
        assert client.response()[2] == b"GET /4 HTTP/1.1"
        assert http(engine)["checks"] == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_waits_with_its_request(gate: Gate, *, chunked: bool) -> None:
    web = Web()
    gate.shuts()
    body = bytes(range(256)) * 800
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        head = f"POST / HTTP/1.1\r\nHost: a\r\n{ALICE}\r\n{framing}\r\n\r\n".encode()
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
        client.send(head, sent[:1000])
        wait_for(engine, 1)
        sender = threading.Thread(target=client.send, args=(sent[1000:],))
        sender.start()
        gate.opens()
        assert client.response()[0] == 200
        sender.join()
    assert web.requests[0].body == body


def test_tables_that_come_while_a_request_waits_are_those_it_goes_by(gate: Gate) -> None:
    old, new = Web(), Web(lambda _peer, _seen: ok(b"new"))
    with serving(old.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:

        def waits(line: str, **changed: Any) -> tuple[int, bytes]:
            gate.shuts()
            client.send(asking(line))
            wait_for(engine, 1)
            engine.publish(tables(port, new.backend(), **changed))
            gate.opens()
            return client.response()[::2]

        # Other users: what was asked of the old ones is of no use.
        assert waits(ALICE, routes=(locked(users={"alice": OTHER[1]}),))[0] == 401
        other = basic("alice", OTHER[0])
        users = {"alice": OTHER[1], "bob": SECRET}
        assert waits(other, routes=(locked(users=users),)) == (200, b"new")
        # Another route takes the request now, and wants nothing; or no route does.
        assert waits(basic("bob", "x"), routes=(to(name="n"), locked())) == (200, b"new")
        engine.publish(tables(port, new.backend(), routes=(locked(users={"c": SECRET}),)))
        assert waits(ALICE, routes=(to(host="b"),))[0] == 404
        wait_for(engine, 0)
    assert not old.requests


def test_a_place_in_flight_is_counted_once_whatever_becomes_of_the_route(gate: Gate) -> None:
    web = Web()
    routes = (locked(in_flight=1),)
    with serving(web.backend(), routes=routes) as (engine, port), Client(port) as client:
        gate.shuts()
        client.send(asking(ALICE))
        wait_for(engine, 1)
        with Client(port) as second:
            assert second.get("/", ALICE)[0] == 503
        gate.opens()
        assert client.response()[0] == 200
        gate.shuts()
        client.send(asking(basic("alice", "wrong")))
        wait_for(engine, 1)
        elsewhere = to(name="n", filters=Filters(in_flight=1))
        engine.publish(tables(port, web.backend(), routes=(elsewhere, *routes)))
        gate.opens()
        assert client.response()[0] == 200
        assert client.get()[0] == 200
        engine.publish(tables(port, web.backend(), routes=routes))
        for _ in range(3):
            assert client.get("/", ALICE)[0] == 200
        assert rejected(engine, "in-flight") == 1


def test_a_request_that_has_waited_is_charged_once() -> None:
    web = Web()
    route = locked(rate=RateLimit(1, 60_000, 1))
    with serving(web.backend(), routes=(route,)) as (engine, port), Client(port) as client:
        assert client.get("/", ALICE)[0] == 200
        assert http(engine)["checks"] == 1
        assert client.get("/", ALICE)[0] == 429


def test_a_request_that_has_waited_is_read_as_it_came() -> None:
    """What one route takes out must not lead it to another one when it goes on."""
    web = Web()
    leads = to(
        "",
        name="a",
        headers=(Predicate("x-inside", b"yes", b""),),
        filters=Filters(
            request_headers=HeaderEdits(remove=("x-inside",)), rewrite=Rewrite(path="/in")
        ),
    )
    inside = locked()._replace(name="b", path="/in")
    routes = (leads, inside, to(name="c"))
    with serving(web.backend(), routes=routes) as (_, port), Client(port) as client:
        assert client.get("/", "X-Inside: yes")[0] == 401
        assert client.get("/", "X-Inside: yes", ALICE)[2] == b"GET /in HTTP/1.1"
        assert client.get("/")[2] == b"GET / HTTP/1.1"
    assert web.requests[0].all("x-inside") == []


def test_both_of_two_routes_can_ask() -> None:
    web = Web()
    leads = locked(users={"alice": SECRET, "bob": SECRET}, rewrite=Rewrite(path="/in"))
    routes = (
        leads._replace(name="a", path="/out", targets=()),
        locked(users={"alice": SECRET})._replace(name="b", path="/in"),
    )
    with serving(web.backend(), routes=routes) as (engine, port), Client(port) as client:
        assert client.get("/out", ALICE)[2] == b"GET /in HTTP/1.1"
        assert client.get("/out", basic("bob", "secret"))[0] == 401
        assert http(engine)["checks"] == 4


def test_the_engine_stops_while_requests_wait(gate: Gate) -> None:
    gate.shuts()
    with serving(routes=(locked(),)) as (engine, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(From(port, f"127.0.0.{n}")) for n in range(1, 9)]
        for client in clients:
            client.send(asking(ALICE), asking(basic("b", "c")))
        wait_for(engine, 8)
        engine.stop()
        assert all(client.is_closed() for client in clients)
        gate.opens()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "piagent-verifier"])


def test_who_waits_for_too_long_is_told_to_come_again(gate: Gate) -> None:
    web = Web()
    gate.shuts()
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        status, fields, _ = client.get("/", ALICE)
        assert (status, fields["retry-after"]) == (503, "5")
        assert rejected(engine, "checks-busy") == 1
        gate.opens()
        # The check was not in vain.
        wait_until(lambda: client.get("/", ALICE)[0] == 200)
    assert gate.checked == [b"secret"]


def test_the_log_has_one_record_of_a_request_that_has_waited_and_no_credentials() -> None:
    web = Web()
    made = serving(web.backend(), routes=(locked(),), options=Options(logs=True))
    found: list[RequestRecord] = []
    with made as (engine, port), Client(port) as client:
        assert client.get("/", ALICE)[0] == 200
        assert client.get("/", basic("alice", "wrong"))[0] == 401

        def has_two() -> bool:
            found.extend(each for each in engine.read_log() if isinstance(each, RequestRecord))
            return len(found) >= 2

        wait_until(has_two)
    right, wrong = found
    assert (right.status, right.end) == (200, "done")
    assert [right.id] == web.requests[0].all("x-request-id")
    assert (wrong.status, wrong.end, wrong.backend) == (401, "credentials", None)
    assert right.duration_s >= right.head_s
    for each in found:
        assert not any(text in repr(each) for text in ("secret", "wrong", ALICE.split()[2]))


def test_a_websocket_waits_too(gate: Gate) -> None:
    web = Web(lambda _peer, _seen: SWITCH)
    gate.shuts()
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        client.send(WEBSOCKET[:-2], f"{ALICE}\r\n\r\n".encode())
        wait_for(engine, 1)
        gate.opens()
        assert client.socket.recv(1000).startswith(b"HTTP/1.1 101")
