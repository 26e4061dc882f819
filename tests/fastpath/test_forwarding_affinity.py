"""Clients that stay with their backend while the set of backends changes; others would move."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence

import pytest

from fastpath.forwards import Target
from fastpath.numbering import MAX_BACKENDS
from piagent.adapters import netns
from tests.adapters.two_hosts import run
from tests.fastpath.forwarding_lab import CLIENT, PORT, VIPS, Lab, backend_address, serving
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
CLIENTS = [f"10.9.0.{i}" for i in range(101, 131)]
FORGED = "198.18.0.0/15"
LONG_MS = 60_000
hows = pytest.mark.parametrize("how", ["nat", "dsr"])


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Three backends, and 64 clients at most that are remembered."""
    with netns.Network("pa-affine") as network, Lab(network, 3, flows=64) as built:
        for address in CLIENTS:
            built.client.add_address(f"{address}/24")
        yield built


@contextlib.contextmanager
def backends(lab: Lab, how: str, *, udp: bool = False) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number, host in enumerate(lab.backends, 1):
            if how == "dsr":
                lab.accept_vip(number)
                # What a forged source is answered has a way to go.
                run(host, "ip", "route", "add", FORGED, "via", CLIENT[4])
            address = VIPS[4] if how == "dsr" else backend_address(number)
            says = f"b{number}".encode().__add__
            stack.enter_context(serving(host, address, udp=udp, says=says))
        yield


def went_to(lab: Lab, client: str, *, udp: bool = False) -> str:
    """The backend that a new connection from that address gets; one is long gone when it ends."""
    with lab.client.entered():
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    with asking:
        asking.bind((client, 0))
        asking.settimeout(10)
        asking.connect((VIPS[4], PORT))
        for _ in range(2):  # the client goes on after an answer
            said = answer_to(asking)
        if not udp:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return said[:2].decode()


def answer_to(asking: socket.socket) -> bytes:
    """What comes back; a datagram may be lost, in a queue that is full say."""
    if asking.type == socket.SOCK_STREAM:
        asking.send(b"?")
        return asking.recv(100)
    asking.settimeout(0.5)
    for _ in range(40):
        asking.send(b"?")
        with contextlib.suppress(TimeoutError):
            return asking.recv(100)
    raise TimeoutError


def all_went_to(lab: Lab, *, udp: bool = False) -> dict[str, str]:
    return {client: went_to(lab, client, udp=udp) for client in CLIENTS}


def publish(
    lab: Lab, how: str, targets: Sequence[Target], affinity_ms: int, **more: object
) -> None:
    lab.publish(lab.forward(how, targets=targets, affinity_ms=affinity_ms, **more))


@hows
def test_clients_stay_when_a_backend_joins_or_leaves(lab: Lab, how: str) -> None:
    two, three = [lab.target(i) for i in (1, 2)], [lab.target(i) for i in (1, 2, 3)]
    publish(lab, how, two, LONG_MS)
    with backends(lab, how):
        before = all_went_to(lab)
        assert set(before.values()) == {"b1", "b2"}
        publish(lab, how, three, LONG_MS)
        assert all_went_to(lab) == before
        publish(lab, how, three[1:], LONG_MS)
        after = all_went_to(lab)
        assert {client for client in CLIENTS if after[client] != before[client]} == {
            client for client in CLIENTS if before[client] == "b1"
        }


def test_without_a_memory_some_move_when_a_backend_joins(lab: Lab) -> None:
    publish(lab, "nat", [lab.target(i) for i in (1, 2)], 0)
    with backends(lab, "nat"):
        before = all_went_to(lab)
        assert all_went_to(lab) == before
        publish(lab, "nat", [lab.target(i) for i in (1, 2, 3)], 0)
        moved = {client for client, name in all_went_to(lab).items() if name != before[client]}
    assert 0 < len(moved) < len(CLIENTS)


def test_the_clients_of_a_drained_backend_go_elsewhere_and_stay_there(lab: Lab) -> None:
    every = [lab.target(i) for i in (1, 2, 3)]
    drained = [every[0]._replace(weight=0), *every[1:]]
    publish(lab, "nat", every, LONG_MS)
    with backends(lab, "nat"):
        before = all_went_to(lab)
        publish(lab, "nat", drained, LONG_MS)
        between = all_went_to(lab)
        publish(lab, "nat", every, LONG_MS)
        after = all_went_to(lab)
    assert "b1" in before.values()
    assert "b1" not in between.values()
    assert all(between[c] == before[c] for c in CLIENTS if before[c] != "b1")
    assert after == between


