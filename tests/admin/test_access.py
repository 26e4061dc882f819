"""Who may ask what over TCP: the rules, and the real server that applies them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from piagent.admin import server as server_module
from piagent.admin.access import Access
from piagent.admin.client import AskError, Remote, ask
from piagent.admin.connection import MAX_BODY
from piagent.admin.server import AdminError, AdminServer, bind_tcp
from piagent.admin.status import Done, MoveVip, Status
from piagent.core.model import Listen
from tests.admin.test_server import MOVE, Known, get
from tests.net import free_port
from tests.waiting import until

TOKEN = "0123456789abcdef"
BEARER = (b"authorization", b"Bearer 0123456789abcdef")
HERE = (b"host", b"127.0.0.1:9180")
STATUS, TUNNEL = "/api/v1/status", "/api/v1/tunnel"


@pytest.mark.parametrize(
    ("token", "method", "path", "headers", "status"),
    [
        # With a token configured.
        (TOKEN, "GET", STATUS, [HERE], 401),
        (TOKEN, "GET", STATUS, [HERE, BEARER], None),
        (TOKEN, "GET", STATUS, [HERE, (b"authorization", b"bearer  0123456789abcdef ")], None),
        (TOKEN, "GET", STATUS, [HERE, (b"authorization", b"Bearer 0123456789abcdeg")], 401),
        (TOKEN, "GET", STATUS, [HERE, (b"authorization", b"Bearer 0123456789abcdef0")], 401),
        (TOKEN, "GET", STATUS, [HERE, (b"authorization", b"Bearer")], 401),
        (TOKEN, "GET", STATUS, [HERE, (b"authorization", b"Basic 0123456789abcdef")], 401),
        (TOKEN, "GET", STATUS, [HERE, (b"authorization", b"Bearer \xff\xfe")], 401),
        (TOKEN, "GET", "/healthz", [HERE], None),
        (TOKEN, "HEAD", "/readyz", [HERE], None),
        (TOKEN, "POST", "/healthz", [HERE], 401),
        (TOKEN, "GET", "/metrics", [HERE], 401),
        (TOKEN, "GET", "/nothing", [HERE], 401),
        (TOKEN, "POST", MOVE, [HERE], 401),
        (TOKEN, "POST", MOVE, [HERE, BEARER], None),
        (TOKEN, "GET", TUNNEL, [HERE], 401),
        (TOKEN, "GET", TUNNEL, [HERE, BEARER], None),
        (TOKEN, "GET", STATUS, [(b"host", b"pi-1.lan:9180"), BEARER], None),
        # A browser's page writes nothing, whatever it has.
        (TOKEN, "POST", MOVE, [HERE, BEARER, (b"origin", b"http://evil.example")], 403),
        (TOKEN, "GET", TUNNEL, [HERE, BEARER, (b"origin", b"null")], 403),
        (TOKEN, "GET", STATUS, [HERE, BEARER, (b"origin", b"http://pi-1")], None),
        (None, "POST", MOVE, [HERE, (b"origin", b"http://127.0.0.1:9180")], 403),
        # Without one, on loopback.
        (None, "GET", STATUS, [HERE], None),
        (None, "GET", STATUS, [HERE, BEARER], None),
        (None, "POST", MOVE, [HERE], 403),
        (None, "POST", MOVE, [HERE, (b"authorization", b"Bearer None")], 403),
        (None, "POST", MOVE, [HERE, (b"authorization", b"Bearer ")], 403),
        (None, "PUT", STATUS, [HERE], 403),
        (None, "GET", TUNNEL, [HERE], 403),
        (None, "GET", STATUS, [(b"host", b"[::1]:9180")], None),
        (None, "GET", STATUS, [(b"host", b"[::1]")], None),
        (None, "GET", STATUS, [(b"host", b"LOCALHOST:1")], None),
        (None, "GET", STATUS, [(b"host", b"localhost.")], None),
        (None, "GET", STATUS, [(b"host", b"localhost.evil.example")], 403),
        (None, "GET", STATUS, [(b"host", b"127.0.0.1.evil.example:9180")], 403),
        (None, "GET", STATUS, [(b"host", b"evil.example")], 403),
        (None, "GET", STATUS, [(b"host", b"")], 403),
        (None, "GET", STATUS, [(b"host", b"\xff")], 403),
        (None, "GET", STATUS, [], 403),
        (None, "GET", "/healthz", [(b"host", b"evil.example")], None),
    ],
)
def test_a_request_is_let_in_or_refused(
    token: str | None, method: str, path: str, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    refusal = Access(token).refusal(method, path, dict(headers))
    assert (refusal and refusal.status) == status
    if refusal is not None:
        assert json.loads(refusal.body)["detail"]
        assert TOKEN.encode() not in refusal.body
    if status == 401:
        assert refusal is not None
        assert dict(refusal.headers)["WWW-Authenticate"].startswith('Bearer realm="piagent"')


def test_a_host_knows_its_own_names() -> None:
    name = socket.gethostname()
    for host in (name, name.upper(), f"{name.partition('.')[0]}.local:9180"):
        assert Access(None).refusal("GET", STATUS, {b"host": host.encode()}) is None


@asynccontextmanager
async def listening(
    path: Path, token: str | None = TOKEN, address: str = "127.0.0.1", source: Known | None = None
) -> AsyncIterator[tuple[AdminServer, int]]:
    port = free_port(address)
    listen = Listen(address=address, port=port)
    server = AdminServer(str(path / "admin.sock"), source or Known(), listen, token)
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop()


async def exchange(port: int, data: bytes, address: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_api_is_on_tcp_too_and_asks_for_the_token(tmp_path: Path, address: str) -> None:
    async def scenario() -> None:
        async with listening(tmp_path, address=address) as (server, port):
            for token, status in ((TOKEN, 0), ("another token of 32", 401), (None, 401)):
                where = Remote(host=address, port=port, token=token)
                try:
                    said = await asyncio.to_thread(ask, where, STATUS, Status)
                except AskError as error:
                    assert error.status == status
                    assert str(error).startswith(f"{where}: unauthorized: ")
                else:
                    assert (said, status) == (Known().status(), 0)
            where = Remote(host=address, port=port, token=TOKEN)
            wish = MoveVip("127.0.0.9", "pi-2")
            assert (await asyncio.to_thread(ask, where, MOVE, Done, wish)).done
            server.set_token("another token of 32")
            with pytest.raises(AskError, match="not the token"):
                await asyncio.to_thread(ask, where, STATUS, Status)

    asyncio.run(scenario())


def test_every_refusal_arrives_whatever_else_the_client_sends(tmp_path: Path) -> None:
    body = b"x" * 8_000_000
    sent = body[: MAX_BODY + 1]

    async def scenario() -> list[bytes]:
        async with listening(tmp_path) as (_, port):
            head = f"POST {MOVE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            bearer = f"{head}Authorization: Bearer {TOKEN}\r\n\r\n"
            requests = (f"{head}\r\n".encode() + sent, bearer.encode() + sent)
            return [await exchange(port, request) for request in requests]

    refused, too_large = asyncio.run(scenario())
    assert refused.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: bearer" in refused.lower()
    assert too_large.startswith(b"HTTP/1.1 413 ")


def test_only_the_bearer_keeps_a_connection(tmp_path: Path) -> None:
    async def scenario() -> tuple[bytes, bytes]:
        async with listening(tmp_path) as (_, port):
            stranger = get("/healthz").replace(b"Connection: close\r\n", b"")
            bearer = stranger.replace(b"Host", b"Authorization: Bearer 0123456789abcdef\r\nHost")
            return await exchange(port, stranger * 3), await exchange(
                port, bearer * 2 + get("/healthz")
            )

    stranger, bearer = asyncio.run(scenario())
    assert stranger.count(b"200 ") == 1
    assert bearer.count(b"HTTP/1.1 200 ") == 3


def test_a_crowd_that_says_nothing_locks_out_neither_the_lan_nor_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_REMOTE", 8)

    async def scenario() -> None:
        async with listening(tmp_path) as (server, port):
            crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
            where = Remote(host="127.0.0.1", port=port, token=TOKEN)
            for _ in range(5):
                assert await asyncio.to_thread(ask, where, STATUS, Status) == Known().status()
                local = str(tmp_path / "admin.sock")
                assert await asyncio.to_thread(ask, local, STATUS, Status) == Known().status()
            await until(lambda: len(server._doors[1].open_connections) <= 8)
            for _, writer in crowd:
                writer.close()

    asyncio.run(scenario())


def test_a_place_that_cannot_be_had_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(listen: Listen) -> str:
        server = AdminServer(str(tmp_path / "admin.sock"), Known(), listen, TOKEN)
        with pytest.raises(AdminError) as caught:
            await server.start()
        assert not (tmp_path / "admin.sock").exists()
        return str(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = asyncio.run(scenario(Listen(address="127.0.0.1", port=port)))
        assert f"127.0.0.1:{port}" in said
        assert "ss -ltnp" in said
    said = asyncio.run(scenario(Listen(address="192.0.2.77", port=port)))
    assert "does not have the address" in said


def test_other_hosts_are_never_served_without_a_token() -> None:
    with pytest.raises(AdminError, match="token_file"):
        bind_tcp(Listen(address="0.0.0.0", port=free_port()), token=None)


def test_client_names_the_host_that_is_not_there() -> None:
    where = Remote(host="127.0.0.1", port=free_port(), token=TOKEN)
    with pytest.raises(AskError, match=r"127\.0\.0\.1:\d+: .*refused.*\[admin\] listen"):
        ask(where, STATUS, Status)
    with pytest.raises(AskError, match=r"nobody\.invalid:9180"):
        ask(Remote(host="nobody.invalid", port=9180), STATUS, Status)
