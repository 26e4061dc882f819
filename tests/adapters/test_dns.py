"""The DNS responder on real sockets: dnslib, `dig` and the C library ask it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import dnslib
import pytest

from piagent.adapters import dns, netns
from piagent.adapters.dns import MAX_CONNECTIONS, MAX_PER_SOURCE, MAX_QUERY, DnsServer
from piagent.adapters.dns_limits import Limits, Verdict
from piagent.core.model import Listen
from piagent.core.names import Answer, Question
from tests.adapters.responder import MANY, ZONE
from tests.waiting import until

HERE = "127.0.0.1"
IPV6 = Path("/proc/net/if_inet6").exists()


def in_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: object, **fixtures: object) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


def free_port(address: str = HERE) -> int:
    """One that neither TCP nor UDP used a moment ago."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        with socket.create_server((address, 0), family=family) as probe:
            port = int(probe.getsockname()[1])
        with socket.socket(family, socket.SOCK_DGRAM) as other, contextlib.suppress(OSError):
            other.bind((address, port))
            return port


@asynccontextmanager
async def running(
    port: int, address: str = HERE, answer: dns.Answerer = ZONE.answer
) -> AsyncIterator[DnsServer]:
    server = DnsServer(Listen(address=address, port=port), answer)
    task = asyncio.create_task(server.run())
    try:
        await until(lambda: server.why_not is None, lambda: str(server.why_not))
        yield server
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def packet(name: str, kind: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, kind).pack())


async def ask(
    port: int, name: str, kind: str = "A", *, tcp: bool = False, address: str = HERE
) -> dnslib.DNSRecord:
    query = dnslib.DNSRecord.question(name, kind)
    reply = await asyncio.to_thread(
        query.send, address, port, tcp=tcp, timeout=20, ipv6=":" in address
    )
    return dnslib.DNSRecord.parse(reply)


def data(reply: dnslib.DNSRecord) -> list[str]:
    return sorted(str(record.rdata) for record in reply.rr)


# ---- what clients see ---------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
@in_loop
async def test_names_are_answered_by_udp_and_by_tcp(tcp: bool) -> None:
    port = free_port()
    async with running(port) as server:
        assert data(await ask(port, "web.home.piagent", tcp=tcp)) == ["10.0.0.5"]
        assert data(await ask(port, "web.home.piagent", "AAAA", tcp=tcp)) == ["fd00::5"]
        assert (await ask(port, "nobody.home.piagent", tcp=tcp)).header.rcode == 3
        assert (await ask(port, "example.com", tcp=tcp)).header.rcode == 5
        assert server.results == {"noerror": 2, "nxdomain": 1, "refused": 1}


@pytest.mark.skipif(not IPV6, reason="no IPv6 here")
@in_loop
async def test_it_listens_on_an_ipv6_address_too() -> None:
    port = free_port("::1")
    async with running(port, "::1"):
        for tcp in (False, True):
            reply = await ask(port, "web.home.piagent", tcp=tcp, address="::1")
            assert data(reply) == ["10.0.0.5"]


@in_loop
async def test_what_is_cut_off_by_udp_is_whole_by_tcp() -> None:
    port = free_port()
    async with running(port):
        short = await ask(port, "many.home.piagent")
        assert (short.header.tc, short.rr) == (1, [])
        assert len((await ask(port, "many.home.piagent", tcp=True)).rr) == MANY


@in_loop
async def test_every_backend_is_named_first_at_some_time() -> None:
    port = free_port()
    async with running(port):
        first = {str((await ask(port, "db.home.piagent")).rr[0].rdata) for _ in range(4)}
        assert first == {"192.168.1.21", "192.168.1.22"}


async def dig(port: int, *words: str) -> str:
    argv = ["dig", f"@{HERE}", "-p", str(port), "+tries=1", "+time=20", *words]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("dig") is None, reason="apt install bind9-dnsutils")
