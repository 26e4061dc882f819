"""The minimal relays that piagent is compared with do relay: a floor that loses bytes is none."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.compared.load import compiled
from benchmarks.l4 import proxies
from benchmarks.processes import free_port, wait_for_port

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

LOCAL = "127.0.0.1"
MUCH = random.Random(1).randbytes(8 << 20)


@contextlib.contextmanager
def started(folder: Path, source: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    compiled(folder / "relay", [proxies.HERE / source])
    with subprocess.Popen([str(folder / "relay"), *words]) as process:
        try:
            yield process
        finally:
            process.terminate()


def received(sock: socket.socket, pause_s: float = 0.0) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
        time.sleep(pause_s)
    return b"".join(parts)


def sending(sock: socket.socket, data: bytes) -> threading.Thread:
    """Send all of it, then end this way, at the same time as the caller goes on."""

    def work() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_tcp_relay_keeps_every_byte_for_a_slow_reader_and_ends_each_way_alone(
    tmp_path: Path,
) -> None:
    port = free_port()
    with socket.create_server((LOCAL, 0)) as backend:
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        pair = f"{port}={backend.getsockname()[1]}"
        with started(tmp_path, "relay.c", LOCAL, LOCAL, pair) as process:
            wait_for_port(LOCAL, port, process)
            backend.accept()[0].close()
            with socket.create_connection((LOCAL, port), 10) as client:
                server = backend.accept()[0]
                server.settimeout(10)
                asking = sending(client, MUCH)
                assert received(server, 0.001) == MUCH
                asking.join()
                answering = sending(server, MUCH[::-1])  # this half is not over
                assert received(client) == MUCH[::-1]
                answering.join()
                server.close()


def test_the_udp_relay_keeps_datagrams_apart_and_clients_too(tmp_path: Path) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        backend, *clients = (
            stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(4)
        )
        backend.bind((LOCAL, 0))
        words = (LOCAL, str(port), LOCAL, str(backend.getsockname()[1]))
        stack.enter_context(started(tmp_path, "udp_relay.c", *words))
        for client in clients:
            client.connect((LOCAL, port))
            client.settimeout(10)
        until_answered(clients[0], backend)
        sizes = (2, 100, 100, 100, 99, 100, 1400)
        sent = [bytes([n, i] * size)[:size] for n in range(3) for i, size in enumerate(sizes)]
        for datagram in sent:
            clients[datagram[0]].send(datagram)
        came = [backend.recvfrom(2048) for _ in sent]
        assert sorted(datagram for datagram, _ in came) == sorted(sent)
        assert len({address for _, address in came}) == 3
        for datagram, address in came:
            backend.sendto(datagram, address)
        for number, client in enumerate(clients):
            mine = [datagram for datagram in sent if datagram[0] == number]
            assert [client.recv(2048) for _ in mine] == mine


def until_answered(client: socket.socket, backend: socket.socket) -> None:
    """Wait for a relay that is only starting: nobody says when a UDP port is bound."""
    backend.settimeout(0.2)
    for number in range(100):
        with contextlib.suppress(OSError):
            client.send(bytes([number]))
            while backend.recv(2048) != bytes([number]):
                pass
            backend.settimeout(10)
            return
        time.sleep(0.05)
    raise AssertionError("the relay passes nothing on")
