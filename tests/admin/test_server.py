"""The real server on a real Unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piagent.admin import connection as connection_module
from piagent.admin import server as server_module
from piagent.admin.client import AskError, ask
from piagent.admin.connection import MAX_BODY
from piagent.admin.exposition import Family, Kind, Sample
from piagent.admin.server import AdminError, AdminServer, bind
from piagent.admin.status import (
    AppliedStatus,
    EndpointStatus,
    FlowStatus,
    PoolStatus,
    RegisterEndpoint,
    RemoveEndpoint,
    RouteStatus,
    Status,
    Target,
    VipStatus,
    Why,
    WhyService,
)
from piagent.core.applying import Order, Outcome, Result, Verdict
from piagent.core.flow import FlowQuestion
from tests.waiting import until


class KnownServices:
    """One service, `web`; what is applied by the name of `taken` has another version."""

    async def apply(self, order: Order) -> Verdict:
        (change,) = order.changes
        if change.name == "lonely":
            return Verdict(done=False, error="no leader is heard")
        result = Result.CONFLICT if change.name == "taken" else Result.CREATED
        outcome = Outcome(kind=change.kind, name=change.name, result=result)
        return Verdict(done=result is Result.CREATED, outcomes=(outcome,))

    def applied(self) -> tuple[AppliedStatus, ...]:
        return ()

    def pools(self) -> tuple[PoolStatus, ...]:
        return ()

    def endpoints(self) -> tuple[EndpointStatus, ...]:
        return ()

    def register(self, asked: RegisterEndpoint) -> EndpointStatus | str:
        if asked.service != "web":
            return "there is no such service"
        return EndpointStatus(node="pi-1", service="web", address=f"10.0.0.1:{asked.port}")

    def remove(self, asked: RemoveEndpoint) -> bool:
        return asked.port == 80

    def why(self, name: str) -> WhyService | None:
        if name != "web":
            return None
        return WhyService(
            name="web", kind="service", applied=0, vips=(), cluster_ips=(), ports=(), pool=None,
            given="", owners={}, notes=(), backends=(),
        )  # fmt: skip


class Known:
    """A source with one VIP, one route and one service."""

    ready = True
    services = KnownServices()

    def status(self) -> Status:
        vip = VipStatus(
            address="127.0.0.9", state="owner", owner="pi-1", epoch=7, since=1, reason="silence"
        )
        return Status(
            node="pi-1", cluster="home", version="0", started=1, ready=self.ready,
            reason="ready" if self.ready else "no quorum", brokers=(), leader=None,
            fence="holds", nodes=(), vips=(vip,), services=(),
        )  # fmt: skip

    def routes(self) -> tuple[RouteStatus, ...]:
        route = RouteStatus(
            gateway="web",
            name="api",
            host="",
            path="/",
            exact=False,
            targets=(Target("api:80"),),
        )
        return (route,)

    def why(self, vip: str) -> Why | None:
        mine = self.status().vips[0]
        if vip != mine.address:
            return None
        return Why(vip=mine, rival=None, next=None, others=())

    def explain(self, asked: FlowQuestion) -> FlowStatus:
        nothing = dict.fromkeys(FlowStatus.__struct_fields__)
        fields = nothing | {"node": "pi-1", "vip": False, "orders": (), "backends": ()}
        return FlowStatus(**fields)

    async def move(self, vip: str, node: str) -> str | None:
        return None if node == "pi-2" else f"node {node} is not there"

    def drain(self, node: str, *, drain: bool) -> str | None:
        return None

    def metrics(self) -> Iterable[Family]:
        return (Family("piagent_up", Kind.GAUGE, "Up.", (Sample({}, 1),)),)


@asynccontextmanager
async def serving(path: Path, source: Known | None = None) -> AsyncIterator[AdminServer]:
    server = AdminServer(str(path), source or Known())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def exchange(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        if writer.can_write_eof():
            writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def get(target: str, method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()


def post(target: str, body: bytes) -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


MOVE = "/api/v1/vips/move"
APPLY = b'{"changes":[{"kind":"service","name":"web","table":{}}]}'


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/healthz"), 200),
        (get("/readyz"), 200),
        (get("/metrics"), 200),
        (get("/api/v1/status?x=1"), 200),
        (get("/api/v1/vips"), 200),
        (get("/api/v1/services"), 200),
        (get("/api/v1/routes", "HEAD"), 200),
        (get("/api/v1/why/127.0.0.9"), 200),
        (get("/api/v1/why/%31%327.0.0.9"), 200),
        (get("/api/v1/why/10.9.9.9"), 404),
        (get("/api/v1/why/web"), 200),
        (get("/api/v1/flow?src=10.0.0.9:1&dst=10.0.0.1:80&proto=tcp"), 200),
        (get("/api/v1/flow?src=10.0.0.9:1&dst=10.0.0.1:80&proto=tcp", "HEAD"), 200),
        (get("/api/v1/flow"), 400),
        (post("/api/v1/flow", b"{}"), 405),
        (get("/api/v1/applied"), 200),
        (get("/api/v1/pools"), 200),
        (get("/api/v1/endpoints"), 200),
        (get("/api/v1/endpoints", "POST"), 405),
        (post("/api/v1/apply", APPLY), 200),
        (post("/api/v1/apply", APPLY.replace(b"web", b"taken")), 409),
        (post("/api/v1/apply", b"[" * 5000), 400),
        (post("/api/v1/apply", APPLY.replace(b"web", b"lonely")), 503),
        (post("/api/v1/apply", b'{"changes":[]}'), 400),
        (post("/api/v1/apply", APPLY.replace(b"service", b"pool")), 400),
        (post("/api/v1/endpoints/register", b'{"service":"web","port":80}'), 200),
        (post("/api/v1/endpoints/register", b'{"service":"none","port":80}'), 409),
        (post("/api/v1/endpoints/register", b'{"service":"web","port":"http"}'), 400),
        (post("/api/v1/endpoints/remove", b'{"service":"web","port":80}'), 200),
        (post("/api/v1/endpoints/remove", b'{"service":"web","port":81}'), 404),
        (post(MOVE, b'{"vip":"127.0.0.9","node":"pi-2"}'), 200),
        (post(MOVE, b'{"vip":"127.0.0.9","node":"pi-7"}'), 409),
        (post(MOVE, b'{"vip":"127.0.0.9"}'), 400),
        (post(MOVE, b'{"vip":"127.0.0.9","node":"pi-2","force":1}'), 400),
        (post(MOVE, b"[" * 5000), 400),
        (post(MOVE, b" " * (MAX_BODY + 1)), 413),
        (post(MOVE, b""), 400),
        (post("/api/v1/nodes/drain", b'{"drain":false}'), 200),
        (get(MOVE), 405),
        (get("/nothing"), 404),
        (get("//["), 404),
        (get("/healthz", "POST"), 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 405),
    ],
)
def test_request_gets_its_status(tmp_path: Path, request_bytes: bytes, status: int) -> None:
    async def scenario() -> bytes:
        async with serving(tmp_path / "admin.sock"):
            return await exchange(tmp_path / "admin.sock", request_bytes)

    reply = asyncio.run(scenario())
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    if status >= 400:
        verdict = status == 409 and b"/apply" in request_bytes  # says it of each change
        assert set(json.loads(body)) == ({"done", "outcomes"} if verdict else {"error", "detail"})
    if status == 405:
        allowed = b"post" if MOVE.encode() in request_bytes else b"get, head"
        assert b"allow: " + allowed in head.lower()
    if request_bytes.startswith(b"HEAD"):
        assert body == b""


def test_not_ready_is_503_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        source = Known()
        source.ready = False
        async with serving(tmp_path / "admin.sock", source):
            return await exchange(tmp_path / "admin.sock", get("/readyz"))

    reply = asyncio.run(scenario())
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"no quorum" in reply


def test_connection_is_kept_for_further_requests(tmp_path: Path) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

    async def scenario() -> bytes:
        async with serving(tmp_path / "admin.sock"):
            return await exchange(tmp_path / "admin.sock", one + one + get("/readyz"))

    assert asyncio.run(scenario()).count(b"HTTP/1.1 200 ") == 3


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_bytes_end_the_server(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "admin.sock"

    async def scenario() -> bytes:
        async with serving(path):
            await exchange(path, data)
            return await exchange(path, get("/healthz"))

    assert asyncio.run(scenario()).endswith(b"ok\n")


def test_silent_client_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "REQUEST_S", 0.05)

    async def scenario() -> bytes:
        async with serving(tmp_path / "admin.sock"):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "admin.sock"))
            try:
                return await asyncio.wait_for(reader.read(), 10)
            finally:
                writer.close()

    assert asyncio.run(scenario()) == b""


class Verbose(Known):
    """More metrics than any socket's buffer takes."""

    def metrics(self) -> Iterable[Family]:
        return (Family("piagent_up", Kind.GAUGE, "Up." * 1_000_000, (Sample({}, 1),)),)