@in_loop
async def test_dig_finds_nothing_to_complain_about() -> None:
    port = free_port()
    async with running(port):
        assert (await dig(port, "+short", "alias.home.piagent")).split() == [
            "web.home.piagent.",
            "10.0.0.5",
        ]
        srv = await dig(port, "+short", "_http._tcp.db.home.piagent", "SRV")
        assert sorted(srv.splitlines()) == [
            "0 1 8080 192-168-1-21.db.home.piagent.",
            "0 1 90 192-168-1-22.db.home.piagent.",
        ]
        assert (await dig(port, "+short", "-x", "10.0.0.5")).split() == ["web.home.piagent."]
        retried = await dig(port, "+noedns", "many.home.piagent")
        assert "Truncated, retrying in TCP mode" in retried
        assert f"ANSWER: {MANY}" in retried
        refused = await dig(port, "example.com")
        assert "status: REFUSED" in refused
        assert "EDE: 20 (Not Authoritative)" in refused
        for words in (
            ["web.home.piagent"],
            ["nobody.home.piagent"],
            ["+tcp", "home.piagent", "SOA"],
        ):
            said = await dig(port, "+norec", *words)
            assert "WARNING" not in said
            assert " qr aa;" in said
        assert "BADVERS" in await dig(port, "+edns=1", "+noednsnegotiation", "web.home.piagent")


@pytest.fixture
def network() -> Iterator[netns.Namespace]:
    reason = netns.why_not() or (None if shutil.which("unshare") else "no unshare(1)")
    if reason is not None:
        pytest.skip(reason)
    with netns.Network("piagent-dns") as network:
        yield network.add_host("pi", "192.168.1.11/24")


@contextlib.contextmanager
def responder(network: netns.Namespace, *words: str) -> Iterator[None]:
    argv = network.command([sys.executable, "-m", "tests.adapters.responder", *words])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def test_the_c_library_finds_services_by_name(network: netns.Namespace, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(
        "nameserver 127.0.0.55\nnameserver 127.0.0.56\nsearch home.piagent\n"
    )
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    bind = "".join(
        f"mount --bind {tmp_path / name} /etc/{name} && "
        for name in ("resolv.conf", "nsswitch.conf")
    )

    def resolved(name: str, database: str) -> list[str]:
        """What programs get that know no more than a name."""
        argv = ["unshare", "--mount", "sh", "-c", f"{bind}exec getent {database} {name}"]
        done = subprocess.run(network.command(argv), capture_output=True, text=True, check=True)
        return sorted({line.split()[0] for line in done.stdout.splitlines()})

    here = responder(network, "127.0.0.55", "53")
    with here, responder(network, "127.0.0.56", "53", "away"):
        assert resolved("db.home.piagent", "ahosts") == ["192.168.1.21", "192.168.1.22"]
        assert resolved("db", "ahostsv4") == ["192.168.1.21", "192.168.1.22"]
        assert resolved("alias", "ahostsv6") == ["fd00::5"]
        assert len(resolved("many", "ahostsv4")) == MANY
        assert resolved("10.0.0.5", "hosts") == ["10.0.0.5"]
        # What is refused here is asked at the next server.
        assert resolved("web.away.piagent", "ahostsv4") == ["10.0.0.5"]


# ---- the port -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
@in_loop
async def test_a_port_that_is_taken_is_said_once_and_had_once_it_is_free(
    kind: socket.SocketKind, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "RETRY_S", 0.05)
    port = free_port()
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind((HERE, port))
        if kind == socket.SOCK_STREAM:
            other.listen()
        server = DnsServer(Listen(address=HERE, port=port), ZONE.answer)
        task = asyncio.create_task(server.run())
        await until(lambda: "in use" in str(server.why_not))
        await asyncio.sleep(0.2)  # several tries
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert f"[dns] listen {HERE}:{port}: Address already in use; 'ss -lntup'" in caplog.text
    await until(lambda: server.why_not is None)
    assert data(await ask(port, "web.home.piagent")) == ["10.0.0.5"]
    task.cancel()
    await asyncio.wait([task])


@in_loop
async def test_an_address_of_another_host_is_an_error_with_its_cure() -> None:
    server = DnsServer(Listen(address="192.0.2.1", port=5300), ZONE.answer)
    task = asyncio.create_task(server.run())
    await until(lambda: "does not have the address" in str(server.why_not))
    task.cancel()
    await asyncio.wait([task])


@in_loop
async def test_once_stopped_connections_end_and_the_port_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dns, "IDLE_S", 1000.0)
    monkeypatch.setattr(dns, "CONNECTION_S", 1000.0)
    port = free_port()
    async with running(port) as server:
        reader, writer = await asyncio.open_connection(HERE, port)
        await until(lambda: server._writers)
    assert server.why_not == "stopped"
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 30) == b""
    async with running(port):
        assert data(await ask(port, "web.home.piagent", tcp=True)) == ["10.0.0.5"]
    writer.close()


# ---- clients that mean harm ---------------------------------------------------------------------


