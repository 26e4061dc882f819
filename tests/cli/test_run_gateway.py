"""A gateway of a whole agent, a real process: its file changes while WebSockets are open."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_run import ROOT, Node, Setting
from tests.mosquitto import WHY_NOT, Mosquitto
from tests.net import free_port
from tests.waiting import wait_until

gateways = pytest.importorskip("tests.fastpath.http.gateways", reason="the engine is not built")

pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
    pytest.mark.skipif(
        not list((ROOT / "fastpath").glob("engine.*.so")), reason="the engine is not built"
    ),
]

N_RELOADS = 8
GATEWAY = """
[[service]]
name = "ws"
ports = [{{ port = 80, target_port = {ws} }}]
backends = ["127.0.0.1"]
[[service]]
name = "pages"
ports = [{{ port = 80, target_port = {pages} }}]
backends = ["127.0.0.1"]
[[gateway]]
name = "front"
address = "{address}"
listen = [{{ port = {port} }}]
[[route]]
name = "ws"
gateway = "front"
path_prefix = "/ws"
backends = [{{ service = "ws" }}]
[[route]]
name = "page-{n}"
gateway = "front"
path_prefix = "/page-{n}"
filters = [{{ response_headers = {{ set = {{ x-turn = "{n}" }} }} }}]
backends = [{{ service = "pages" }}]
"""


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """Its service has no backend that answers; the gateway's have."""
    with Mosquitto() as broker:
        made = Setting(tmp_path, broker, free_port())
        try:
            yield made
        finally:
            for node in made.nodes:
                node.end()


def echo(peer: gateways.Peer) -> None:
    """Switch, then send back what comes."""
    peer.head()
    peer.send(gateways.SWITCH)
    while data := peer.socket.recv(1000):
        peer.send(data)


class Front:
    """A node with the gateway, and the gateway's clients."""

    def __init__(self, setting: Setting, ws: int, pages: int) -> None:
        self._address = setting.vip.rpartition(".")[0] + ".10"
        self._parts = {"ws": ws, "pages": pages, "address": self._address, "port": free_port()}
        self.node: Node = setting.node("n1", more=GATEWAY.format(n=0, **self._parts))
        self._text = self.node.file.read_text().removesuffix(GATEWAY.format(n=0, **self._parts))
        self._reloads = 0

    def client(self) -> gateways.Client:
        return gateways.Client(int(self._parts["port"]), self._address)

    def reload(self, n: int) -> None:
        """Another route instead of the last, and SIGHUP."""
        self._reloads += 1
        self.node.file.write_text(self._text + GATEWAY.format(n=n, **self._parts))
        self.node.send(signal.SIGHUP)
        wait_until(
            lambda: self.node.output().count("reload: done") == self._reloads, self.node.output
        )

    def page(self, n: int) -> tuple[int, str]:
        """Status of the route of a turn, and the turn that it says."""
        with self.client() as client:
            status, fields, _ = client.get(f"/page-{n}")
        return status, fields.get("x-turn", "")

    def answers(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            return self.page(0) == (200, "0")
        return False


def test_no_websocket_is_lost_when_the_routes_of_a_running_agent_change(setting: Setting) -> None:
    server, pages = gateways.scripted(echo), gateways.Web()
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        stack.callback(pages.server.close)
        front = Front(setting, server.port, pages.server.port)
        front.node.start()
        wait_until(front.answers, front.node.output)
        clients = [stack.enter_context(front.client()) for _ in range(20)]
        for client in clients:
            client.send(gateways.WEBSOCKET)
            assert client.socket.recv(1000).startswith(b"HTTP/1.1 101")
        for n in range(1, N_RELOADS + 1):
            assert front.page(n)[0] == 404
            front.reload(n)
            assert front.page(n) == (200, str(n))
            assert front.page(n - 1)[0] == 404
            for number, client in enumerate(clients):
                client.send(b"%d of %d" % (n, number))
            for number, client in enumerate(clients):
                assert client.socket.recv(100) == b"%d of %d" % (n, number)
        assert server.n_accepted == len(clients), "nobody was connected anew"
        front.node.send(signal.SIGTERM)
        for client in clients:
            client.socket.close()
        assert front.node.wait() == 0
