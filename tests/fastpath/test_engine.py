"""Publishing, reloading, limits and counters of the engine, under real TCP traffic."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastpath.engine import Backend, Engine, Listener, ListenError, Service, Tables
from tests.fastpath.peers import Server, ask, connect, read_all, read_exactly, running, tcp_tables
from tests.net import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_generations_count_up() -> None:
    with running() as engine:
        tables = tcp_tables(free_port(), Server().backend("a"))
        assert [engine.publish(tables) for _ in range(3)] == [1, 2, 3]


def test_tables_may_be_published_before_the_start() -> None:
    engine = Engine(connections=16)
    port, gone = free_port(), free_port()
    server = Server()
    engine.publish(tcp_tables(gone, server.backend("a")))
    engine.publish(tcp_tables(port, server.backend("a")))
    assert refused(gone)
    engine.start()
    assert ask(port) == b"hello"
    engine.stop()


@pytest.mark.parametrize("workers", [1, 3])
def test_reloads_under_traffic_lose_no_connection(workers: int) -> None:
    servers = [Server(), Server()]
    port, other = free_port(), free_port()
    failures: list[BaseException] = []
    stop = threading.Event()
    n_asked = 0

    def hammer() -> None:
        nonlocal n_asked
        try:
            while not stop.is_set():
                assert ask(port, b"ping") == b"ping"
                n_asked += 1
        except BaseException as error:  # noqa: BLE001 - it must reach the main thread
            failures.append(error)

    with running(workers=workers) as engine:
        tables = tcp_tables(port, servers[0].backend("a"), servers[1].backend("b"))
        engine.publish(tables)
        kept = connect(port)
        clients = [threading.Thread(target=hammer) for _ in range(4)]
        for client in clients:
            client.start()
        wait_until(lambda: n_asked > 20 or failures)
        for turn in range(150):
            backends = (servers[0].backend("a", up=turn % 2 == 0), servers[1].backend("b"))
            listeners = (tables.listeners[0], Listener("127.0.0.1", other, "s", http=False))
            engine.publish(Tables(listeners[: 1 + turn % 2], (Service("s", backends),), ()))
            kept.sendall(b"%03d" % turn)
            assert read_exactly(kept, 3) == b"%03d" % turn
        stop.set()
        for client in clients:
            client.join()
        assert not failures
        kept.close()
        wait_until(lambda: engine.active() == 0)
        counters = engine.stats()["services"]["s"]
        assert counters["a"]["connections"] + counters["b"]["connections"] == n_asked + 1
        rejected = engine.stats()["rejected"]
        assert not any(rejected.values())


def test_a_backend_that_goes_down_keeps_its_connections_and_gets_no_new_one() -> None:
    first, second = Server(), Server()
    port = free_port()
    with running() as engine:
        engine.publish(tcp_tables(port, first.backend("a"), second.backend("b", up=False)))
        with connect(port) as old:
            old.sendall(b"x")
            assert read_exactly(old, 1) == b"x"
            engine.publish(tcp_tables(port, first.backend("a", up=False), second.backend("b")))
            for _ in range(20):
                assert ask(port) == b"hello"
            engine.publish(tcp_tables(port, second.backend("b")))
            old.sendall(b"still here")
            assert read_exactly(old, 10) == b"still here"
        assert (first.n_accepted, second.n_accepted) == (1, 20)


def test_a_removed_listener_is_closed_and_its_connections_live() -> None:
    server = Server()
    port, other = free_port(), free_port()
    with running(workers=2) as engine:
        engine.publish(tcp_tables(port, server.backend("a")))
        with connect(port) as client:
            engine.publish(tcp_tables(other, server.backend("a")))
            assert refused(port)
            client.sendall(b"alive")
            assert read_exactly(client, 5) == b"alive"
        assert ask(other) == b"hello"
        engine.publish(tcp_tables(port, server.backend("a")))
        assert ask(port) == b"hello"
        assert refused(other)


def test_a_port_in_use_is_named_and_nothing_changes() -> None:
    server = Server()
    port, fresh = free_port(), free_port()
    with running() as engine, socket.create_server(("127.0.0.1", 0)) as taken:
        # Even one that would share: it is another process's, for all we know.
        shared = socket.socket()
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(("127.0.0.1", 0))
        shared.listen()
        engine.publish(tcp_tables(port, server.backend("a")))
        for busy in (taken.getsockname()[1], shared.getsockname()[1]):
            listeners = tuple(
                Listener("127.0.0.1", each, "t", http=False) for each in (port, fresh, busy)
            )
            tables = Tables(listeners, (Service("t", ()),), ())
            with pytest.raises(ListenError) as caught:
                engine.publish(tables)
            assert caught.value.errno == errno.EADDRINUSE
            assert caught.value.filename == f"127.0.0.1:{busy}"
            error = caught.value
            assert (error.address, error.port, error.udp) == ("127.0.0.1", busy, False)
            assert refused(fresh)
            assert ask(port) == b"hello"
        assert list(engine.stats()["services"]) == ["s"]
        shared.close()


def test_an_address_that_is_not_here_yet_can_be_listened_on() -> None:
    with running() as engine:
        listeners = (
            Listener("198.51.100.7", 4711, "s", http=False),
            Listener("2001:db8::7", 4711, "s", http=False),
        )
        engine.publish(Tables(listeners, (Service("s", ()),), ()))
        assert "[2001:db8::7]:4711" in engine.stats()["listeners"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (Tables((Listener("127.0.0.1", 1, "x", http=False),), (), ()), "no service 'x'"),
        (Tables((Listener("127.0.0.1", 1, "x", http=True),), (), ()), "no gateway 'x'"),
        (Tables((), (Service("s", ()), Service("s", ())), ()), "'s' is there twice"),
        (Tables((), (Service("s", (Backend("b", "pi", 80, 1, True),)),), ()), "'pi' is not an IP"),
        (Tables((), (Service("s", (Backend("b", "::1", 0, 1, True),)),), ()), "port 0"),
        (Tables((), (Service("s", (Backend("b", "::1", 1, -1, True),)),), ()), "weight -1"),
        (Tables((), (Service("s", (), connect_timeout_ms=-1),), ()), "connect timeout of -1 ms"),
    ],
)
def test_tables_that_make_no_sense_are_refused_by_name(tables: Tables, message: str) -> None:
    with running() as engine:
        with pytest.raises(ValueError, match=message):
            engine.publish(tables)
        assert engine.publish(Tables((), (), ())) == 1


def test_more_backends_than_fit_are_refused() -> None:
    backends = tuple(Backend(f"b{i}", "127.0.0.1", 1 + i, 1, True) for i in range(4097))
    with running() as engine:
        with pytest.raises(ValueError, match="4097 backends, more than 4096"):
            engine.publish(Tables((), (Service("s", backends),), ()))
        engine.publish(Tables((), (Service("s", backends[:4096]),), ()))


def test_counters_live_through_reloads_and_begin_anew_for_new_hands() -> None:
    server = Server()
    port = free_port()
    with running() as engine:
        engine.publish(tcp_tables(port, server.backend("a")))
        ask(port, b"12345")
        engine.publish(tcp_tables(port, server.backend("a"), server.backend("b", up=False)))
        ask(port, b"123")
        wait_until(lambda: engine.active() == 0)
        counters = engine.stats()["services"]["s"]["a"]
        assert (counters["connections"], counters["bytes_in"], counters["bytes_out"]) == (2, 8, 8)
        assert engine.stats()["listeners"][f"127.0.0.1:{port}"]["accepted"] == 2
        for turn in range(4):
            backends = tuple(
                Backend(f"{turn}.{i}", "127.0.0.1", 1 + i, 1, True) for i in range(4000)
            )
            engine.publish(Tables((), (Service("s", backends),), ()))
        engine.publish(tcp_tables(port, server.backend("a")))
        fresh = engine.stats()["services"]["s"]["a"]
        assert not any(fresh.pop(f"{what}_seconds")["count"] for what in ("connect", "session"))
        assert not any(fresh.values())


def test_clients_over_the_limit_are_closed_at_once_and_the_others_served() -> None:
    port = free_port()
    with running(workers=2, connections=5) as engine:
        engine.publish(tcp_tables(port, Server().backend("a")))
        clients = [connect(port) for _ in range(12)]
        served, closed = [], []
        for client in clients:
            try:
                client.sendall(b"x")
                answer = client.recv(1)
            except ConnectionError:
                answer = b""
            (served if answer == b"x" else closed).append(client)
        assert len(served) == 5
        assert engine.stats()["rejected"]["capacity"] == 7
        served.pop().close()
        wait_until(lambda: engine.active() == 4)
        assert ask(port) == b"hello"
        for client in clients:
            client.close()


def test_open_connections_are_counted_by_the_address_they_came_to() -> None:
    port, other = free_port(), free_port()
    tables = tcp_tables(port, Server().backend("a"))
    one, two = "127.0.0.1", "127.0.0.2"
    listeners = tuple(
        Listener(address, each, "s", http=False) for address in (one, two) for each in (port, other)
    )
    with running(workers=2) as engine:
        engine.publish(tables._replace(listeners=listeners))
        places = [(one, port), (one, other), (one, other), (two, port)]
        clients = [connect(each, address) for address, each in places]
        wait_until(lambda: (engine.active_on(one), engine.active_on(two)) == (3, 1))
        assert engine.active_on("127.0.0.3") == engine.cut("127.0.0.3") == 0
        engine.publish(tables._replace(listeners=listeners[:1]))
        assert (engine.active_on(one), engine.active_on(two)) == (3, 1)
        clients.pop().close()
        wait_until(lambda: (engine.active_on(one), engine.active_on(two)) == (3, 0))
        for client in clients:
            client.close()
        wait_until(lambda: engine.active_on(one) == 0)


def test_connections_that_are_turned_away_do_not_count_as_open() -> None:
    port = free_port()
    with running(connections=2) as engine:
        engine.publish(tcp_tables(port))
        with connect(port) as client:
            assert client.recv(1) == b""
        engine.publish(tcp_tables(port, Server().backend("a")))
        clients = [connect(port) for _ in range(5)]
        wait_until(lambda: engine.stats()["rejected"]["capacity"] == 3)
        assert engine.active_on("127.0.0.1") == 2
        for client in clients:
            client.close()
        wait_until(lambda: engine.active_on("127.0.0.1") == 0)


def test_a_listener_keeps_its_number_for_as_long_as_a_connection_of_it_lives() -> None:
    """Else its connections would count for, and be cut with, those of a stranger."""
    port = free_port()
    tables = tcp_tables(port, Server().backend("a"))
    with running() as engine:
        engine.publish(tables)
        with connect(port) as client:
            wait_until(lambda: engine.active() == 1)
            for net in range(1, 5):  # twice through the 1024 numbers
                listeners = tuple(
                    Listener(f"127.{net}.{i // 256}.{i % 256}", port, "s", http=False)
                    for i in range(1, 501)
                )
                engine.publish(tables._replace(listeners=listeners))
            assert engine.active_on("127.0.0.1") == 1
            assert sum(engine.active_on(each.address) for each in listeners) == 0
            client.sendall(b"alive")
            assert read_exactly(client, 5) == b"alive"
            assert engine.cut("127.0.0.1") == 1


FEW_DESCRIPTORS = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
from fastpath.engine import *
engine = Engine(connections=10000)
engine.start()
port, backend = int(sys.argv[1]), int(sys.argv[2])
service = Service("s", (Backend("a", "127.0.0.1", backend, 1, True),))
engine.publish(Tables((Listener("127.0.0.1", port, "s", False),), (service,), ()))
if sys.argv[3] == "take":
    taken = []
    try:
        while True:
            taken.append(open("/dev/null"))
    except OSError:
        pass
print("ready", flush=True)
sys.stdin.readline()
stats = engine.stats()
print(stats["rejected"]["capacity"], stats["rejected"]["descriptors"], engine.active(),
      max(engine.turns()), flush=True)
sys.stdin.readline()
engine.stop()
"""


