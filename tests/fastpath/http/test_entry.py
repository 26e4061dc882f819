"""What a gateway lets in and whom it believes, on real exchanges."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath.filters import Filters, RateLimit
from fastpath.options import Options
from tests.fastpath.http.gateways import Client, Seen, Web, serving, tables, to
from tests.waiting import wait_until

PROXY = ("127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32")


def seen_by(*fields: str, trusted: tuple[str, ...] = PROXY, **options: Any) -> Seen:
    """What the backend gets of a request from 127.0.0.1 with these fields."""
    web = Web()
    with (
        serving(web.backend(), options=Options(trusted=trusted, **options)) as (_, port),
        Client(port) as client,
    ):
        assert client.get("/", *fields)[0] == 200
    return web.requests[0]


# ---- trusted_proxies ----


@pytest.mark.parametrize(
    ("sent", "source"),
    [
        ([], "127.0.0.1"),
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.9, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.9, 203.0.113.7, 192.0.2.5"], "203.0.113.7"),
        (["198.51.100.9", "203.0.113.7", "192.0.2.5 ,127.0.0.9"], "203.0.113.7"),
        (["192.0.2.4,192.0.2.5"], "192.0.2.4"),
        (["203.0.113.7,,"], "203.0.113.7"),
        (["203.0.113.7, unknown, 192.0.2.5"], "192.0.2.5"),
        (["203.0.113.7, unknown"], "127.0.0.1"),
        (["203.0.113.7:8080"], "203.0.113.7"),
        (["2001:db8::5, 2001:0DB9::0007"], "2001:db9::7"),
        (["[2001:db9::7]:443"], "2001:db9::7"),
        (["[2001:db9::7"], "127.0.0.1"),
        (["203.0.113.777"], "127.0.0.1"),
        (["9" * 60], "127.0.0.1"),
        ([""], "127.0.0.1"),
    ],
)
def test_who_asks_is_the_right_most_address_that_is_no_trusted_proxy_s(
    sent: list[str], source: str
) -> None:
    seen = seen_by(*(f"X-Forwarded-For: {value}" for value in sent))
    assert seen.all("x-real-ip") == [source]
    (told,) = seen.all("x-forwarded-for")
    assert told == ", ".join([*filter(None, sent), "127.0.0.1"])


def test_what_a_trusted_proxy_says_goes_on_and_the_rest_is_ours() -> None:
    seen = seen_by(
        "X-Forwarded-Proto: https", "X-Forwarded-Host: www.example", "X-Forwarded-Prefix: /p",
        "Forwarded: for=203.0.113.7", "X-Real-Ip: 198.51.100.1", "X_Forwarded_For: 198.51.100.2",
        "X-Forwarded-Proto: gopher",
    )  # fmt: skip
    assert seen.all("x-forwarded-proto") == ["https"]
    assert seen.all("x-forwarded-host") == ["www.example"]
    assert seen.all("x-forwarded-prefix") == ["/p"]
    assert seen.all("forwarded") == ['for=203.0.113.7, for=127.0.0.1;host="a";proto=http']
    assert seen.all("x-real-ip") == ["127.0.0.1"]
    assert len(seen.all("x-forwarded-port")) == 1
    assert seen.all("x_forwarded_for") == []


def test_nobody_else_is_believed() -> None:
    seen = seen_by("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https",
                   "Forwarded: for=203.0.113.7", trusted=("192.0.2.0/24",))  # fmt: skip
    assert seen.all("x-forwarded-for") == seen.all("x-real-ip") == ["127.0.0.1"]
    assert seen.all("x-forwarded-proto") == ["http"]
    assert seen.all("forwarded") == ['for=127.0.0.1;host="a";proto=http']


def test_connection_cannot_take_out_what_a_proxy_says() -> None:
    seen = seen_by("X-Forwarded-For: 203.0.113.7", "Connection: X-Forwarded-For, X-Real-Ip")
    assert seen.all("x-real-ip") == ["203.0.113.7"]


def test_filters_go_by_who_asks_request_for_request() -> None:
    web = Web()
    route = to(filters=Filters(denied=("203.0.113.7/32",), rate=RateLimit(1, 60_000, 1)))
    with (
        serving(web.backend(), routes=(route,), options=Options(trusted=PROXY)) as (engine, port),
        Client(port) as client,
    ):
        assert client.get("/", "X-Forwarded-For: 203.0.113.7")[0] == 403
        assert client.get("/", "X-Forwarded-For: 203.0.113.8")[0] == 200
        assert client.get("/", "X-Forwarded-For: 203.0.113.8")[0] == 429
        assert client.get("/", "X-Forwarded-For: 203.0.113.9")[0] == 200
        assert client.get("/")[0] == 200  # the proxy itself
        assert client.get("/")[0] == 429
        engine.publish(tables(port, web.backend(), routes=(to(filters=Filters(
            denied=("203.0.113.7/32",))),)))  # fmt: skip
        assert client.get("/", "X-Forwarded-For: 203.0.113.7")[0] == 200  # trusted no more
        assert web.requests[-1].all("x-real-ip") == ["127.0.0.1"]


# ---- underscore_headers ----

ODD = ("My_Field: 1", "X_Real_Ip: 2", "content_length: 3", "x_forwarded_anything: 4",
       "Proxy_Authorization: 5", "x_forwarded_" + "long_" * 30 + ": 6")  # fmt: skip


def test_names_with_underscores_are_dropped_or_kept_but_as_aliases_of_ours() -> None:
    names = [line.partition(":")[0] for line in ODD]
    assert not [name for name in names if seen_by(*ODD).all(name)]
    seen = seen_by(*ODD, underscores="keep")
    assert [name for name in names if seen.all(name)] == ["My_Field"]


def test_names_with_underscores_are_rejected() -> None:
    with serving(options=Options(underscores="reject")) as (_, port), Client(port) as client:
        status, _, body = client.get("/", "My_Field: 1")
        assert (status, body) == (400, b"400 malformed header field\n")


# ---- limits ----


def status_of(target: str, *fields: str, **options: Any) -> int:
    web = Web()
    with (
        serving(web.backend(), options=Options(**options)) as (_, port),
        Client(port) as client,
    ):
        return client.get(target, *fields)[0]


def test_heads_are_limited() -> None:
    head = len("GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n")
    assert status_of("/", "X: " + "x" * (500 - head), head_size=500) == 200
    assert status_of("/", "X: " + "x" * (501 - head), head_size=500) == 431
    assert status_of("/", "X: 1", fields=2) == 200
    assert status_of("/", "X: 1", "Y: 2", fields=2) == 431
    assert status_of("/" + "x" * 99, target_size=100) == 200
    assert status_of("/" + "x" * 100, target_size=100) == 414


@pytest.mark.parametrize(("gateway", "route"), [(4, 0), (4, 9), (9, 4)])
def test_the_lower_limit_of_a_body_counts(gateway: int, route: int) -> None:
    web = Web()
    routes = (to(filters=Filters(body_size=route)),)
    options = Options(body_size=gateway)
    with serving(web.backend(), routes=routes, options=options) as (_, port):
        for body, status in ((b"4\r\nabcd", 200), (b"5\r\nabcde", 413)):
            with Client(port) as client:
                client.send(
                    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                    body,
                    b"\r\n0\r\n\r\n",
                )
                assert client.response("POST")[0] == status
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(connections=2), "service_limit"),
        (Options(connections_per_source=2), "client_limit"),
    ],
)
def test_connections_are_limited(options: Options, reason: str) -> None:
    web = Web()
    with serving(web.backend(), options=options, workers=2) as (engine, port):
        clients = [Client(port) for _ in range(2)]
        assert [client.get()[0] for client in clients] == [200, 200]
        with Client(port) as another:
            assert another.is_closed()
        assert engine.stats()["rejected"][reason] == 1
        clients[0].socket.close()
        wait_until(lambda: engine.active() == 1)
        with Client(port) as another:
            assert another.get()[0] == 200


def test_one_client_s_connections_leave_room_for_others() -> None:
    web = Web()
    options = Options(connections=3, connections_per_source=1)
    with (
        serving(web.backend(), options=options) as (_, port),
        Client(port) as first,
        Client(port) as second,
    ):
        assert first.get()[0] == 200
        assert second.is_closed()
        with Client(port) as third:
            assert third.is_closed()  # what was turned away is not counted


def test_tables_with_options_that_cannot_be_are_refused() -> None:
    with serving() as (engine, _):
        for options, match in (
            (Options(trusted=("a",)), "does not appear to be"),
            (Options(underscores="maybe"), "is none of"),
            (Options(head_size=16385), "head_size 16385"),
            (Options(fields=0), "fields 0"),
            (Options(target_size=8193), "target_size 8193"),
            (Options(body_size=-1), "body_size -1"),
        ):
            with pytest.raises(ValueError, match=match):
                engine.publish(tables(1, options=options))