def test_a_backend_of_the_same_name_that_was_gone_between_is_another_one(lab: Lab) -> None:
    """Nobody is glued to it for what its name did before."""
    both = [lab.target(i) for i in (1, 2)]
    publish(lab, "nat", both[:1], LONG_MS)
    with backends(lab, "nat"):
        assert set(all_went_to(lab).values()) == {"b1"}
        publish(lab, "nat", both[1:], LONG_MS)
        publish(lab, "nat", both, LONG_MS)
        assert set(all_went_to(lab).values()) == {"b1", "b2"}


def test_who_gets_the_number_of_a_backend_that_is_gone_gets_none_of_its_clients(lab: Lab) -> None:
    """Numbers are given to the next one when all have been in use."""
    first, second, third = (lab.target(i) for i in (1, 2, 3))
    publish(lab, "nat", [first], LONG_MS)
    with backends(lab, "nat"):
        assert set(all_went_to(lab).values()) == {"b1"}
        n_left = MAX_BACKENDS - 2
        while n_left > 0:
            names = [f"{n_left - i}" for i in range(min(n_left, 2000))]
            others = [first._replace(name=name, weight=0) for name in names]
            publish(lab, "nat", [second, *others], LONG_MS)
            n_left -= len(names)
        publish(lab, "nat", [second, third], LONG_MS)
        assert set(all_went_to(lab).values()) == {"b2", "b3"}


def test_a_memory_that_is_too_old_counts_for_nothing(lab: Lab) -> None:
    both = [lab.target(i) for i in (1, 2)]
    publish(lab, "nat", both[:1], 300)
    with backends(lab, "nat"):
        assert set(all_went_to(lab).values()) == {"b1"}
        time.sleep(0.4)
        publish(lab, "nat", both, 300)
        assert set(all_went_to(lab).values()) == {"b1", "b2"}


def forged(protocol: int, number: int) -> bytes:
    """A SYN or a datagram from an address that nobody has, for a socket with IP_HDRINCL."""
    source = socket.inet_aton(f"198.18.{number // 250}.{1 + number % 250}")
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, protocol, 0, source, bytes(4))
    header = header[:16] + socket.inet_aton(VIPS[4])
    if protocol == socket.IPPROTO_UDP:
        return header + struct.pack("!HHHH", 1234, PORT, 8, 0)
    return header + struct.pack("!HHIIBBHHH", 1234, PORT, number, 0, 0x50, 0x02, 1000, 0, 0)


@hows
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_a_flood_from_forged_sources_has_nobody_forgotten(lab: Lab, how: str, udp: bool) -> None:
    """There are 64 places. With dsr, who sends datagrams is known after going on for 2 s."""
    both = [lab.target(i) for i in (1, 2)]
    publish(lab, how, both[:1], LONG_MS, udp=udp)
    n_forged = 2000
    chosen = random.Random(1).sample(CLIENTS, 8)
    with backends(lab, how, udp=udp):
        if how == "dsr" and udp:
            confirm_datagrams(lab, chosen)
        assert {went_to(lab, client, udp=udp) for client in chosen} == {"b1"}
        with lab.client.entered():
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        name = f"web-4-{udp}"
        before = lab.stats(name)["sent"]
        with raw:
            for i in range(n_forged):
                raw.sendto(forged(17 if udp else 6, i), (VIPS[4], 0))
        wait_until(
            lambda: lab.stats(name)["sent"] - before > n_forged // 2,
            "most of the flood came through",
        )
        publish(lab, how, both[1:] + both[:1], LONG_MS, udp=udp)
        assert {went_to(lab, client, udp=udp) for client in chosen} == {"b1"}


def confirm_datagrams(lab: Lab, clients: Sequence[str]) -> None:
    """Have their flows go on for long enough to be believed."""
    with lab.client.entered(), contextlib.ExitStack() as stack:
        asking = []
        for client in clients:
            one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            one.bind((client, 0))
            one.connect((VIPS[4], PORT))
            asking.append(one)
        for pause_s in (2.2, 0):
            for one in asking:
                answer_to(one)
            time.sleep(pause_s)