def test_client_that_reads_nothing_is_dropped_with_what_was_meant_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "WRITE_S", 0.05)

    async def scenario() -> tuple[int, int, bytes]:
        path = tmp_path / "admin.sock"
        async with serving(path, Verbose()) as server:
            reader, writer = await asyncio.open_unix_connection(str(path), limit=1000)
            writer.write(get("/metrics"))
            await reader.readuntil(b"\r\n\r\n")
            before = len(server._doors[0].open_connections)
            async with asyncio.timeout(10):
                while server._doors[0].open_connections:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
            received = 0
            with suppress(ConnectionError):
                while more := await reader.read(65536):
                    received += len(more)
            writer.close()
            return before, received, await exchange(path, get("/healthz"))

    before, received, later = asyncio.run(scenario())
    assert before == 1
    assert 0 < received < 3_000_000
    assert later.endswith(b"ok\n")


ALIVE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("said", [b"", b"GET /hea", ALIVE])
def test_who_keeps_the_agent_waiting_the_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(server_module, "MAX_LOCAL", 2)

    async def scenario() -> tuple[list[bytes], bytes]:
        path = tmp_path / "admin.sock"
        async with serving(path) as server:
            crowd = []
            for number in range(6):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(said)
                if said == ALIVE:
                    await reader.readuntil(b"ok\n")
                crowd.append((reader, writer))
                served = await exchange(path, get("/healthz")) if number > 2 else b"ok\n"
                assert served.endswith(b"ok\n")
            assert len(server._doors[0].open_connections) <= 2
            ends = [await asyncio.wait_for(reader.read(), 10) for reader, _ in crowd[:3]]
            for _, writer in crowd:
                writer.close()
            return ends, served

    ends, served = asyncio.run(scenario())
    assert ends == [b""] * 3
    assert served.endswith(b"ok\n")


