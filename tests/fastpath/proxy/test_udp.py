"""UDP through the engine, with real sockets on both sides."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from fastpath.engine import Engine, Listener, ListenError, Service, Tables
from tests.fastpath.peers import PATIENCE_S, Datagrams, Server, ask, running, udp_tables
from tests.net import free_udp_port
from tests.waiting import wait_until

LONGEST = 65507


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running() as started:
        yield started


@pytest.fixture
def port() -> int:
    return free_udp_port()


def client_of(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A client that takes answers from there only."""
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(PATIENCE_S)
    client.connect((address, port))
    return client


def exchange(client: socket.socket, text: bytes = b"hello") -> bytes:
    client.send(text)
    return client.recv(1 << 16)


def persistent(client: socket.socket, text: bytes = b"hello") -> bytes:
    """Like a resolver: ask again when nothing comes."""
    client.settimeout(0.3)
    for _ in range(100):
        client.send(text)
        with contextlib.suppress(TimeoutError):
            return client.recv(1 << 16)
    raise AssertionError("no answer to 100 datagrams")


def silence(client: socket.socket) -> bool:
    client.settimeout(0.3)
    try:
        client.recv(1 << 16)
    except (TimeoutError, ConnectionRefusedError):
        return True
    return False


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 9000, 16385, LONGEST])
def test_a_datagram_stays_one_whatever_its_size(engine: Engine, port: int, size: int) -> None:
    server = Datagrams("")
    engine.publish(udp_tables(port, server.backend()._replace(name="a")))
    text = bytes(range(256)) * 256
    with client_of(port) as client:
        assert exchange(client, text[:size]) == text[:size]
    assert [len(data) for _, data in server.heard] == [size]
    # Counted after it was sent, so it may be here first.
    wait_until(lambda: engine.stats()["services"]["s"]["a"]["bytes_out"] == size)
    counted = engine.stats()["services"]["s"]["a"]
    assert (counted["connections"], counted["bytes_in"]) == (1, size)
    assert not any(engine.stats()["udp"]["dropped"].values())


def test_many_at_once_keep_their_borders_and_their_order(engine: Engine, port: int) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend()))
    with client_of(port) as client:
        for turn in range(150):
            client.send(b"%d" % turn)
        assert [client.recv(100) for _ in range(150)] == [b"a%d" % turn for turn in range(150)]


def test_all_that_waited_for_the_start_is_served(port: int) -> None:
    """More than one turn takes, and no news of them come any more."""
    server = Datagrams("a")
    engine = Engine(connections=16)
    engine.publish(udp_tables(port, server.backend()))
    with client_of(port) as client:
        for turn in range(150):
            client.send(b"%d" % turn)
        engine.start()
        assert [client.recv(100) for _ in range(150)] == [b"a%d" % turn for turn in range(150)]
    engine.stop()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_client_keeps_its_backend_and_clients_spread(port: int, workers: int) -> None:
    servers = [Datagrams(name) for name in "abc"]
    with running(workers=workers) as engine, contextlib.ExitStack() as clients:
        tables = udp_tables(port, *(server.backend() for server in servers))
        engine.publish(tables)
        chosen = set()
        for _ in range(60):
            client = clients.enter_context(client_of(port))
            answers = {exchange(client) for _ in range(3)}
            assert len(answers) == 1
            chosen |= answers
        assert chosen == {b"ahello", b"bhello", b"chello"}
        upstreams = {sender for server in servers for sender, _ in server.heard}
        assert len(upstreams) == 60
        engine.publish(tables)  # a reload does not touch them
        assert exchange(client) in chosen
        assert {sender for server in servers for sender, _ in server.heard} == upstreams
        stats = engine.stats()
        assert stats["udp"]["sessions"] == 60
        assert stats["listeners"] == {f"127.0.0.1:{port}/udp": {"accepted": 60}}
        assert sum(each["active"] for each in stats["services"]["s"].values()) == 60
        assert engine.active() == engine.active_on("127.0.0.1") == 0


def test_every_node_chooses_alike(port: int) -> None:
    servers = [Datagrams(name) for name in "abcd"]
    with client_of(port) as client:
        answers = set()
        for _ in range(3):
            with running() as engine:
                engine.publish(udp_tables(port, *(server.backend() for server in servers)))
                answers.add(exchange(client))
    assert len(answers) == 1