@pytest.mark.parametrize("others", ["leave", "take"])
def test_running_out_of_descriptors_sends_clients_away_and_goes_on(others: str) -> None:
    """`leave`: our own limit comes first. `take`: somebody else took all descriptors."""
    port = free_port()
    server = Server()
    with subprocess.Popen(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(port), str(server.port), others],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        clients = [connect(port) for _ in range(200)]
        n_served = 0
        for client in clients:
            try:
                client.sendall(b"x")
                n_served += client.recv(1) == b"x"
            except ConnectionError:
                continue
        process.stdin.write("\n")
        process.stdin.flush()
        by_limit, by_kernel, active, turns = map(int, process.stdout.readline().split())
        assert by_limit + by_kernel + n_served == 200
        assert active == n_served
        assert (n_served > 40) == (others == "leave")
        assert (by_kernel > 0) == (others == "take")
        assert turns < 2000, "it spins"
        for client in clients:
            client.close()
        process.stdin.write("\n")
    assert process.returncode == 0


def test_the_soft_limit_of_descriptors_is_raised_as_far_as_needed() -> None:
    text = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
from fastpath.engine import Engine
engine = Engine(connections=400)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
engine.stop()
"""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1000:
        pytest.skip("the hard limit of descriptors is too low here")
    ran = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) >= 800


def test_an_idle_engine_for_16384_connections_takes_less_than_4_mib() -> None:
    text = """
