"""Compressed bodies on their way: in every size of pieces, slow, broken off, many at a time."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable

import pytest

from fastpath.engine import Engine
from fastpath.options import Options
from fastpath.requests import RequestRecord
from tests.fastpath.http.codings import (
    ALL,
    DECODERS,
    TEXT,
    chunks_of,
    compressing,
    decoded,
    words,
)
from tests.fastpath.http.gateways import Client, Peer, Seen, Web, ok, scripted
from tests.fastpath.peers import break_off, kernel_takes, read_exactly
from tests.waiting import wait_until

AT_A_TIME = 32
"""As CODERS_MAX in http/coders.pxd."""
MIB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\n" + TEXT + b"\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %s\r\n\r\n"
FRAMINGS = ("length", "chunked", "until-close")


def framed(framing: str, body: bytes, size: int) -> list[bytes]:
    """A whole response in pieces that have so much of the body each."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    if framing == "chunked":
        pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
        return [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *pieces]
    length = b"Content-Length: %d\r\n" % len(body) if framing == "length" else b""
    return [HEAD + length + b"\r\n", *pieces]


def sends(pieces: Callable[[Seen], list[bytes]]) -> Callable[[Peer], None]:
    """A backend that answers each request in those pieces; one without a length just once."""

    def talk(peer: Peer) -> None:
        while (seen := peer.head()) is not None:
            found = pieces(seen)
            for piece in found:
                peer.send(piece)
            if b"Content-Length" not in found[0] and b"chunked" not in found[0]:
                return

    return talk


def idle(engine: Engine) -> bool:
    return engine.stats()["http"]["compressing"] == 0


def encoding(name: str) -> str:
    return f"Accept-Encoding: {name}"