def test_udp_and_tcp_live_side_by_side_on_one_port(engine: Engine, port: int) -> None:
    datagrams, streams = Datagrams("u"), Server()
    services = (
        Service("u", (datagrams.backend(),)),
        Service("t", (streams.backend("t"),)),
    )
    udp = Listener("127.0.0.1", port, "u", http=False, udp=True)
    tcp = Listener("127.0.0.1", port, "t", http=False)
    with client_of(port) as client:
        for listeners in ((udp, tcp), (udp,), (tcp, udp), (tcp,)):
            engine.publish(Tables(listeners, services, ()))
            if udp in listeners:
                assert exchange(client) == b"uhello"
            if tcp in listeners:
                assert ask(port) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            persistent(client)
        assert engine.stats()["udp"]["sessions"] == 0


def test_answers_come_from_the_address_that_was_asked(engine: Engine, port: int) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend(), address="0.0.0.0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.bind(("127.0.0.1", 0))
        for address in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
            client.sendto(b"hello", (address, port))
            assert client.recvfrom(100) == (b"ahello", (address, port))
    assert len({sender for sender, _ in server.heard}) == 3


def test_ipv6_clients_and_backends_mix_with_ipv4(engine: Engine, port: int) -> None:
    six, four = Datagrams("six", "::1"), Datagrams("four")
    for address in ("::1", "127.0.0.1"):
        for server in (six, four):
            engine.publish(udp_tables(port, server.backend(), address=address))
            with client_of(port, address) as client:
                assert exchange(client) == server.name.encode() + b"hello"


def test_what_is_too_long_for_the_backends_family_is_dropped_and_counted(
    engine: Engine, port: int
) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend(), address="::1"))
    with client_of(port, "::1") as client:
        client.send(bytes(LONGEST + 20))
        assert exchange(client) == b"ahello"
    assert engine.stats()["udp"]["dropped"]["unsent"] == 1


def test_what_was_sent_to_everybody_is_dropped_and_counted(engine: Engine, port: int) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend(), address="0.0.0.0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"who is there", ("127.255.255.255", port))
    wait_until(lambda: engine.stats()["udp"]["dropped"]["group"] == 1)
    assert server.heard == []


def refusing(name: str) -> Datagrams:
    server = Datagrams(name)
    server.close()
    return server


def test_a_backend_that_refuses_is_left_for_the_next_choice(engine: Engine, port: int) -> None:
    gone, good = refusing("gone"), Datagrams("good")
    engine.publish(udp_tables(port, gone.backend(), good.backend()))
    with contextlib.ExitStack() as clients:
        for _ in range(20):
            client = clients.enter_context(client_of(port))
            assert persistent(client) == b"goodhello"
        assert exchange(client) == b"goodhello"
    counted = engine.stats()["services"]["s"]
    assert 0 < counted["gone"]["connect_failures"] < 20
    assert counted["gone"]["active"] == 0
    assert counted["good"]["active"] == 20


def test_a_backend_that_goes_and_comes_back_is_chosen_again(engine: Engine, port: int) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend()))
    with client_of(port) as client:
        assert exchange(client) == b"ahello"
        server.close()
        client.send(b"lost")
        wait_until(lambda: engine.stats()["services"]["s"]["a"]["connect_failures"] == 1)
        client.send(b"lost too: nobody is left")
        wait_until(lambda: engine.stats()["udp"]["dropped"]["no_backend"] == 1)
        assert engine.stats()["udp"]["sessions"] == 0
        back = Datagrams("a", port=server.port)
        assert persistent(client) == b"ahello"
        back.close()


@pytest.mark.parametrize("change", ["down", "gone", "moved"])
def test_a_session_leaves_a_backend_that_the_tables_have_left(
    engine: Engine, port: int, change: str
) -> None:
    first, second = Datagrams("a"), Datagrams("b")
    other = Datagrams("a")
    engine.publish(udp_tables(port, first.backend()))
    with client_of(port) as client:
        assert exchange(client, b"1") == b"a1"
        backends = {
            "down": (first.backend(up=False), second.backend()),
            "gone": (second.backend(),),
            "moved": (other.backend(),),
        }[change]
        engine.publish(udp_tables(port, *backends))
        assert exchange(client, b"2") == b"%s2" % backends[-1].name.encode()
    assert [data for _, data in first.heard] == [b"1"]
    assert engine.stats()["udp"]["sessions"] == 1


def test_a_session_stays_where_no_new_one_is_to_go(engine: Engine, port: int) -> None:
    first, second = Datagrams("a"), Datagrams("b")
    engine.publish(udp_tables(port, first.backend()))
    with client_of(port) as old, client_of(port) as new:
        assert exchange(old) == b"ahello"
        engine.publish(udp_tables(port, first.backend(weight=0), second.backend()))
        assert exchange(old) == b"ahello"
        assert exchange(new) == b"bhello"


