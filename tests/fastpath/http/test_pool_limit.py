"""Idle sockets to backends are kept within the process's descriptors."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.fastpath.http.gateways import Client, Peer, ok, scripted
from tests.net import free_port

ROOT = Path(__file__).parents[3]
N_BACKENDS = 8
N_CLIENTS = 25

ENGINE = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
from fastpath.engine import *
port, *backends = map(int, sys.argv[1:])
engine = Engine(connections=1000)
engine.start()
service = Service("s", tuple(Backend(str(b), "127.0.0.1", b, 1, True) for b in backends))
route = Route("r", "", "/", False, (Target("s"),), 0, 10000)
listener = Listener("127.0.0.1", port, "g", True)
engine.publish(Tables((listener,), (service,), (Gateway("g", False, (route,)),)))
for _ in range(2):
    idle = sum(b["open"] - b["active"] for b in engine.stats()["services"]["s"].values())
    print(idle, len(os.listdir("/proc/self/fd")), flush=True)
    sys.stdin.readline()
engine.stop()
"""


def slow(peer: Peer) -> None:
    while peer.request():
        time.sleep(0.02)
        peer.socket.sendall(ok())


def test_idle_sockets_leave_the_descriptors_that_clients_and_the_agent_need() -> None:
    port = free_port()
    servers = [scripted(slow) for _ in range(N_BACKENDS)]
    arguments = [str(each) for each in (port, *(server.port for server in servers))]
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        clients = [Client(port) for _ in range(N_CLIENTS)]
        for _ in range(12):
            for client in clients:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert [client.response()[0] for client in clients] == [200] * N_CLIENTS
        process.stdin.write("\n")
        process.stdin.flush()
        n_idle, n_descriptors = map(int, process.stdout.readline().split())
        assert 0 < n_idle <= 160 - 64 - 2 * N_CLIENTS
        assert n_descriptors <= 160 - 64 + 25
        for client in clients:
            client.socket.close()
        process.stdin.write("\n")
    assert process.returncode == 0
