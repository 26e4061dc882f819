"""Clients that stay at their backend by a cookie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from threading import Event

import pytest

from fastpath.engine import (
    Backend,
    Engine,
    Gateway,
    Listener,
    Route,
    Service,
    Sticky,
    Tables,
    Target,
)
from fastpath.numbering import MAX_ROUTES
from tests.fastpath.http.gateways import Client, Peer, Seen, Web, ok, to
from tests.fastpath.peers import PATIENCE_S, running
from tests.net import free_port

NAMES = "abcdef"
COOKIE = re.compile(r"sid=([0-9a-f]{16}); Path=/; Max-Age=3600; HttpOnly; SameSite=Lax")
STICKY = Sticky("sid", 3600)


def named(name: str) -> Web:
    """A backend that answers with its name."""
    return Web(lambda _peer, _seen: ok(name.encode()))


@pytest.fixture
def backends() -> list[Backend]:
    """Six."""
    return [named(name).backend(name) for name in NAMES]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One with the usual key."""
    with running(workers=2) as engine:
        yield engine


def publish(engine: Engine, port: int, *backends: Backend, route: Route | None = None) -> None:
    publish_services(engine, port, route or to(sticky=STICKY), Service("s", backends))


def publish_services(engine: Engine, port: int, route: Route, *services: Service) -> None:
    listener = Listener("127.0.0.1", port, "g", http=True)
    engine.publish(Tables((listener,), services, (Gateway("g", False, (route,)),)))


def ask(port: int, *fields: str) -> tuple[str, str | None]:
    """Who answers, and the cookie that comes with it."""
    with Client(port) as client:
        status, got, body = client.get("/", *fields)
    assert status == 200
    if "set-cookie" not in got:
        return body.decode(), None
    found = COOKIE.fullmatch(got["set-cookie"])
    assert found, got["set-cookie"]
    return body.decode(), found[1]


def test_a_client_with_the_cookie_stays_and_gets_no_other(
    engine: Engine, backends: list[Backend]
) -> None:
    publish(engine, port := free_port(), *backends)
    cookies = {}
    for _ in range(60):
        name, cookie = ask(port)
        assert cookies.setdefault(name, cookie) == cookie is not None
    assert len(set(cookies.values())) == len(cookies) > 2
    for name, cookie in cookies.items():
        for field in (
            f"Cookie: sid={cookie}",
            f"Cookie: a=b; sid={cookie}",
            f"cookie: sid={cookie};other=1",
            f"Cookie: xsid=1; sid=; sid=0123; sid={cookie}; z",
            f"Cookie: a=1\r\nCookie: sid={cookie}",
        ):
            assert ask(port, field) == (name, None)


@pytest.mark.parametrize(
    "value",
    ["", "0", "0" * 16, "f" * 16, "A" * 16, "g" * 16, "0123456789abcdef0", "192.0.2.1:80", '"'],
)
def test_a_cookie_that_names_nobody_is_replaced(
    engine: Engine, backends: list[Backend], value: str
) -> None:
    publish(engine, port := free_port(), *backends)
    assert ask(port, f"Cookie: sid={value}")[1] is not None


def test_the_cookie_survives_a_reload_and_a_move_to_another_node(
    engine: Engine, backends: list[Backend]
) -> None:
    publish(engine, port := free_port(), *backends)
    name, cookie = ask(port)
    publish(engine, port, *reversed([each for each in backends if each.name != "f"] + [
        named("new").backend("new"), *(each for each in backends if each.name == name == "f")
    ]))  # fmt: skip
    assert ask(port, f"Cookie: sid={cookie}") == (name, None)
    with running() as other:
        publish(other, elsewhere := free_port(), *reversed(backends))
        assert ask(elsewhere, f"Cookie: sid={cookie}") == (name, None)


def test_who_has_another_key_understands_nothing(engine: Engine, backends: list[Backend]) -> None:
    publish(engine, port := free_port(), *backends)
    _, cookie = ask(port)
    other = Engine(hash_key=b"another key here")
    other.start()
    publish(other, elsewhere := free_port(), *backends)
    found = {ask(elsewhere, f"Cookie: sid={cookie}")[1] for _ in range(8)}
    other.stop()
    assert None not in found
    assert cookie not in found