import fastpath.engine as fastpath
def rss():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
before = rss()
engine = fastpath.Engine(workers=2, connections=16384)
engine.start()
print(rss() - before)
engine.stop()
"""
    ran = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 4096


IDLE_CONNECTIONS = 800
IDLE = """
import os, sys
import fastpath.engine as fastpath
port, backend = int(sys.argv[1]), int(sys.argv[2])
engine = fastpath.Engine(connections=4096)
engine.start()
service = fastpath.Service("s", (fastpath.Backend("a", "127.0.0.1", backend, 1, True),))
listener = fastpath.Listener("127.0.0.1", port, "s", False)
engine.publish(fastpath.Tables((listener,), (service,), ()))
def rss():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
for _ in range(2):
    print(rss(), flush=True)
    sys.stdin.readline()
engine.stop()
"""


@pytest.mark.skipif("PIAGENT_SANITIZE" in os.environ, reason="a sanitizer needs memory of its own")
def test_an_idle_proxied_connection_takes_less_than_1_kib() -> None:
    # Both ends are here, beside what other tests have left open.
    needed = 2 * IDLE_CONNECTIONS + 256 + len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        pytest.skip("the hard limit of descriptors is too low here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    server = Server()
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", IDLE, str(port), str(server.port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = int(process.stdout.readline())
        clients = []
        for _ in range(IDLE_CONNECTIONS):
            client = connect(port)
            client.sendall(b"x" * 100)
            assert read_exactly(client, 100) == b"x" * 100
            clients.append(client)
        process.stdin.write("\n")
        process.stdin.flush()
        after = int(process.stdout.readline())
        for client in clients:
            client.close()
        process.stdin.write("\n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert after - before < IDLE_CONNECTIONS


def test_drain_takes_what_has_connected_and_no_more() -> None:
    port = free_port()
    with running() as engine:
        tables = tcp_tables(port, Server().backend("a"))
        engine.publish(tables)
        clients = [connect(port) for _ in range(20)]
        engine.drain()
        assert refused(port)
        engine.publish(tables)
        assert refused(port)
        for client in clients:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"x"
            client.close()
        wait_until(lambda: engine.active() == 0)


def test_turns_of_an_idle_worker_move_from_call_to_call() -> None:
    with running(workers=2) as engine:
        before = engine.turns()
        wait_until(lambda: all(a < b for a, b in zip(before, engine.turns(), strict=True)))


def test_stop_closes_everything_and_is_final() -> None:
    port = free_port()
    engine = Engine(connections=16)
    engine.start()
    engine.publish(tcp_tables(port, Server().backend("a")))
    client = connect(port)
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    engine.stop()
    engine.stop()
    assert client.recv(1) == b""
    assert refused(port)
    with pytest.raises(RuntimeError, match="stopped"):
        engine.publish(Tables((), (), ()))
    client.close()
