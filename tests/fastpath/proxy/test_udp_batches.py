"""UDP through the engine many datagrams at a time: borders, order, and as how many messages."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import stat
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings

from fastpath.engine import Backend, Engine, Listener, Service, Tables
from tests.fastpath.bursts import BURSTS, LONGEST, Burst
from tests.fastpath.peers import PATIENCE_S, running, udp_tables
from tests.net import free_udp_port
from tests.waiting import wait_until

SO_NO_CHECK = 11
ROOM = 1 << 20


def datagrams(address: str) -> socket.socket:
    """A bound socket with room for what comes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    bound.settimeout(PATIENCE_S)
    bound.bind((address, 0))
    return bound


def backend_of(bound: socket.socket, name: str = "a") -> Backend:
    address, port, *_ = bound.getsockname()
    return Backend(name, address, port, 1, up=True)


def received(one: socket.socket, count: int) -> list[bytes]:
    return [one.recv(1 << 17) for _ in range(count)]


class Path(NamedTuple):
    """A client with a session to a backend, the test itself at both ends."""

    engine: Engine
    client: socket.socket
    backend: socket.socket
    upstream: tuple[str, int]
    """The engine's end of the session."""

    @property
    def segments(self) -> tuple[int, int]:
        """Datagrams that the engine received and sent several in one message."""
        counted = self.engine.stats()["udp"]["segments"]
        return counted["received"], counted["sent"]


@contextlib.contextmanager
def path(listening: str = "127.0.0.1", behind: str = "127.0.0.1") -> Iterator[Path]:
    port = free_udp_port(listening)
    with running() as engine, datagrams(listening) as client, datagrams(behind) as backend:
        engine.publish(udp_tables(port, backend_of(backend), address=listening))
        client.connect((listening, port))
        client.send(b"?")
        _, upstream, *_ = backend.recvfrom(10)
        yield Path(engine, client, backend, upstream)


FAMILIES = [
    pytest.param("127.0.0.1", "127.0.0.1", id="4-4"),
    pytest.param("::1", "::1", id="6-6"),
    pytest.param("127.0.0.1", "::1", id="4-6"),
    pytest.param("::1", "127.0.0.1", id="6-4"),
]


@pytest.mark.parametrize(("listening", "behind"), FAMILIES)
def test_datagrams_of_any_sizes_keep_their_borders_and_order_both_ways(
    listening: str, behind: str
) -> None:
    with path(listening, behind) as way:

        @settings(max_examples=60, deadline=None)
        @given(requests=BURSTS, answers=BURSTS)
        def check(requests: list[Burst], answers: list[Burst]) -> None:
            asked = itertools.chain.from_iterable(
                burst.send(way.client, first=7 * i) for i, burst in enumerate(requests)
            )
            answered = itertools.chain.from_iterable(
                burst.send(way.backend, way.upstream, first=9 * i)
                for i, burst in enumerate(answers)
            )
            for sent, taker in ((list(asked), way.backend), (list(answered), way.client)):
                assert received(taker, len(sent)) == sent

        check()
        assert way.engine.stats()["udp"]["sessions"] == 1
        assert not any(way.engine.stats()["udp"]["dropped"].values())


def test_what_waits_together_goes_on_as_one_message() -> None:
    """The engine starts when they are there, so it does take them together."""
    port = free_udp_port()
    engine = Engine(connections=16)
    with datagrams("127.0.0.1") as client, datagrams("127.0.0.1") as backend:
        engine.publish(udp_tables(port, backend_of(backend)))
        client.connect(("127.0.0.1", port))
        sent = Burst(100, 40, 30, together=False).send(client)
        engine.start()
        assert received(backend, 41) == sent
        wait_until(lambda: engine.stats()["udp"]["segments"] == {"received": 0, "sent": 41})
        engine.stop()


def test_what_comes_as_one_message_goes_on_as_one_both_ways() -> None:
    with path() as way:
        burst = Burst(1000, 60, 7, together=True)
        sent = burst.send(way.client)
        assert received(way.backend, 61) == sent
        wait_until(lambda: way.segments == (61, 61))
        sent = burst.send(way.backend, way.upstream, first=3)
        assert received(way.client, 61) == sent
        wait_until(lambda: way.segments == (122, 122))
        counted = way.engine.stats()["services"]["s"]["a"]
        assert (counted["bytes_in"], counted["bytes_out"]) == (60_008, 60_007)
        assert counted["connections"] == 1


def refuse_merging(address: tuple[str, int]) -> None:
    """The engine's sockets that are bound there: without checksums this kernel has to refuse."""
    found = 0
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # closed meanwhile, or not bound
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as one:
                if one.type == socket.SOCK_DGRAM and one.getsockname()[:2] == address[:2]:
                    one.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
                    found += 1
    assert found


def test_where_the_kernel_does_not_merge_they_go_one_by_one_and_none_is_lost() -> None:
    with path() as way:
        refuse_merging(way.upstream)
        refuse_merging(way.client.getpeername())
        for turn in range(3):
            sent = Burst(1700, 30, 7, together=True).send(way.client, first=turn)
            assert received(way.backend, 31) == sent
            sent = Burst(1700, 30, 7, together=True).send(way.backend, way.upstream, first=turn)
            assert received(way.client, 31) == sent
        wait_until(lambda: way.segments == (186, 0))
        assert not any(way.engine.stats()["udp"]["dropped"].values())


def test_the_longest_of_ipv6_goes_where_there_is_room_for_it() -> None:
    text = bytes(65527)
    with path("::1", "::1") as way:
        way.client.send(text)
        assert way.backend.recv(1 << 17) == text
        way.backend.sendto(text, way.upstream)
        assert way.client.recv(1 << 17) == text
    with path("::1", "127.0.0.1") as way:
        for size in (LONGEST + 1, 5, len(text), 6):
            way.client.send(text[:size])
        assert [len(data) for data in received(way.backend, 2)] == [5, 6]
        assert way.engine.stats()["udp"]["dropped"]["unsent"] == 2
        # What the kernel has to say of that does not keep answers from being heard.
        way.backend.sendto(b"answer", way.upstream)
        assert way.client.recv(100) == b"answer"
        assert way.engine.stats()["udp"]["sessions"] == 1


def test_answers_leave_by_the_listener_that_was_asked() -> None:
    """Of several services in one turn, as they come."""
    ports = [free_udp_port(), free_udp_port()]
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(datagrams("127.0.0.1")) for _ in ports]
        engine = stack.enter_context(running())
        engine.publish(
            Tables(
                tuple(
                    Listener("127.0.0.1", port, str(port), http=False, udp=True) for port in ports
                ),
                tuple(
                    Service(str(port), (backend_of(backend),))
                    for port, backend in zip(ports, backends, strict=True)
                ),
                (),
            )
        )
        ways = []
        for turn in range(8):
            client = stack.enter_context(datagrams("127.0.0.1"))
            client.connect(("127.0.0.1", ports[turn % 2]))
            client.send(b"?")
            ways.append((client, backends[turn % 2], backends[turn % 2].recvfrom(10)[1]))
        for turn in range(30):
            for index, (_, backend, upstream) in enumerate(ways):
                for part in (b"", b"+"):
                    backend.sendto(b"%d %d" % (turn, index) + part, upstream)
            for index, (client, _, _) in enumerate(ways):
                text = b"%d %d" % (turn, index)
                assert received(client, 2) == [text, text + b"+"]