class Slow(Known):
    """Moves when told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.moving = 0

    async def move(self, vip: str, node: str) -> str | None:
        self.moving += 1
        await self.go.wait()
        return None


def test_who_waits_for_the_agent_is_not_sent_away_and_newcomers_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_LOCAL", 2)
    move = post(MOVE, b'{"vip":"127.0.0.9","node":"pi-2"}')

    async def scenario() -> list[bytes]:
        path = tmp_path / "admin.sock"
        source = Slow()
        async with serving(path, source) as server:
            asked = [asyncio.create_task(exchange(path, move)) for _ in range(5)]
            await until(lambda: source.moving == 2)
            assert len(server._doors[0].open_connections) == 2
            source.go.set()
            return await asyncio.wait_for(asyncio.gather(*asked), 20)

    assert all(reply.startswith(b"HTTP/1.1 200 ") for reply in asyncio.run(scenario()))


def test_socket_is_for_owner_and_group_only_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"

    async def scenario() -> int:
        async with serving(path):
            return stat.S_IMODE(os.stat(path).st_mode)

    assert asyncio.run(scenario()) == 0o660
    assert not path.exists()


def test_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    bind(str(path)).close()
    assert path.exists()
    bind(str(path)).close()


def test_socket_of_a_living_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with bind(str(path)), pytest.raises(AdminError, match="another agent is running"):
        bind(str(path))


def test_other_file_in_the_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(AdminError, match="no socket"):
        bind(str(path))
    assert path.read_text() == "precious"


def test_path_too_long_for_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="too long"):
        bind(str(tmp_path / ("x" * 120)))


def test_client_decodes_what_the_server_says(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def scenario() -> Status:
        async with serving(path):
            return await asyncio.to_thread(ask, str(path), "/api/v1/status", Status)

    assert asyncio.run(scenario()) == Known().status()


def test_client_says_that_no_agent_is_running(tmp_path: Path) -> None:
    with pytest.raises(AskError, match="not running"):
        ask(str(tmp_path / "admin.sock"), "/api/v1/status", Status)


def test_client_gives_up_on_a_process_that_is_not_piagent(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def scenario() -> str:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(100))
            writer.close()

        async with await asyncio.start_unix_server(echo, str(path)):
            with pytest.raises(AskError) as caught:
                await asyncio.to_thread(ask, str(path), "/api/v1/status", Status)
        return str(caught.value)

    assert str(path) in asyncio.run(scenario())
