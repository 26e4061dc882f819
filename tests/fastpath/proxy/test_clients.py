"""The table of clients against a dictionary of counts and an ordered one of memories."""

from __future__ import annotations

import threading
from ipaddress import IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")

CAPACITY = 5
# 192.0.2.2 is there in both of its forms, as in a PROXY header; the first two of the second row
# are one client when counted.
CLIENTS = [
    *("192.0.2.1", "192.0.2.2", "192.0.2.3", "::ffff:c000:202"),
    *("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fd00::1", "fd00::2", "fe80::1", "fe80::2"),
]
IPV4 = IPv6Network("::ffff:0:0/96")
ON_LINK = [IPv6Network("fe80::/10"), IPv6Network("fc00::/7")]
STEP = st.tuples(
    st.sampled_from(["enter", "leave", "remember", "recall"]),
    st.tuples(st.integers(1, 2), st.sampled_from(CLIENTS)),
    st.integers(0, 3),
)


def whole(client: str) -> int:
    """Its address in 128 bits."""
    address = ip_address(client)
    return int(address) + (0xFFFF << 32 if address.version == 4 else 0)


def counted(client: str) -> int:
    """What it is counted by."""
    if any(IPv6Address(whole(client)) in network for network in [*ON_LINK, IPV4]):
        return whole(client)
    return whole(client) >> 64 << 64


class Model:
    """What the table should say."""

    def __init__(self) -> None:
        self.open: dict[tuple[int, int], int] = {}
        self.backends: dict[tuple[int, int], tuple[int, int]] = {}  # the last used one last

    def room(self) -> bool:
        """Make room for one; whether there is."""
        if len(self.open) + len(self.backends) < CAPACITY:
            return True
        if not self.backends:
            return False
        del self.backends[next(iter(self.backends))]
        return True

    def enter(self, key: tuple[int, int], limit: int) -> bool:
        """Count one more, if it may be."""
        if self.open.get(key, 0) >= limit or (key not in self.open and not self.room()):
            return False
        self.open[key] = self.open.get(key, 0) + 1
        return True

    def leave(self, key: tuple[int, int]) -> None:
        """Count one less."""
        self.open[key] -= 1
        if self.open[key] == 0:
            del self.open[key]

    def remember(self, key: tuple[int, int], backend: int, now: int) -> None:
        """Keep it as the one used last, if there is room."""
        if self.backends.pop(key, None) is not None or self.room():
            self.backends[key] = (backend, now)


@settings(max_examples=400)
@given(steps=st.lists(STEP, max_size=60))
def test_clients_are_counted_while_open_and_the_oldest_memory_makes_room(
    steps: list[tuple[str, tuple[int, str], int]],
) -> None:
    table, model = probe.Clients(CAPACITY), Model()
    held: list[tuple[int, tuple[int, int]]] = []
    for now, (what, (service, client), number) in enumerate(steps, 1_000):
        key = (service, counted(client))
        remembered = (service, whole(client))
        if what == "enter":
            entered = table.enter(service, client, number)
            assert (entered is not None) == model.enter(key, number)
            if entered is not None:
                held.append((entered, key))
        elif what == "leave" and held:
            entered, key = held.pop(number % len(held))
            table.leave(entered)
            model.leave(key)
        elif what == "remember":
            table.remember(service, client, number, now)
            model.remember(remembered, number, now)
        elif what == "recall":
            backend, then = model.backends.get(remembered, (None, 0))
            for timeout in (1, 10, 1_000):
                expected = backend if now - then < timeout else None
                assert table.recall(service, client, timeout, now) == expected
        assert table.n == len(model.open) + len(model.backends)
    while held:
        table.leave(held.pop()[0])
    assert table.n == len(model.backends)


def test_an_ipv4_client_is_one_of_its_own_in_both_of_its_forms() -> None:
    """A regression: all that a PROXY header gave as ::ffff:a.b.c.d counted as one."""
    table = probe.Clients(10)
    assert table.enter(1, "::ffff:192.0.2.1", 1) is not None
    assert table.enter(1, "::ffff:192.0.2.2", 1) is not None
    assert table.enter(1, "192.0.2.2", 1) is None


def test_as_many_clients_as_there_is_room_for_are_counted_and_no_memory_is_in_their_way() -> None:
    table = probe.Clients(1000)
    for number in range(2000):
        table.remember(1, f"10.0.{number >> 8}.{number & 255}", number, number)
    assert table.n == 1000
    held = [table.enter(1, f"10.1.{number >> 8}.{number & 255}", 1) for number in range(1000)]
    assert None not in held
    assert table.enter(1, "10.2.0.0", 1) is None  # full of open ones
    assert table.recall(1, "10.0.7.207", 1000, 1999) is None
    table.leave(held.pop())
    assert table.enter(1, "10.2.0.0", 1) is not None


def test_a_memory_from_a_worker_whose_clock_is_ahead_counts() -> None:
    table = probe.Clients(4)
    table.remember(1, "192.0.2.1", 7, 1_000)
    assert table.recall(1, "192.0.2.1", 50, 998) == 7


@pytest.mark.parametrize("capacity", [400, 2])
def test_counts_come_out_even_when_several_threads_enter_and_leave(capacity: int) -> None:
    table = probe.Clients(capacity)
    results: list[tuple[int, int]] = []
    threads = [
        threading.Thread(
            target=lambda seed=seed: results.append(table.churn(1_000_000, 20, 5, seed))
        )
        for seed in range(1, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for entered, refused in results:
        assert entered > 0
        assert refused > 0
    # Nothing is counted any more: each client may have as many as before, and no more.
    assert table.n <= 20
    assert [table.enter(1, "0.0.0.7", 5) is not None for _ in range(6)] == [True] * 5 + [False]