# ---- bodies of every kind ----


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_however_a_body_comes_in_pieces_it_arrives_as_it_was(name: str, framing: str) -> None:
    body = words(3000)
    sizes = [*range(1, 12), 13, 21, 34, 255, 256, 1023, 2999, 3000]

    def pieces(seen: Seen) -> list[bytes]:
        return framed(framing, body, int(seen.line.split()[1][1:]))

    server = scripted(sends(pieces))
    with compressing(server.backend("b")) as (engine, port), Client(port) as client:
        for size in sizes:
            status, fields, data = client.get(f"/{size}", encoding(name))
            assert (status, fields["content-encoding"]) == (200, name)
            assert decoded(name, data) == body
        wait_until(lambda: idle(engine))
    assert server.n_accepted == (len(sizes) if framing == "until-close" else 1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_long_body_arrives_as_it_was(name: str, framing: str) -> None:
    # What can be compressed a thousandfold, hardly, and not at all.
    body = bytes(3 * MIB) + words(3 * MIB) + random.Random(1).randbytes(4 * MIB + 17)
    server = scripted(sends(lambda _seen: framed(framing, body, 100_000)))
    with compressing(server.backend("b")) as (engine, port), Client(port) as client:
        sent = 0
        for _ in range(2):
            _, fields, data = client.get("/", encoding(name))
            assert fields["content-encoding"] == name
            assert decoded(name, data) == body
            sent += len(data)
        counted = engine.stats()["http"]["compressed"][name]
        assert counted["bytes_in"] == 2 * len(body)
        assert counted["bytes_out"] == sent
        wait_until(lambda: idle(engine))


def test_requests_behind_each_other_are_compressed_one_by_one() -> None:
    web = Web(lambda _peer, seen: ok(words(int(seen.line.split()[1][1:])), TEXT))
    sizes = [5000, 100, 200_000, 1024]
    with compressing(web.backend()) as (_, port), Client(port) as client:
        asked = [ASK.replace(b"/ ", b"/%d ", 1) % (size, b"br") for size in sizes]
        client.send(*asked)
        for size in sizes:
            _, fields, data = client.response()
            assert (decoded("br", data) if "content-encoding" in fields else data) == words(size)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("framing", ["chunked", "until-close"])
def test_a_piece_passes_before_there_is_another(name: str, framing: str) -> None:
    heard = threading.Semaphore(0)

    def talk(peer: Peer) -> None:
        peer.head()
        for piece in framed(framing, b"%05d" % 0 + b"".join(b"%05d" % n for n in range(1, 50)), 5):
            peer.send(piece)
            if len(piece) <= 10 and not heard.acquire(timeout=20):
                return

    server = scripted(talk)
    with compressing(server.backend("b")) as (_, port), Client(port) as client:
        client.send(ASK % name.encode())
        decoder, body = DECODERS[name](), b""
        for chunk in chunks_of(client):
            body += decoder.feed(chunk) if chunk else b""
            heard.release()
        assert body == b"".join(b"%05d" % n for n in range(50))
        assert decoder.ended()


def test_events_pass_as_they_are() -> None:
    head = HEAD.replace(b"plain", b"event-stream") + b"Transfer-Encoding: chunked\r\n\r\n"
    server = scripted(sends(lambda _seen: [head, b"3\r\nabc\r\n", b"0\r\n\r\n"]))
    with compressing(server.backend("b")) as (_, port), Client(port) as client:
        _, fields, data = client.get("/", encoding("gzip"))
    assert "content-encoding" not in fields
    assert "vary" not in fields
    assert data == b"abc"


# ---- trailers ----


@pytest.mark.parametrize("slow", [False, True])
def test_trailers_come_behind_the_stream_but_not_those_that_are_wrong_now(slow: bool) -> None:
    trailers = b"X-Time: 5\r\nContent-Digest: sha-256=:AA:\r\nRepr-Digest: x\r\nX-End: yes\r\n\r\n"
    body = words(5000)

    def pieces(_seen: Seen) -> list[bytes]:
        *parts, _last = framed("chunked", body, 2000)
        if slow:
            return [*parts, b"0\r", b"\n", *(trailers[at : at + 1] for at in range(len(trailers)))]
        return [b"".join([*parts, b"0\r\n", trailers])]

    server = scripted(sends(pieces))
    with compressing(server.backend("b")) as (_, port), Client(port) as client:
        for _ in range(2):
            client.send(ASK % b"gzip")
            data = b""
            while not data.endswith(b"\r\nX-Time: 5\r\nX-End: yes\r\n\r\n"):
                data += read_exactly(client.socket, 1)
            assert data.count(b"\r\n0\r\n") == 1
            assert b"Digest" not in data
        # The same bytes, read by who knows chunks only.
        assert decoded("gzip", client.get("/", encoding("gzip"))[2]) == body


# ---- what breaks ----


def cut_short(framing: str, body: bytes) -> bytes:
    """Half of a response."""
    whole = b"".join(framed(framing, body, 1000))
    return whole[: len(whole) // 2]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("how", "size"),
    [*itertools.product(["length", "chunked", "reset"], [3000, 300_000]), ("malformed", 300_000)],
)
def test_a_body_that_breaks_off_is_broken_off_for_the_client_too(
    name: str, how: str, size: int
) -> None:
    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(cut_short("length" if how == "length" else "chunked", words(size)))
        if how == "malformed":
            peer.send(b"x" * 2000 + b"\r\nxyz\r\n")
            peer.socket.recv(1)
        elif how == "reset":
            break_off(peer.socket)

    server = scripted(talk)
    options = Options(logs=True)
    with compressing(server.backend("b"), options=options) as (engine, port):
        for _ in range(3):
            with Client(port) as client:
                client.send(ASK % name.encode())
                data = client.rest()
            assert not data.endswith(b"0\r\n\r\n")
            body = data.partition(b"\r\n\r\n")[2]
            stream = DECODERS[name]()
            while body:  # whole chunks only
                line, _, body = body.partition(b"\r\n")
                stream.feed(body[: int(line, 16)])
                body = body[int(line, 16) + 2 :]
            assert not stream.ended()
        wait_until(lambda: idle(engine))
        ends: list[str] = []
        wait_until(lambda: ends.extend(ends_of(engine)) or len(ends) == 3)  # type: ignore[func-returns-value]
        assert ends == ["backend-cut"] * 3


def ends_of(engine: Engine) -> list[str]:
    return [each.end for each in engine.read_log() if isinstance(each, RequestRecord)]


@pytest.mark.parametrize("name", ALL)
def test_a_client_that_goes_leaves_nothing_behind(name: str) -> None:
    body = random.Random(2).randbytes(MIB)

    def talk(peer: Peer) -> None:
        while peer.head() is not None:
            peer.send(*framed("chunked", body, 50_000))

    server = scripted(talk)
    with compressing(server.backend("b")) as (engine, port):
        for n in range(200):  # more than there are encoders
            client = Client(port)
            client.send(ASK % name.encode())
            # In the head, in the body, at once, in order or not.
            read_exactly(client.socket, (0, 10, 1000, 100_000)[n % 4])
            if n % 3 == 0:
                break_off(client.socket)
            client.socket.close()
        wait_until(lambda: idle(engine))
        stats = engine.stats()["http"]
        assert stats["compressed"][name]["responses"] > AT_A_TIME
        with Client(port) as client:
            assert decoded(name, client.get("/", encoding(name))[2]) == body


def test_a_backend_that_stands_still_has_the_client_cut_in_time() -> None:
    stop = threading.Event()

    def talk(peer: Peer) -> None:
        peer.head()
        peer.send(*framed("chunked", words(5000), 1000)[:3])
        stop.wait(20)

    server = scripted(talk)
    with compressing(server.backend("b"), body_idle_timeout_ms=300) as (engine, port):
        with Client(port) as client:
            client.send(ASK % b"gzip")
            data = client.rest()
        stop.set()
        assert b"Content-Encoding: gzip" in data
        assert not data.endswith(b"0\r\n\r\n")
        wait_until(lambda: idle(engine))


# ---- bounds ----


def test_a_slow_reader_slows_its_backend_down() -> None:
    body = random.Random(3).randbytes(MIB)
    sent = 0
    stopped = threading.Event()

    def talk(peer: Peer) -> None:
        nonlocal sent
        peer.head()
        peer.send(HEAD, b"\r\n")
        with contextlib.suppress(OSError):
            while not stopped.is_set():
                peer.send(body)
                sent += len(body)

    server = scripted(talk)
    with compressing(server.backend("b")) as (_, port), Client(port) as client:
        client.send(ASK % b"gzip")
        read_exactly(client.socket, 1000)
        before = -1

        def stands_still() -> bool:
            nonlocal before
            before, last = sent, before
            return 0 < before == last

        wait_until(stands_still, every_s=0.5)
        assert sent < kernel_takes(2) + 2 * MIB
        stopped.set()


def held(stack: contextlib.ExitStack, port: int, name: str) -> Client:
    """A client whose response is being compressed and stands still."""
    client = stack.enter_context(Client(port))
    client.send(ASK % name.encode())
    assert b"HTTP/1.1 200 OK" in read_exactly(client.socket, 20)
    return client


def standing(stop: threading.Event) -> Callable[[Peer], None]:
    """A backend that sends half of a body, and the other half when it may."""

    def talk(peer: Peer) -> None:
        while (seen := peer.head()) is not None:
            if seen.line.startswith("GET /now"):
                peer.send(ok(words(5000), TEXT))
                continue
            parts = framed("chunked", words(300_000), 150_000)
            peer.send(*parts[:2])
            stop.wait(30)
            peer.send(*parts[2:])

    return talk


def test_when_all_encoders_are_taken_responses_go_out_as_they_are() -> None:
    stop = threading.Event()
    server = scripted(standing(stop))
    with compressing(server.backend("b")) as (engine, port), contextlib.ExitStack() as stack:
        clients = [held(stack, port, ALL[n % 3]) for n in range(AT_A_TIME)]
        wait_until(lambda: engine.stats()["http"]["compressing"] == AT_A_TIME)
        with Client(port) as client:
            _, fields, data = client.get("/now", encoding("gzip"))
            assert "content-encoding" not in fields
            assert fields["vary"] == "Accept-Encoding"
            assert data == words(5000)
        assert engine.stats()["http"]["uncompressed"] == 1
        stop.set()
        for client in clients:
            client.socket.recv(1)
            client.socket.close()
        wait_until(lambda: idle(engine))
        with Client(port) as client:
            for name in ALL:  # idle encoders of another kind make room
                assert decoded(name, client.get("/now", encoding(name))[2]) == words(5000)