@in_loop
async def test_garbage_on_every_way_in_changes_nothing() -> None:
    port = free_port()
    noise = random.Random(53)
    good = packet("db.home.piagent", "SRV")
    async with running(port) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(300):
                spoilt = bytearray(good + noise.randbytes(noise.randrange(20)))
                for _ in range(noise.randrange(6)):
                    spoilt[noise.randrange(len(spoilt))] = noise.randrange(256)
                client.sendto(bytes(spoilt[: noise.randrange(len(spoilt) + 1)]), (HERE, port))
                client.sendto(noise.randbytes(noise.randrange(1500)), (HERE, port))
                await asyncio.sleep(0)
        for _ in range(30):
            reader, writer = await asyncio.open_connection(HERE, port)
            writer.write(noise.randbytes(noise.randrange(200)))
            writer.write_eof()
            await reader.read()
            writer.close()
        assert data(await ask(port, "web.home.piagent")) == ["10.0.0.5"]
        assert data(await ask(port, "web.home.piagent", tcp=True)) == ["10.0.0.5"]
        assert server.results["formerr"] > 0


@in_loop
async def test_a_question_that_cannot_be_answered_is_a_failure_and_not_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(question: Question) -> Answer:
        if question.name.startswith("web"):
            raise RuntimeError("a mistake")
        return ZONE.answer(question)

    port = free_port()
    async with running(port, answer=answer):
        for tcp in (False, True):
            assert (await ask(port, "web.home.piagent", tcp=tcp)).header.rcode == 2
        assert len(data(await ask(port, "db.home.piagent"))) == 2
    assert "a mistake" in caplog.text


async def converse(port: int, *queries: bytes) -> list[bytes]:
    """Ask on one connection, all at once."""
    reader, writer = await asyncio.open_connection(HERE, port)
    writer.write(b"".join(struct.pack("!H", len(query)) + query for query in queries))
    replies = []
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        for _ in queries:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            replies.append(await reader.readexactly(length))
    writer.close()
    return replies


@in_loop
async def test_one_connection_may_ask_much_until_it_says_something_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    query = packet("web.home.piagent")
    async with running(port):
        assert len(await converse(port, *[query] * 100)) == 100
        response = query[:2] + b"\x80" + query[3:]
        assert len(await converse(port, query, response, query)) == 1
        assert len(await converse(port, query, b"\0" * (MAX_QUERY + 1), query)) == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@in_loop
async def test_one_client_has_so_many_connections_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dns, "IDLE_S", 1000.0)
    port = free_port()
    async with running(port) as server:
        open_ones = [await asyncio.open_connection(HERE, port) for _ in range(MAX_PER_SOURCE)]
        await until(lambda: len(server._writers) == MAX_PER_SOURCE)
        assert await converse(port, packet("web.home.piagent")) == []
        for _, writer in open_ones:
            writer.close()
        await until(lambda: not server._writers)
        assert len(await converse(port, packet("web.home.piagent"))) == 1


@in_loop
async def test_all_clients_have_so_many_connections_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dns, "IDLE_S", 1000.0)
    port = free_port()
    async with running(port) as server:
        open_ones = [
            await asyncio.open_connection(HERE, port, local_addr=(f"127.0.1.{n}", 0))
            for n in range(MAX_CONNECTIONS)
        ]
        await until(lambda: len(server._writers) == MAX_CONNECTIONS)
        assert await converse(port, packet("web.home.piagent")) == []
        for _, writer in open_ones:
            writer.close()


@in_loop
async def test_a_connection_that_says_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "IDLE_S", 0.1)
    monkeypatch.setattr(dns, "CONNECTION_S", 1000.0)
    port = free_port()
    async with running(port):
        reader, writer = await asyncio.open_connection(HERE, port)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()


@in_loop
async def test_a_connection_that_trickles_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "CONNECTION_S", 0.3)
    port = free_port()
    async with running(port):
        reader, writer = await asyncio.open_connection(HERE, port)
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            with contextlib.suppress(ConnectionError):
                writer.write(b"\0\x20" if not ended.done() else b"")
            await asyncio.sleep(0.02)
        writer.close()
        with contextlib.suppress(ConnectionError):
            assert await ended == b""


@in_loop
async def test_who_is_limited_gets_no_more_bytes_than_it_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Limits, "udp", lambda *_: Verdict.ASK_BY_TCP)
    port = free_port()
    async with running(port) as server:
        reply = await ask(port, "db.home.piagent")
        assert (reply.header.tc, reply.rr) == (1, [])
        assert len(reply.pack()) == len(packet("db.home.piagent"))
        assert len(data(await ask(port, "db.home.piagent", tcp=True))) == 2
        assert server.results == {"limited": 1, "noerror": 1}