def test_sessions_come_from_the_sources_of_their_service(engine: Engine, port: int) -> None:
    server = Datagrams("a")
    tables = udp_tables(port)
    sources = ("127.0.0.2", "127.0.0.3", "::1")
    engine.publish(tables._replace(services=(Service("s", (server.backend(),), sources=sources),)))
    with contextlib.ExitStack() as clients:
        for _ in range(30):
            assert exchange(clients.enter_context(client_of(port))) == b"ahello"
    assert {sender.partition(":")[0] for sender, _ in server.heard} == {"127.0.0.2", "127.0.0.3"}


def test_a_client_is_remembered_where_that_is_asked_for(engine: Engine, port: int) -> None:
    servers = [Datagrams(name) for name in "abcdef"]
    few, all_of_them = (
        udp_tables(port)._replace(
            services=(
                Service(
                    "s",
                    tuple(server.backend() for server in some),
                    affinity=True,
                    affinity_timeout_ms=60_000,
                ),
            )
        )
        for some in (servers[:1], servers)
    )
    engine.publish(few)
    with client_of(port) as client:
        assert exchange(client) == b"ahello"
    engine.publish(all_of_them)
    for _ in range(5):
        with client_of(port) as client:
            assert exchange(client) == b"ahello"


def test_a_session_follows_its_listener_to_another_service(engine: Engine, port: int) -> None:
    servers = [Datagrams("a"), Datagrams("b")]
    services = tuple(Service(server.name, (server.backend(),)) for server in servers)
    with client_of(port) as client:
        for name in "aba":
            listener = Listener("127.0.0.1", port, name, http=False, udp=True)
            engine.publish(Tables((listener,), services, ()))
            assert exchange(client) == name.encode() + b"hello"


def test_without_a_backend_nothing_happens_but_counting(engine: Engine, port: int) -> None:
    engine.publish(udp_tables(port))
    with client_of(port) as client:
        client.send(b"x")
        wait_until(lambda: engine.stats()["udp"]["dropped"]["no_backend"] == 1)
        assert silence(client)
    assert engine.stats()["udp"]["sessions"] == 0


def test_the_oldest_makes_room_and_rather_one_that_was_never_answered(port: int) -> None:
    server = Datagrams("a")
    with running(connections=3) as engine, contextlib.ExitStack() as clients:
        engine.publish(udp_tables(port, server.backend()))
        made = [clients.enter_context(client_of(port)) for _ in range(5)]
        for client in made[:2]:
            assert exchange(client) == b"ahello"
        server.silent = True
        for turn, client in enumerate(made[2:], 1):
            client.send(b"x")
            wait_until(lambda turn=turn: len(server.heard) == 2 + turn)
        assert engine.stats()["udp"]["evicted"] == {"table_full": 2, "client_limit": 0}
        assert engine.stats()["udp"]["sessions"] == 3
        server.silent = False
        senders = {sender for sender, _ in server.heard}
        for client in made[:2]:
            assert exchange(client) == b"ahello"
        assert {sender for sender, _ in server.heard} == senders
        assert exchange(made[2]) == b"ahello"
        assert engine.stats()["udp"]["evicted"]["table_full"] == 3


def cut(engine: Engine) -> None:
    engine.cut("127.0.0.1")


def withdraw(engine: Engine) -> None:
    engine.publish(Tables((), (), ()))


@pytest.mark.parametrize("end", [cut, withdraw, Engine.drain])
def test_sessions_end_with_a_cut_with_their_listener_and_with_a_drain(
    engine: Engine, port: int, end: Callable[[Engine], object]
) -> None:
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend()))
    with client_of(port) as client:
        assert exchange(client) == b"ahello"
        end(engine)
        wait_until(lambda: engine.stats()["udp"]["sessions"] == 0)
        if end is cut:
            assert exchange(client) == b"ahello"
            assert len({sender for sender, _ in server.heard}) == 2


def test_a_udp_port_in_use_is_named_and_tcp_is_another_matter(engine: Engine) -> None:
    for reuse in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            if reuse:
                taken.setsockopt(socket.SOL_SOCKET, reuse, 1)
            busy = free_udp_port()
            taken.bind(("127.0.0.1", busy))
            with pytest.raises(ListenError) as caught:
                engine.publish(udp_tables(busy))
            assert caught.value.errno == errno.EADDRINUSE
            assert caught.value.filename == f"127.0.0.1:{busy}/udp"
            assert (caught.value.port, caught.value.udp) == (busy, True)
            engine.publish(
                Tables((Listener("127.0.0.1", busy, "s", http=False),), (Service("s", ()),), ())
            )
    listener = Listener("127.0.0.1", busy, "g", http=True, udp=True)
    with pytest.raises(ValueError, match=rf"listener 127\.0\.0\.1:{busy}/udp: HTTP"):
        engine.publish(Tables((listener,), (), ()))
