"""basic_auth on real exchanges: passwords are checked by libcrypt, beside the workers."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess

import pytest

from fastpath.filters import Cors, Page
from tests.fastpath.http.gateways import (
    Client,
    Web,
    serving,
    tables,
)
from tests.fastpath.http.users import (
    ALICE,
    OTHER,
    SECRET,
    From,
    basic,
    http,
    locked,
    rejected,
)

VECTORS = [
    # SHA-crypt specification, "SHA512"
    (
        "Hello world!",
        (
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJue"
            "sI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
        ),
    ),
    (
        "Hello world!",
        (
            "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbH"
            "bbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v."
        ),
    ),
    (
        "This is just a test",
        (
            "$6$rounds=5000$toolongsaltstrin$lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQz"
            "Q3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0"
        ),
    ),
    OTHER,
    # crypt_blowfish, wrapper.c
    ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
    ("U*U*", "$2b$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
    ("U*U*", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
]
AHEAD = 20
"""As CHECKS_AHEAD in http/filters/auth.pyx."""


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


@pytest.mark.parametrize(("password", "hashed"), VECTORS)
def test_published_vectors_of_both_kinds_let_in_who_knows_the_password(
    password: str, hashed: str
) -> None:
    web = Web()
    users = {"bob": SECRET, "álice": hashed}
    with (
        serving(web.backend(), routes=(locked(users=users),)) as (engine, port),
        Client(port) as client,
    ):
        assert client.get()[0] == 401
        assert http(engine)["checks"] == 0
        for wrong in (password + "x", "", "secret"):
            assert client.get("/", basic("álice", wrong))[0] == 401
        assert client.get("/", basic("bob", password))[0] == 401
        assert client.get("/", basic("carol", password))[0] == 401
        assert not web.requests
        assert client.get("/", basic("álice", password))[0] == 200
        assert client.get("/", basic("bob", "secret"))[0] == 200
        assert rejected(engine, "credentials") == 6
    # The backend is told who it is.
    assert web.requests[0].all("authorization") == [basic("álice", password).split(": ")[1]]


@pytest.mark.parametrize(
    ("realm", "quoted"),
    [("a b", "a b"), ('say "a"', r"say \"a\""), ("a\\", "a\\\\"), ("", "")],
)
def test_who_says_nothing_is_told_what_is_asked_for(realm: str, quoted: str) -> None:
    with serving(routes=(locked(realm),)) as (_, port), Client(port) as client:
        status, fields, body = client.get()
        assert (status, body) == (401, b"401 a user name and its password are needed\n")
        assert fields["www-authenticate"] == f'Basic realm="{quoted}", charset="UTF-8"'
        # The connection goes on.
        assert client.get()[0] == 401


def test_a_realm_cannot_end_the_line() -> None:
    with pytest.raises(ValueError, match="printable"), serving(routes=(locked("a\r\nb: c"),)):
        pass


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic",
        "Basic ",
        f"Bearer {encoded(b'alice:secret')}",
        f"Basicx{encoded(b'alice:secret')}",
        f"Basic\t{encoded(b'alice:secret')}",
        f"Basic {encoded(b'alice')}",
        f"Basic {encoded(b'alice:secret')} x",
        f"Basic {encoded(b'alice:secret')[:-1]}",  # not a multiple of four
        f"Basic {encoded(b'alice:secre').rstrip('=')}",  # no padding
        f"Basic {encoded(b'alice:secret')[:-4]}====",
        "Basic YWxpY2U6c2VjcmV0eB==",  # stray bits, for "alice:secretx"
        f"Basic {encoded(b'alice:secret').replace('Y', '-')}",
        f"Basic {encoded(b'alice:secret' + bytes(1))}",
        f"Basic {encoded(b'alice:secret' + bytes([127]))}",
        f"Basic {encoded(b'a' * 256 + b':secret')}",
        f"Basic {encoded(b'alice:' + b's' * 256)}",
        f"Basic {encoded(b'alice:' + b's' * 5000)}",
        f"Basic {'=' * 8}",
    ],
)
def test_what_are_no_credentials_is_refused_without_a_check(value: str) -> None:
    web = Web()
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        assert client.get("/", f"Authorization: {value}")[0] == 401
        assert client.get("/", f"authorization:  basic  {ALICE.split()[2]} ")[0] == 200
        assert http(engine)["checks"] == 1
    assert len(web.requests) == 1


def test_names_and_passwords_have_255_bytes_at_most() -> None:
    user, password = "a" * 255, "p:" * 127 + "p"
    with serving(routes=(locked(),)) as (engine, port), Client(port) as client:
        assert client.get("/", basic(user, password))[0] == 401
        assert client.get("/", basic(user + "a", password))[0] == 401
        assert client.get("/", basic(user, password + "p"))[0] == 401
        assert http(engine)["checks"] == 1


def test_of_two_credentials_none_counts() -> None:
    web = Web()
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        assert client.get("/", ALICE)[0] == 200
        assert client.get("/", ALICE, basic("alice", "wrong"))[0] == 401
        assert client.get("/", ALICE, ALICE)[0] == 401
        # What Connection names would not come to the backend either.
        assert client.get("/", ALICE, "Connection: authorization")[0] == 401
        assert http(engine)["checks"] == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_known_is_not_checked_again(workers: int) -> None:
    web = Web()
    made = serving(web.backend(), routes=(locked(),), workers=workers)
    with made as (engine, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(8)]
        assert clients[0].get("/", ALICE)[0] == 200
        assert {client.get("/", ALICE)[0] for client in clients} == {200}
        assert http(engine)["checks"] == 1
        # A client that goes on saying something wrong costs one check, too.
        wrong = basic("alice", "wrong")
        assert clients[0].get("/", wrong)[0] == 401
        assert {client.get("/", wrong)[0] for client in clients} == {401}
        assert http(engine)["checks"] == 2
        # The same users in new tables are the same.
        engine.publish(tables(port, web.backend(), routes=(locked("b"),)))
        assert clients[0].get("/", ALICE)[0] == 200
        assert http(engine)["checks"] == 2


def test_other_users_void_what_was_known() -> None:
    web = Web()
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        assert client.get("/", ALICE)[0] == 200
        for users, status in (
            ({"alice": OTHER[1]}, 401),  # another password
            ({"alice": SECRET}, 200),
            ({"bob": SECRET}, 401),  # the user is gone
            ({"alice": SECRET, "bob": SECRET}, 200),
        ):
            engine.publish(tables(port, web.backend(), routes=(locked(users=users),)))
            assert client.get("/", ALICE)[0] == status
        assert client.get("/", basic("bob", "secret"))[0] == 200


def test_routes_with_other_users_know_nothing_of_each_other() -> None:
    routes = (
        locked(users={"alice": SECRET})._replace(name="a", path="/a"),
        locked(users={"alice": OTHER[1]})._replace(name="b", path="/b"),
    )
    web = Web()
    with serving(web.backend(), routes=routes) as (engine, port), Client(port) as client:
        other = basic("alice", OTHER[0])
        asked = [("/a", ALICE), ("/b", ALICE), ("/a", other), ("/b", other)] * 2
        assert [client.get(*each)[0] for each in asked] == [200, 401, 401, 200] * 2
        assert http(engine)["checks"] == 4


def test_an_address_may_guess_so_often_and_no_more() -> None:
    web = Web()
    with serving(web.backend(), routes=(locked(),)) as (engine, port), Client(port) as client:
        heard = [client.get("/", basic("alice", f"guess {n}")) for n in range(AHEAD + 5)]
        assert [status for status, _, _ in heard[:AHEAD]] == [401] * AHEAD
        # One more may come a second.
        assert heard[-1][0] == 429
        assert 1 <= int(heard[-1][1]["retry-after"]) <= 2
        assert rejected(engine, "checks-rate") >= 3
        # Others are no worse off.
        with From(port, "127.0.0.2") as other:
            assert other.get("/", ALICE)[0] == 200
        # What is known needs no check.
        assert client.get("/", ALICE)[0] == 200


def test_a_browser_may_ask_first_and_hears_why_it_may_not() -> None:
    origin = "https://a.example"
    route = locked(cors=Cors((origin,), ("PUT",), ("authorization",), credentials=True))
    with serving(routes=(route,)) as (_, port), Client(port) as client:
        client.send(
            f"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n"
            "Access-Control-Request-Method: PUT\r\n\r\n".encode()
        )
        assert client.response()[0] == 204
        status, fields, _ = client.get("/", f"Origin: {origin}")
        assert status == 401
        assert fields["access-control-allow-origin"] == origin
        assert "www-authenticate" in fields
        client.send(b"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response()[0] == 401


def test_a_page_of_ones_own_asks_for_credentials_too() -> None:
    page = Page(401, 401, b"<h1>Who?</h1>", "text/html")
    with serving(routes=(locked(pages=(page,)),)) as (_, port), Client(port) as client:
        status, fields, body = client.get()
        assert (status, body) == (401, b"<h1>Who?</h1>")
        assert fields["www-authenticate"].startswith("Basic ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_says_who_it_is() -> None:
    web = Web()
    with serving(web.backend(), routes=(locked(),)) as (_, port):
        url = f"http://127.0.0.1:{port}/"
        for who, status in (("alice:secret", b"200"), ("alice:no", b"401"), ("", b"401")):
            got = subprocess.run(
                ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u", who, url],
                capture_output=True,
                check=True,
                timeout=20,
            )
            assert got.stdout == status
    assert len(web.requests) == 1


def test_users_are_shown_without_names_and_hashes() -> None:
    shown = repr(locked())
    assert "1 users" in shown
    assert "alice" not in shown
    assert SECRET not in shown
    assert "rounds" not in shown


def test_what_was_right_is_remembered_longer_and_never_makes_room_for_what_was_wrong() -> None:
    probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")
    known = probe.Known()
    places = range(0, 1024 * 20, 1024)  # all of one bucket, which has five
    assert known.find(0, 0) is None
    for n, place in enumerate(places[:5]):
        known.keep(place, place == 0, n)
    assert [known.find(place, 10) for place in places[:6]] == [True, *[False] * 4, None]
    for place in places[5:15]:
        known.keep(place, False, 10)
    assert known.find(0, 10) is True
    assert known.find(places[14], 10) is False
    assert known.find(places[14], 10_009) is False
    assert known.find(places[14], 10_010) is None
    for place in places[5:15]:
        known.keep(place, False, 295_000)  # forgotten later than what was right
    known.keep(places[16], True, 295_001)
    assert known.find(0, 299_999) is True
    assert known.find(0, 300_000) is None
    for n, place in enumerate(places[:5]):
        known.keep(place, True, 400_000 + n)
    known.keep(places[5], False, 400_010)
    assert known.find(places[5], 400_010) is None
    known.keep(places[6], True, 400_010)
    assert [known.find(place, 400_010) for place in places[:7]] == [None, *[True] * 4, None, True]
    known.keep(places[6], False, 400_020)
    assert known.find(places[6], 400_020) is False