def test_an_unusable_backend_gives_its_clients_to_another_with_a_new_cookie(
    engine: Engine, backends: list[Backend]
) -> None:
    publish(engine, port := free_port(), *backends)
    name, cookie = ask(port)
    down = [each._replace(up=each.name != name) for each in backends]
    weightless = [each._replace(weight=int(each.name != name)) for each in backends]
    for others in (down, weightless, [each for each in backends if each.name != name]):
        publish(engine, port, *others)
        another, renewed = ask(port, f"Cookie: sid={cookie}")
        assert another != name
        assert renewed not in {None, cookie}
        assert ask(port, f"Cookie: sid={renewed}") == (another, None)


def test_a_backend_that_refuses_gives_its_client_away(engine: Engine) -> None:
    first, second = named("a"), named("b")
    publish(engine, port := free_port(), first.backend("a"))
    _, cookie = ask(port)
    publish(engine, port, first.backend("a"), second.backend("b"))
    assert ask(port, f"Cookie: sid={cookie}") == ("a", None)
    first.server.close()
    name, renewed = ask(port, f"Cookie: sid={cookie}")
    assert name == "b"
    assert renewed not in {None, cookie}


def test_the_cookie_decides_between_targets_too(engine: Engine) -> None:
    one, other = named("1"), named("2")
    services = Service("x", (one.backend("b"),)), Service("y", (other.backend("b"),))
    targets = Target("x", 1), Target("y", 1)
    route = to(targets=targets, sticky=STICKY)
    publish_services(engine, port := free_port(), route, *services)
    cookies = dict(ask(port) for _ in range(8))
    assert cookies.keys() == {"1", "2"}
    for name, cookie in cookies.items():
        assert [ask(port, f"Cookie: sid={cookie}") for _ in range(8)] == [(name, None)] * 8
    publish_services(
        engine, port, route._replace(targets=(Target("x", 1), Target("y", 0))), *services
    )
    assert ask(port, f"Cookie: sid={cookies['2']}") == ("1", cookies["1"])


def test_without_a_time_the_cookie_lives_as_long_as_the_browser(engine: Engine) -> None:
    route = to(sticky=Sticky("x-Sid"))
    publish(engine, port := free_port(), named("a").backend("a"), route=route)
    with Client(port) as client:
        first = client.get()[1]["set-cookie"]
        assert re.fullmatch(r"x-Sid=[0-9a-f]{16}; Path=/; HttpOnly; SameSite=Lax", first)
        # The names of cookies have case.
        assert client.get("/", f"Cookie: {first.partition(';')[0].lower()}")[1]["set-cookie"]
        assert "set-cookie" not in client.get("/", f"Cookie: {first.partition(';')[0]}")[1]
        assert client.get("/")[2] == b"a"


@pytest.mark.parametrize("sticky", [Sticky("a b"), Sticky(""), Sticky("a;"), Sticky("a", -1)])
def test_a_cookie_that_cannot_be_is_refused(engine: Engine, sticky: Sticky) -> None:
    with pytest.raises(ValueError, match="cookie"):
        publish(engine, free_port(), route=to(sticky=sticky))


def test_a_route_that_takes_the_place_of_another_gives_its_clients_no_cookie(
    engine: Engine,
) -> None:
    """What is under way goes on by the route it came through, not by one with that one's slot."""
    asked, answered = Event(), Event()

    def answer(_peer: Peer, _seen: Seen) -> bytes:
        asked.set()
        assert answered.wait(PATIENCE_S)
        return ok()

    web, port = Web(answer), free_port()
    publish(engine, port, web.backend())
    with Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert asked.wait(PATIENCE_S)
        for n_routes in (MAX_ROUTES // 2, MAX_ROUTES // 2 - 1):  # every slot but r's is used up
            routes = (to("", name=f"{n_routes}.{n}", host=f"{n}.lan") for n in range(n_routes))
            services = (Service("s", (web.backend(),)),)
            engine.publish(Tables((), services, (Gateway("g", False, tuple(routes)),)))
        publish(engine, port, web.backend(), route=to(name="new", sticky=Sticky("new", 3600)))
        answered.set()
        status, got, _ = client.response()
    assert status == 200
    assert "set-cookie" not in got
