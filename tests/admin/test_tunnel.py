"""Tunnels: where they lead, and what is on the wire before they do."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.admin import tunnel as tunnel_module
from piagent.admin.answer import Refused
from piagent.admin.client import AskError
from piagent.admin.server import AdminServer
from piagent.admin.status import Tunnel
from piagent.admin.tunnel import way
from piagent.admin.tunnel_client import open_tunnel, tunnel_target
from piagent.core.model import Backend, Protocol, Service, ServicePort, ServiceType
from piagent.core.proxying import ProxyHeader, Proxying
from tests.admin.test_access import TOKEN, listening
from tests.admin.test_server import Known
from tests.net import free_port
from tests.waiting import until

UDP, TCP = Protocol.UDP, Protocol.TCP


def service(name: str, *backends: Backend, ports: tuple[ServicePort, ...] = ()) -> Service:
    http = ServicePort(name="http", port=80, target_port=8080)
    return Service(
        name=name, type=ServiceType.CLUSTER, ports=ports or (http,), backends=tuple(backends)
    )


WEB = service(
    "web",
    Backend(address="10.0.0.1", weight=3),
    Backend(address="10.0.0.2"),
    Backend(address="10.0.0.3", weight=0),
    Backend(address="fd00::4", port=9999, only="https"),
    ports=(
        ServicePort(name="http", port=80, target_port=8080),
        ServicePort(name="https", port=443, target_port=8443),
        ServicePort(name="quic", port=443, target_port=8443, protocol=UDP),
        ServicePort(name="only-udp", port=444, target_port=8443, protocol=UDP),
    ),
)
DNS = service(
    "dns",
    Backend(address="10.0.0.1"),
    ports=(
        ServicePort(name="dns", port=53, target_port=5353, protocol=UDP),
        ServicePort(name="dns-tcp", port=53, target_port=5354),
    ),
)
EXTERNAL = Service(name="far", type=ServiceType.EXTERNAL, ports=(), backends=())
SERVICES = (WEB, DNS, EXTERNAL)
NOBODY: frozenset[tuple[str, str]] = frozenset()


def places(found: Tunnel) -> set[str]:
    return {f"{each.address} {each.port}" for each in found.backends}


@pytest.mark.parametrize(
    ("wanted", "port", "backends"),
    [
        (("web", "", ""), 80, {"10.0.0.1 8080", "10.0.0.2 8080"}),
        (("web", "80", ""), 80, {"10.0.0.1 8080", "10.0.0.2 8080"}),
        (("web", "https", ""), 443, {"10.0.0.1 8443", "10.0.0.2 8443", "fd00::4 9999"}),
        (("web", "443", ""), 443, {"10.0.0.1 8443", "10.0.0.2 8443", "fd00::4 9999"}),
        (("web", "", "10.0.0.3"), 80, {"10.0.0.3 8080"}),
        (("web", "443", "fd00:0::4"), 443, {"fd00::4 9999"}),
        (("web", "443", "[fd00::4]:9999"), 443, {"fd00::4 9999"}),
        (("dns", "", ""), 53, {"10.0.0.1 5354"}),
    ],
)
def test_a_wish_leads_to_backends(
    wanted: tuple[str, str, str], port: int, backends: set[str]
) -> None:
    found = way(SERVICES, NOBODY, wanted)
    assert (found.service, found.port, places(found)) == (wanted[0], port, backends)


@pytest.mark.parametrize(
    ("wanted", "status", "what"),
    [
        (("none", "", ""), 404, "known: web, dns, far"),
        (("web", "81", ""), 404, "its ports: 80, 443"),
        (("web", "x" * 5000, ""), 404, "its ports: 80, 443"),
        (("web", "only-udp", ""), 400, "UDP"),
        (("web", "", "10.0.0.9"), 404, "known: 10.0.0.1"),
        (("web", "", "fd00::4"), 404, "known: 10.0.0.1"),
        (("web", "", "127.0.0.1"), 404, "known: 10.0.0.1"),
        (("web", "", "http://10.0.0.1"), 404, "known: 10.0.0.1"),
        (("far", "", ""), 404, "its ports: none"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    wanted: tuple[str, str, str], status: int, what: str
) -> None:
    with pytest.raises(Refused) as caught:
        way(SERVICES, NOBODY, wanted)
    assert caught.value.answer.status == status
    assert what in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_backend_that_is_down_is_left_out_unless_it_is_asked_for() -> None:
    down = frozenset({("web", "10.0.0.1"), ("dns", "10.0.0.2")})
    assert places(way(SERVICES, down, ("web", "", ""))) == {"10.0.0.2 8080"}
    assert places(way(SERVICES, down, ("web", "", "10.0.0.1"))) == {"10.0.0.1 8080"}
    with pytest.raises(Refused) as caught:
        way(SERVICES, down | {("web", "10.0.0.2")}, ("web", "", ""))
    assert caught.value.answer.status == 503


def test_backends_come_first_by_their_weight() -> None:
    firsts = Counter(
        way(SERVICES, NOBODY, ("web", "", "")).backends[0].address for _ in range(2000)
    )
    assert 1300 < firsts["10.0.0.1"] < 1700  # 1500 of 2000, ten standard deviations


def test_a_message_names_a_few_of_many_services() -> None:
    with pytest.raises(Refused, match="and 9980 more"):
        way([service(f"s{i}") for i in range(10_000)], NOBODY, ("none", "", ""))


# ---- on the wire --------------------------------------------------------------------------------


class Serving(Known):
    """One service, `echo`, of backends on loopback; relays are kept for the test to use."""

    def __init__(self, *ports: int) -> None:
        backends = tuple(Backend(address="127.0.0.1", port=port) for port in ports)
        self.services = (service("echo", *backends),)
        self.relays: list[tuple[socket.socket, socket.socket]] = []
        self.failure: OSError | None = None

    def tunnel(self, service: str, port: str, backend: str) -> Tunnel:
        return way(self.services, NOBODY, (service, port, backend))

    def relay(self, client: socket.socket, backend: socket.socket) -> None:
        if self.failure is not None:
            raise self.failure
        self.relays.append((client, backend))


@asynccontextmanager
async def agent(
    folder: Path, source: Serving
) -> AsyncIterator[Callable[[bytes], asyncio.Future[bytes]]]:
    """What sends bytes over TCP, and gives what comes until the end."""

    async def exchange(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    async with listening(folder, source=source) as (_, port):
        yield lambda data: asyncio.ensure_future(exchange(data))


def request(
    query: str = "service=echo", *, method: str = "GET", version: str = "1.1", **headers: str
) -> bytes:
    fields = {
        "Host": "x", "Authorization": f"Bearer {TOKEN}", "Connection": "Upgrade",
        "Upgrade": "piagent-tunnel/1", **headers,
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} /api/v1/tunnel?{query} HTTP/{version}\r\n{lines}\r\n".encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(Connection="close", Upgrade=""), 200),
        (request(Connection="close"), 200),
        (request(Connection="close, Upgrade", Upgrade="websocket"), 200),
        (request(Connection="close, Upgrade", Upgrade="piagent-tunnel/2"), 200),
        (request(version="1.0"), 200),
        (request(method="POST", Connection="close", Upgrade=""), 405),
        (request(method="HEAD", Connection="close", Upgrade=""), 405),
        (request("", Connection="close"), 400),
        (request("service=", Connection="close"), 400),
        (request("port=80", Connection="close"), 400),
        (request("service=echo&service=web", Connection="close"), 400),
        (request("service=echo&to=10.0.0.9", Connection="close"), 400),
        (request("&".join(["service=echo"] * 20), Connection="close"), 400),
        (request("service=%ff%00", Connection="close"), 404),
        (request("service=echo&backend=127.0.0.2", Connection="close"), 404),
        (request(**{"Connection": "close, Upgrade", "Content-Length": "4"}) + b"body", 400),
        (request(Authorization="", Connection="close, Upgrade"), 401),
        (request(Origin="http://x", Connection="close, Upgrade"), 403),
    ],
)
def test_what_asks_for_no_tunnel_gets_an_answer(tmp_path: Path, data: bytes, status: int) -> None:
    source = Serving(free_port())

    async def scenario() -> bytes:
        async with agent(tmp_path, source) as exchange:
            return await exchange(data)

    reply = asyncio.run(scenario())
    assert reply.startswith(f"HTTP/1.1 {status} ".encode()), reply
    body = reply.partition(b"\r\n\r\n")[2]
    if status == 200:
        assert json.loads(body)["backends"][0]["address"] == "127.0.0.1"
    elif b"HEAD" not in data[:4]:
        assert set(json.loads(body)) == {"error", "detail"}
    assert source.relays == []


def test_what_is_sent_at_once_reaches_the_backend_first_and_both_sockets_are_given_away(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as backend:
            port = backend.getsockname()[1]
            source = Serving(port)
            async with listening(tmp_path, source=source) as (server, where):
                reader, writer = await asyncio.open_connection("127.0.0.1", where)
                writer.write(request() + b"early")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                assert head.startswith(b"HTTP/1.1 101 ")
                assert f"piagent-backend: 127.0.0.1:{port}".encode() in head.lower()
                await until(lambda: source.relays)
                far, _ = backend.accept()
                assert far.recv(100) == b"early"
                ((client, near),) = source.relays
                await until(lambda: not server._doors[1].open_connections)
                near.sendall(b"to")
                assert far.getpeername() == near.getsockname()
                client.sendall(b"hello")
                assert await reader.readexactly(5) == b"hello"
                await server.stop()
                client.sendall(b"still")
                assert await reader.readexactly(5) == b"still"
                for each in (client, near, far):
                    each.close()
                writer.close()

    asyncio.run(scenario())


def test_the_next_backend_is_tried_when_one_refuses_or_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel_module, "CONNECT_S", 0.1)

    async def scenario() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as backend,
            socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
            socket.create_connection(silent.getsockname()),
        ):
            good, mute = backend.getsockname()[1], silent.getsockname()[1]
            source = Serving(free_port(), mute, good)
            async with agent(tmp_path, source):
                local = str(tmp_path / "admin.sock")
                for _ in range(8):
                    found = await open_tunnel(local, tunnel_target("echo"))
                    assert found.backend == f"127.0.0.1:{good}"
                    found.sock.close()
                source.services = (service("echo", *source.services[0].backends[:2]),)
                with pytest.raises(AskError) as caught:
                    await open_tunnel(local, tunnel_target("echo"))
                assert caught.value.status == 502
                assert f"127.0.0.1:{mute}: no answer in 0.1 s" in str(caught.value)
                assert "refused" in str(caught.value)
            for pair in source.relays:
                for each in pair:
                    each.close()

    asyncio.run(scenario())


def test_a_tunnel_that_the_engine_does_not_take_is_closed(tmp_path: Path) -> None:
    async def scenario() -> tuple[bytes, bytes]:
        with socket.create_server(("127.0.0.1", 0)) as backend:
            source = Serving(backend.getsockname()[1])
            source.failure = OSError(errno.EAGAIN, "as many connections are open as there may be")
            async with agent(tmp_path, source) as exchange:
                reply = await exchange(request())
                far, _ = backend.accept()
                with far:
                    return reply, far.recv(10)

    reply, far = asyncio.run(scenario())
    assert reply.startswith(b"HTTP/1.1 101 ")
    assert far == b""


def test_a_burst_of_tunnels_is_not_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as backend:
            source = Serving(backend.getsockname()[1])
            async with listening(tmp_path, source=source) as (_, where):
                peers = await asyncio.gather(
                    *(asyncio.open_connection("127.0.0.1", where) for _ in range(100))
                )
                for _, writer in peers:
                    writer.write(request())
                for reader, _ in peers:
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
                    assert head.startswith(b"HTTP/1.1 101 ")
                await until(lambda: len(source.relays) == 100)
                for _, writer in peers:
                    writer.close()
                for pair in source.relays:
                    for each in pair:
                        each.close()

    asyncio.run(scenario())


def test_a_stop_while_a_tunnel_is_being_made_leaves_no_socket_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (
            socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
            socket.create_connection(silent.getsockname()),
        ):
            source = Serving(silent.getsockname()[1])
            path = str(tmp_path / "admin.sock")
            server = AdminServer(path, source)
            await server.start()
            asked = asyncio.create_task(open_tunnel(path, tunnel_target("echo")))
            await until(lambda: server._doors[0].open_connections)
            await server.stop()
            with suppress(AskError):
                (await asked).sock.close()
            assert asked.exception() is not None
            assert source.relays == []

    asyncio.run(scenario())


def test_a_backend_that_expects_a_proxy_header_gets_one_that_names_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as backend:
            source = Serving(backend.getsockname()[1])
            told = Proxying(header=ProxyHeader.V1)
            source.services = (replace(source.services[0], proxying=told),)
            async with listening(tmp_path, source=source) as (_, where):
                reader, writer = await asyncio.open_connection("127.0.0.1", where)
                writer.write(request() + b"early")
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                upstream, _ = backend.accept()
                with upstream:
                    upstream.settimeout(20)
                    whole = b"PROXY UNKNOWN\r\nearly"
                    assert upstream.recv(len(whole), socket.MSG_WAITALL) == whole
                for pair in source.relays:
                    for each in pair:
                        each.close()
                writer.close()

    asyncio.run(scenario())
