"""Checks against real servers, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piagent.adapters.probe import LOOK_AFTER_S, MAX_HEAD, MAX_RUNNING, NetworkProber
from piagent.core.checking import Question
from piagent.core.model import HealthCheck, HealthKind
from piagent.ports import ProbeResult
from tests.net import free_port
from tests.waiting import until

TCP = HealthCheck(kind=HealthKind.TCP)
HTTP = HealthCheck(kind=HealthKind.HTTP, path="/healthz?x=1")
ANSWERS = {
    "good": (b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", "status 204"),
    "bad": (b"HTTP/1.1 500\r\nContent-Length: 3\r\n\r\nsad", "status 500"),
    "other": (b"220 mail.example.com ESMTP\r\n\r\n", "not HTTP/1.1"),
    "short": (b"HTTP/1.1 200 OK\r\nX", "closed within the header"),
}
"""Name -> what a server says, and the reason that comes of it."""


def descriptors() -> int:
    gc.collect()  # what earlier tests left open does not close in between
    return len(os.listdir("/proc/self/fd"))


def fill_up(server: socket.socket, stack: ExitStack) -> None:
    """Connect until the server's queue is full: it answers no SYN any more."""
    for _ in range(3):
        one = stack.enter_context(socket.socket())
        one.setblocking(False)
        one.connect_ex(server.getsockname())
    time.sleep(0.05)


async def ask(
    prober: NetworkProber, port: int, check: HealthCheck = TCP, address: str = "127.0.0.1"
) -> ProbeResult:
    answer: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
    prober.ask(Question("s", address, address, port, check), answer.set_result)
    return await answer


def probe(port: int, check: HealthCheck, address: str = "127.0.0.1") -> ProbeResult:
    return asyncio.run(ask(NetworkProber(), port, check, address))


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
            result = await ask(NetworkProber(), port, check, address)
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


@pytest.mark.parametrize("check", [TCP, HTTP])
def test_a_check_of_who_expects_a_proxy_header_begins_with_one(check: HealthCheck) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readline())
        if check is HTTP:
            got.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async def main() -> ProbeResult:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            answer: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
            asks = Question("s", "b", "127.0.0.1", port, check, b"PROXY UNKNOWN\r\n")
            NetworkProber().ask(asks, answer.set_result)
            result = await answer
            await until(lambda: len(got) == 1 + (check is HTTP), "the server has read it")
            return result

    assert asyncio.run(main()).good
    assert got[0] == b"PROXY UNKNOWN\r\n"
    assert check is TCP or got[1].startswith(b"GET /healthz?x=1 HTTP/1.1\r\n")


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
        result = await ask(NetworkProber(), port, check)
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
        result = await ask(NetworkProber(), port, HTTP)
        server.close()
        return result

    assert asyncio.run(main()) == ProbeResult(True, "status 200")


def test_when_this_host_has_no_descriptor_left_nothing_is_said_of_the_backend() -> None:
    async def main() -> ProbeResult:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.create_server(("127.0.0.1", 0)) as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                return await ask(NetworkProber(), server.getsockname()[1])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    result = asyncio.run(main())
    assert result == ProbeResult(None, "not checked: Too many open files on this host")


def test_only_so_many_checks_are_under_way_and_the_others_have_their_turn() -> None:
    """They connect to a server whose queue is full: only the timeout ends them."""

    async def main() -> list[str]:
        prober, answers = NetworkProber(), list[str]()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
            port = server.getsockname()[1]
            fill_up(server, stack)
            before = descriptors()
            hopeless = HealthCheck(timeout_ms=200)
            for _ in range(MAX_RUNNING + 5):
                asked = Question("s", "b", "127.0.0.1", port, hopeless)
                prober.ask(asked, lambda result: answers.append(result.reason))
            assert descriptors() - before == MAX_RUNNING
            await until(lambda: len(answers) == MAX_RUNNING, "those that began first")
            assert descriptors() - before == 5
            await until(lambda: len(answers) == MAX_RUNNING + 5, "the others")
            assert descriptors() == before
        return answers

    assert set(asyncio.run(main())) == {"timeout"}


def test_after_close_nothing_is_answered_and_no_descriptor_is_left() -> None:
    async def main() -> None:
        prober, answers = NetworkProber(), list[ProbeResult]()
        with socket.create_server(("127.0.0.1", 0)) as server:
            before = descriptors()
            for _ in range(MAX_RUNNING + 1):
                asked = Question("s", "b", "127.0.0.1", server.getsockname()[1], TCP)
                prober.ask(asked, answers.append)
            prober.close()
            assert descriptors() == before
            await asyncio.sleep(3 * LOOK_AFTER_S)
            assert answers == []

    asyncio.run(main())


def test_nothing_is_answered_before_ask_has_returned() -> None:
    async def main() -> None:
        prober, answers = NetworkProber(), list[ProbeResult]()
        prober.ask(Question("s", "b", "not an address", 1, TCP), answers.append)
        prober.ask(Question("s", "b", "127.0.0.1", free_port(), TCP), answers.append)
        assert answers == []
        await until(lambda: len(answers) == 2, "both answers")
        assert [answer.good for answer in answers] == [False, False]

    asyncio.run(main())


@given(st.lists(st.integers(1, 200), max_size=4), st.sampled_from(sorted(ANSWERS)))
@settings(max_examples=40, deadline=None)
def test_it_does_not_matter_how_an_answer_is_cut_into_pieces(cuts: list[int], name: str) -> None:
    answer, expected = ANSWERS[name]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        rest = answer
        for cut in cuts:
            writer.write(rest[:cut])
            rest = rest[cut:]
            await asyncio.sleep(LOOK_AFTER_S / 2)
        writer.write(rest)
        writer.close()

    async def main() -> ProbeResult:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            patient = HealthCheck(kind=HealthKind.HTTP, timeout_ms=20_000)
            return await ask(NetworkProber(), server.sockets[0].getsockname()[1], patient)

    assert asyncio.run(main()).reason == expected


def test_an_answer_in_the_last_moment_is_an_answer() -> None:
    """The event loop was busy with other things when the time was up."""

    async def main() -> ProbeResult:
        prober, answers = NetworkProber(), list[ProbeResult]()
        with socket.create_server(("127.0.0.1", 0)) as server:
            hasty = HealthCheck(timeout_ms=50)
            asked = Question("s", "b", "127.0.0.1", server.getsockname()[1], hasty)
            prober.ask(asked, answers.append)
            time.sleep(0.2)  # noqa: ASYNC251 -- that is the point
            await until(lambda: bool(answers), "an answer")
        return answers[0]

    assert asyncio.run(main()) == ProbeResult(True, "connected")
