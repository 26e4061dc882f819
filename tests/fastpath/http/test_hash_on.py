"""Requests that a header or cookie spreads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from fastpath.engine import (
    Backend,
    Engine,
    Gateway,
    HashOn,
    Listener,
    Service,
    Sticky,
    Tables,
)
from fastpath.filters import Filters, ForwardAuth
from tests.fastpath.http.asking import saying
from tests.fastpath.http.gateways import Client, Web, ok, tables, to
from tests.fastpath.peers import running
from tests.net import free_port

NAMES = "abcdef"
USER = HashOn("x-user")
SID = HashOn("sid", cookie=True)
USERS = [f"user-{n}" for n in range(120)]


@pytest.fixture
def backends() -> list[Backend]:
    """Six that answer with their names."""
    return [
        Web(lambda _peer, _seen, name=name: ok(name.encode())).backend(name)  # type: ignore[misc]
        for name in NAMES
    ]


@pytest.fixture
def engines() -> Iterator[tuple[Engine, Engine]]:
    """Two nodes of one cluster."""
    with running(workers=2) as one, running() as other:
        yield one, other


def publish(engine: Engine, backends: list[Backend], hash_on: HashOn) -> int:
    """Serve them; the port."""
    port = free_port()
    engine.publish(tables(port, *backends, routes=(to(hash_on=hash_on),)))
    return port


def answers(port: int, fields: list[str]) -> list[str]:
    """Who answers each request, each on a connection of its own."""
    names = []
    for field in fields:
        with Client(port) as client:
            status, _, body = client.get("/", *filter(None, [field]))
        assert status == 200
        names.append(body.decode())
    return names


@pytest.mark.parametrize(
    ("hash_on", "spell"),
    [
        (USER, "X-User: {}".format),
        (SID, "Cookie: sid={}".format),
        (SID, "Cookie: a=b; xsid=1; sid={}; sid=other; =; ;".format),
    ],
)
def test_one_value_has_one_backend_on_every_node(
    engines: tuple[Engine, Engine], backends: list[Backend], hash_on: HashOn, spell: object
) -> None:
    assert callable(spell)
    fields = [spell(user) for user in USERS]
    port = publish(engines[0], backends, hash_on)
    first = answers(port, fields)
    assert answers(port, fields) == first
    assert answers(publish(engines[1], backends[::-1], hash_on), fields) == first
    shares = Counter(first)
    assert len(shares) == len(NAMES)
    assert max(shares.values()) < 2.5 * len(USERS) / len(NAMES)


def test_a_header_and_a_cookie_of_the_same_value_go_together(
    engines: tuple[Engine, Engine], backends: list[Backend]
) -> None:
    by_header = answers(publish(engines[0], backends, USER), [f"x-USER:  {u} " for u in USERS])
    by_cookie = answers(publish(engines[0], backends, SID), [f"Cookie: sid={u}" for u in USERS])
    assert by_header == by_cookie


def test_a_backend_that_goes_moves_its_own_and_hardly_any_other(
    engines: tuple[Engine, Engine], backends: list[Backend]
) -> None:
    fields = [f"X-User: {user}" for user in USERS]
    before = answers(publish(engines[0], backends, USER), fields)
    gone = [backends[0]._replace(up=False), *backends[1:]]
    after = answers(publish(engines[0], gone, USER), fields)
    assert "a" not in after
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert moved.count("a") == before.count("a") > 0
    assert len(moved) - moved.count("a") <= 2


@pytest.mark.parametrize(
    ("hash_on", "field"),
    [
        (USER, ""),
        (USER, "X-User:"),
        (USER, "X-Users: a"),
        (USER, "Cookie: x-user=a"),
        (SID, "Cookie: sid"),
        (SID, "Cookie: sid=; sid=a"),
        (SID, "Cookie: SID=a; xsid=a"),
    ],
)
def test_without_a_value_the_clients_address_counts(
    engines: tuple[Engine, Engine], backends: list[Backend], hash_on: HashOn, field: str
) -> None:
    port = publish(engines[0], backends, hash_on)
    (name,) = set(answers(port, [field] * 20))
    assert set(answers(publish(engines[1], backends, hash_on), [""] * 5)) == {name}


def test_a_sticky_cookie_goes_first(
    engines: tuple[Engine, Engine], backends: list[Backend]
) -> None:
    port = free_port()
    route = to(hash_on=USER, sticky=Sticky("sid"))
    engines[0].publish(tables(port, *backends, routes=(route,)))
    with Client(port) as client:
        _, got, body = client.get("/", f"X-User: {USERS[0]}")
        cookie = got["set-cookie"].partition(";")[0]
        for user in USERS[:20]:
            assert client.get("/", f"X-User: {user}", f"Cookie: {cookie}")[2] == body


@pytest.mark.parametrize("affinity", [True, False])
def test_who_is_asked_before_changes_nothing(
    engines: tuple[Engine, Engine], backends: list[Backend], affinity: bool
) -> None:
    """Neither of affinity by address nor of hash_on."""
    service = Service("s", tuple(backends), affinity=affinity)
    auth = Service("auth", (saying(ok()).backend(),))
    found = []
    for filters in (Filters(), Filters(forward_auth=ForwardAuth("auth", "/"))):
        route = to(filters=filters, hash_on=None if affinity else USER)
        listener = Listener("127.0.0.1", port := free_port(), "g", http=True)
        gateway = Gateway("g", False, (route,))
        engines[0].publish(Tables((listener,), (service, auth), (gateway,)))
        found.append(answers(port, [f"X-User: {user}" for user in USERS[:20]]))
    assert found[0] == found[1]
    assert len(set(found[0])) == 1 or not affinity


def test_a_name_that_none_can_be_is_refused(
    engines: tuple[Engine, Engine], backends: list[Backend]
) -> None:
    with pytest.raises(ValueError, match="route 'r': 'a b' is no name"):
        publish(engines[0], backends, HashOn("a b"))
