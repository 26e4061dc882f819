"""Checks against real servers, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable

import pytest

from piagent.adapters.probe import MAX_HEAD, NetworkProber
from piagent.core.model import Backend, HealthCheck, HealthKind
from piagent.ports import ProbeResult
from tests.net import free_port

TCP = HealthCheck(kind=HealthKind.TCP)
HTTP = HealthCheck(kind=HealthKind.HTTP, path="/healthz?x=1")


def probe(port: int, check: HealthCheck, address: str = "127.0.0.1") -> ProbeResult:
    return asyncio.run(NetworkProber().probe(Backend(address=address), port, check))


def asked(answer: bytes, check: HealthCheck = HTTP, address: str = "127.0.0.1") -> ProbeResult:
    """Probe a server that answers with these bytes, then closes."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    async def main() -> ProbeResult:
        server = await asyncio.start_server(serve, address, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            result = await NetworkProber().probe(Backend(address=address), port, check)
        host = f"[{address}]" if ":" in address else address
        assert requests[0].startswith(
            f"GET /healthz?x=1 HTTP/1.1\r\nHost: {host}:{port}\r\n".encode()
        )
        return result

    return asyncio.run(main())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_listening_port_is_good_and_a_closed_one_refused(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert probe(port, TCP, address) == ProbeResult(True, "connected")
    assert probe(port, TCP, address) == ProbeResult(False, "refused")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_status_of_a_get_decides(address: str) -> None:
    ok = asked(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", address=address)
    assert ok == ProbeResult(True, "status 200")
    assert asked(b"HTTP/1.0 302 Found\r\n\r\n") == ProbeResult(True, "status 302")
    assert asked(b"HTTP/1.1 404\r\n\r\n") == ProbeResult(False, "status 404")
    assert asked(b"HTTP/1.1 503 No\r\n\r\n") == ProbeResult(False, "status 503")


def test_expected_statuses_replace_the_usual_ones() -> None:
    check = HealthCheck(kind=HealthKind.HTTP, path="/healthz?x=1", expect=(401, 503))
    assert asked(b"HTTP/1.1 503 No\r\n\r\n", check) == ProbeResult(True, "status 503")
    assert asked(b"HTTP/1.1 200 OK\r\n\r\n", check) == ProbeResult(False, "status 200")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent", "closed within the header"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 99 Low\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 2000 Long\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 4 * MAX_HEAD, f"header longer than {MAX_HEAD} bytes"),
    ],
)
def test_a_bad_answer_is_named(answer: bytes, reason: str) -> None:
    assert asked(answer) == ProbeResult(False, reason)


def slow(trickle: Callable[[asyncio.StreamWriter], None]) -> tuple[ProbeResult, float]:
    """Probe a server that goes on without ever finishing its head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        for _ in range(1000):
            trickle(writer)
            await asyncio.sleep(0.02)

    async def main() -> ProbeResult:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        check = HealthCheck(kind=HealthKind.HTTP, timeout_ms=300)
        port = server.sockets[0].getsockname()[1]
        result = await NetworkProber().probe(Backend(address="127.0.0.1"), port, check)
        server.close()
        return result

    started = time.monotonic()
    return asyncio.run(main()), time.monotonic() - started


@pytest.mark.parametrize("piece", [b"", b"H"])
def test_no_answer_takes_longer_than_the_timeout(piece: bytes) -> None:
    result, took_s = slow(lambda writer: writer.write(piece))
    assert result == ProbeResult(False, "timeout")
    assert took_s < 10


def test_a_body_without_end_does_not_matter() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 10_000)
            await asyncio.sleep(0.001)

    async def main() -> ProbeResult:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        result = await NetworkProber().probe(Backend(address="127.0.0.1"), port, HTTP)
        server.close()
        return result

    assert asyncio.run(main()) == ProbeResult(True, "status 200")


def test_when_this_host_has_no_descriptor_left_the_last_result_stays() -> None:
    async def main() -> tuple[ProbeResult, ...]:
        prober = NetworkProber()
        up, down = Backend(address="127.0.0.1"), Backend(address="127.0.0.2")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert (await prober.probe(up, port, TCP)).good
            assert not (await prober.probe(down, free_port("127.0.0.2"), TCP)).good
            closed = free_port("127.0.0.2")
            await prober.probe(down, closed, TCP)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                return await prober.probe(up, port, TCP), await prober.probe(down, closed, TCP)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    still_up, still_down = asyncio.run(main())
    assert still_up == ProbeResult(True, "not checked: Too many open files on this host")
    assert not still_down.good
