"""Batches of datagrams from socket to socket: merged where that is allowed, and no border lost."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings

from tests.fastpath.bursts import BURSTS, HEAD_SIZE, UDP_GRO, Burst

probe = pytest.importorskip("fastpath.proxy._udp_probe", reason="built with PIAGENT_PROBE=1 only")


class Road(NamedTuple):
    """Sender -> entry, which is forwarded by exit -> receiver."""

    sender: socket.socket
    entry: socket.socket
    exit: socket.socket
    receiver: socket.socket

    def received(self) -> list[bytes]:
        """All that has come out."""
        datagrams = []
        with contextlib.suppress(BlockingIOError):
            while True:
                datagrams.append(self.receiver.recv(1 << 17, socket.MSG_DONTWAIT))
        return datagrams


@contextlib.contextmanager
def road(address: str) -> Iterator[Road]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        sender, entry, leaving, receiver = (
            stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(4)
        )
        for one, other in ((sender, entry), (leaving, receiver)):
            other.bind((address, 0))
            one.connect(other.getsockname())
            other.setblocking(False)
        entry.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        leaving.setblocking(False)
        yield Road(sender, entry, leaving, receiver)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_every_datagram_goes_out_as_it_came_in(address: str, apart: bool) -> None:
    passage = probe.Passage()
    with road(address) as through:

        @settings(max_examples=150, deadline=None)
        @given(bursts=BURSTS)
        def check(bursts: list[Burst]) -> None:
            sent = list(
                itertools.chain.from_iterable(
                    burst.send(through.sender, first=7 * i) for i, burst in enumerate(bursts)
                )
            )
            received = []
            while True:
                taken, _, refused = passage.forward(
                    through.entry.fileno(), through.exit.fileno(), apart
                )
                assert refused == apart
                received += through.received()
                if taken == 0:
                    break
            assert received == sent

        check()


def merged(through: Road, bursts: list[Burst]) -> tuple[int, int]:
    """How many messages came, and how many left."""
    passage = probe.Passage()
    for burst in bursts:
        burst.send(through.sender)
    taken, left, refused = passage.forward(through.entry.fileno(), through.exit.fileno(), False)
    assert not refused
    assert len(through.received()) == sum(len(burst.sizes) for burst in bursts)
    return taken, left


@pytest.mark.parametrize(
    ("bursts", "messages"),
    [
        ([Burst(200, 16, 0, together=False)], (16, 1)),
        ([Burst(200, 16, 100, together=False)], (17, 1)),
        # What is shorter ends a message; what is longer begins another one.
        ([Burst(200, 2, 100, together=False), Burst(200, 2, 0, together=False)], (5, 2)),
        ([Burst(200, 2, 0, together=False), Burst(201, 2, 0, together=False)], (4, 2)),
        ([Burst(0, 3, 0, together=False)], (3, 3)),
        ([Burst(100, 2, 0, together=False), Burst(0, 1, 0, together=False)], (3, 2)),
        # As the kernel put them together, and with more of the same size.
        ([Burst(200, 16, 100, together=True)], (1, 1)),
        ([Burst(200, 16, 0, together=True), Burst(200, 9, 0, together=True)], (2, 1)),
        ([Burst(200, 16, 100, together=True), Burst(200, 9, 0, together=True)], (2, 2)),
        ([Burst(200, 16, 0, together=True), Burst(50, 3, 0, together=True)], (2, 2)),
        ([Burst(200, 16, 0, together=True), Burst(50, 1, 0, together=False)], (2, 1)),
        # No more of them and no more bytes than every kernel takes.
        ([Burst(10, 60, 0, together=True), Burst(10, 10, 0, together=True)], (2, 2)),
        ([Burst(10, 60, 0, together=True), Burst(10, 4, 0, together=True)], (2, 1)),
        ([Burst(1000, 40, 0, together=True), Burst(1000, 26, 0, together=True)], (2, 2)),
    ],
)
def test_equal_ones_in_a_row_become_one_message(
    bursts: list[Burst], messages: tuple[int, int]
) -> None:
    with road("127.0.0.1") as through:
        assert merged(through, bursts) == messages


def test_a_kernel_that_does_not_merge_is_asked_once_and_nothing_is_lost() -> None:
    no_check = 11  # SO_NO_CHECK: udp(7) segments with checksums only, so this kernel refuses
    passage = probe.Passage()
    with road("127.0.0.1") as through:
        through.exit.setsockopt(socket.SOL_SOCKET, no_check, 1)
        for burst in (Burst(3000, 5, 70, together=True), Burst(200, 9, 0, together=False)):
            sent = burst.send(through.sender)
            _, left, refused = passage.forward(through.entry.fileno(), through.exit.fileno(), False)
            assert (left, refused) == (1, True)
            assert through.received() == sent


def test_nothing_is_received_beyond_what_there_is_room_for() -> None:
    """Long ones fill a batch sooner than short ones, and all come through in the end."""
    passage = probe.Passage()
    with road("127.0.0.1") as through:
        through.entry.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sent = Burst(8000, 12, 0, together=False).send(through.sender)
        counts = []
        received: list[bytes] = []
        while len(received) < len(sent):
            taken, _, _ = passage.forward(through.entry.fileno(), through.exit.fileno(), False)
            assert taken > 0
            counts.append(taken)
            received += through.received()
        assert received == sent
        assert counts == [8, 4]


def test_the_tests_know_where_the_joint_is() -> None:
    assert probe.HEAD_SIZE == HEAD_SIZE
