"""Reloads of the file, from its text down to the workers, with WebSockets open."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from piagent.config.file import parse
from piagent.core.plan import plan
from tests.config.conftest import HOST
from tests.net import free_port

dataplane = pytest.importorskip("piagent.dataplane", reason="the engine is not built")
gateways = pytest.importorskip("tests.fastpath.http.gateways", reason="the engine is not built")

VIP = "127.0.0.9"
FILE = """
[mqtt]
brokers = ["mqtt://127.0.0.1"]
[[pool]]
name = "lan"
addresses = ["127.0.0.9"]
[[service]]
name = "ws"
ports = [{{ port = 80, target_port = {backend} }}]
backends = [{backends}]
[[service]]
name = "other"
ports = [{{ port = 80 }}]
backends = ["127.0.0.{n}"]
balance = "{balance}"
[[gateway]]
name = "front"
address = "127.0.0.9"
listen = [{{ port = {port} }}]
[[route]]
name = "all"
gateway = "front"
backends = [{{ service = "ws", weight = {n} }}, {{ service = "other", weight = {weight} }}]
{more}
"""
MORE = (
    "",
    'sticky = { cookie = "sid" }',
    'retries = { attempts = 2 }\ntimeouts = { request = "1s", backend = "1s" }',
    '[[route]]\nname = "more"\ngateway = "front"\nhosts = ["*.lan"]\npath_prefix = "/x"',
)


def test_no_websocket_is_lost_over_fifty_reloads_of_the_file(tmp_path: Path) -> None:
    def echo(peer: gateways.Peer) -> None:
        peer.head()
        peer.send(gateways.SWITCH)
        while data := peer.socket.recv(1000):
            peer.send(data)

    server, port = gateways.scripted(echo), free_port()
    plane = dataplane.EngineDataPlane(2, b"secret")

    def reload(n: int) -> None:
        text = FILE.format(
            n=n + 1,
            port=port,
            backend=server.port,
            backends='"127.0.0.1", "127.0.0.2"' if n % 2 else '"127.0.0.1"',
            balance=("maglev", "round-robin")[n % 2],
            weight=n,
            more=MORE[n % len(MORE)],
        )
        config = parse(text.encode(), str(tmp_path / "pi.toml"), HOST).config
        plane.apply(plan(config, frozenset({VIP}), frozenset()))

    try:
        reload(0)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(gateways.Client(port, VIP)) for _ in range(20)]
            for client in clients:
                client.send(gateways.WEBSOCKET)
                assert client.socket.recv(1000).startswith(b"HTTP/1.1 101")
            for n in range(1, 51):
                reload(n)
                for client in clients:
                    client.send(b"%d" % n)
                for client in clients:
                    assert client.socket.recv(100) == b"%d" % n
            assert plane.connections(VIP) == len(clients)
    finally:
        plane.stop()
