"""PROXY headers beside HAProxy's: what it sends is read, what is written it accepts."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fastpath.peers import PATIENCE_S, connect, read_all
from tests.fastpath.proxy.proxy_headers import Header, Place, tlv, v1, v2
from tests.net import free_port
from tests.waiting import wait_until

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")

SENDERS = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2-and-more": "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
}
CONFIG = """
defaults
  mode tcp
  timeout connect 10s
  timeout client 10s
  timeout server 10s
frontend reader
  mode http
  bind 127.0.0.1:{reader} accept-proxy
  http-request return status 200 content-type text/plain \
    lf-string "%[src] %[src_port] %[dst] %[dst_port]"
"""
SENDER = """
listen {name}-{family}
  unique-id-format %[uuid()]
  bind {address}:{port} v6only
  server s 127.0.0.1:{backend} {options}
"""
CHECKER = """
listen checker-{name}
  bind 127.0.0.1:{port}
  server s 127.0.0.1:{backend} {options} check inter 100ms
"""


class Haproxy:
    """One that sends headers to `backend`, and one that says what it read."""

    def __init__(self, folder: Path) -> None:
        self.backend = socket.create_server(("127.0.0.1", 0))
        self.backend.settimeout(PATIENCE_S)
        self.checked = socket.create_server(("127.0.0.1", 0))
        self.checked.settimeout(PATIENCE_S)
        self.reader = free_port()
        self.ports: dict[tuple[str, str], int] = {}
        text = CONFIG.format(reader=self.reader)
        for name, options in SENDERS.items():
            for family, address in (("v4", "127.0.0.1"), ("v6", "::1")):
                port = self.ports[name, address] = free_port(address)
                text += SENDER.format(
                    name=name, family=family, address=address, port=port, options=options,
                    backend=self.backend.getsockname()[1],
                )  # fmt: skip
        text += CHECKER.format(
            name="v2", port=free_port(), options=SENDERS["v2"],
            backend=self.checked.getsockname()[1],
        )  # fmt: skip
        file = folder / "haproxy.cfg"
        file.write_text(text)
        self.log = folder / "haproxy.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(file)], stdout=log, stderr=subprocess.STDOUT
            )

    def listens(self) -> bool:
        """Whether it does already."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.reader)) == 0

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self.backend.close()
        self.checked.close()


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    running = Haproxy(tmp_path_factory.mktemp("haproxy"))
    try:
        wait_until(running.listens, running.log.read_text)
        yield running
    finally:
        running.close()


def receive(listening: socket.socket) -> tuple[Header, socket.socket]:
    """The header that the next connection begins with, and the connection right after it."""
    connection, _ = listening.accept()
    connection.settimeout(PATIENCE_S)
    data = b""
    while (found := probe.read_proxy_header(data)) == (-1,):
        more = connection.recv(1)
        assert more, f"the end came after {data!r}"
        data += more
    assert len(found) == 4, (found, data)
    assert found[0] == len(data)
    return Header(*found), connection


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", SENDERS)
def test_what_haproxy_sends_is_read(haproxy: Haproxy, name: str, address: str) -> None:
    port = haproxy.ports[name, address]
    with connect(port, address) as client:
        own = client.getsockname()[:2]
        client.sendall(b"first bytes")
        client.shutdown(socket.SHUT_WR)
        header, connection = receive(haproxy.backend)
        with connection:
            rest = read_all(connection)
    assert (header.source, header.destination) == (own, (address, port))
    assert header.version == int(name[1])
    assert (header.size > 52) == (name == "v2-and-more")
    assert rest == b"first bytes"


def test_a_health_check_of_haproxy_names_nobody(haproxy: Haproxy) -> None:
    header, connection = receive(haproxy.checked)
    connection.close()
    assert header == Header(16, 2)


def ask(haproxy: Haproxy, header: bytes) -> bytes:
    """What HAProxy made of a header; empty: it hung up."""
    with connect(haproxy.reader) as client:
        client.sendall(header + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        try:
            return read_all(client).partition(b"\r\n\r\n")[2]
        except ConnectionResetError:
            return b""


V4: tuple[Place, Place] = ("192.0.2.1", 1), ("198.51.100.255", 65535)
V6: tuple[Place, Place] = ("2001:db8::1", 65535), ("fe80::1:0:0:1", 2)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("source", "destination", "said"),
    [
        (*V4, b"192.0.2.1 1 198.51.100.255 65535"),
        (*V6, b"2001:db8::1 65535 fe80::1:0:0:1 2"),
        (V4[0], V6[1], b"::ffff:192.0.2.1 1 fe80::1:0:0:1 2"),
        (V6[0], V4[1], b"2001:db8::1 65535 ::ffff:198.51.100.255 65535"),
    ],
)
def test_haproxy_reads_what_is_written(
    haproxy: Haproxy, version: int, source: Place, destination: Place, said: bytes
) -> None:
    assert ask(haproxy, probe.write_proxy_header(version, source, destination)) == said


@pytest.mark.parametrize("version", [1, 2])
def test_haproxy_takes_the_connection_for_its_own_where_nobody_is_named(
    haproxy: Haproxy, version: int
) -> None:
    said = ask(haproxy, probe.write_proxy_header(version, None, None)).split()
    assert said[::2] == [b"127.0.0.1", b"127.0.0.1"]
    assert said[3] == str(haproxy.reader).encode()


SUMMED = v2(*V4, tlv(4, b"padding"), checksum=True)


@pytest.mark.parametrize(
    "header",
    [
        SUMMED,
        SUMMED[:-1] + bytes([SUMMED[-1] ^ 1]),
        v2(*V6, tlv(5, b"x" * 128)),
        v2(*V4, b"\4\0"),
        v2(None, rest=b"anything"),
        v1(*V4)[:-2] + b"\n",
        b"PROXY TCP6 ::1 192.0.2.2 1 1\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP6 ::ffff:192.0.2.2 ::1 1 1\r\n",
        b"",
    ],
)
def test_haproxy_and_the_engine_agree_on_what_is_a_header(haproxy: Haproxy, header: bytes) -> None:
    accepted = len(probe.read_proxy_header(header + b"GET / HTTP/1.1\r\n")) > 1
    assert accepted == (ask(haproxy, header) != b"")
