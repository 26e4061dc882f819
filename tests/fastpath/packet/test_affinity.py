"""What is remembered of clients against a plain model: of each set, those used last."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fastpath.packet.flow_model import address

REASON = "built with PIAGENT_PROBE=1 only"
probe = pytest.importorskip("fastpath.packet._affinity_probe", reason=REASON)
hashing = pytest.importorskip("fastpath.hashing._probe", reason=REASON)

KEY = bytes(range(16))
START = 1_000_000
TIMEOUT = 1000

Entry = tuple[bytes, int]
"""Client and service."""


class Model:
    """All that ever was remembered; what is still known of it is found by looking at everything."""

    def __init__(self, n_sets: int) -> None:
        self.n_sets = n_sets
        self.known: dict[Entry, tuple[int, int]] = {}

    def set_of(self, entry: Entry) -> int:
        client, service = entry
        return int(hashing.siphash13(KEY, client + service.to_bytes(8, "little")) % self.n_sets)

    def remember(self, entry: Entry, backend: int, now: int) -> None:
        self.known[entry] = now, backend

    def recall(self, entry: Entry, timeout: int, now: int) -> int | None:
        if entry not in self.known:
            return None
        used, backend = self.known[entry]
        newer = [
            one
            for one, (then, _) in self.known.items()
            if then > used and self.set_of(one) == self.set_of(entry)
        ]
        if len(newer) >= probe.AFFINITY_WAYS or now >= used + timeout:
            return None
        return backend


CLIENT = st.one_of(
    st.integers(1, 20).map(lambda i: address(f"192.0.2.{i}")),
    st.integers(1, 8).map(lambda i: bytes.fromhex("20010db8") + bytes([*[0] * 11, i])),
)
STEP = st.tuples(
    st.booleans(),
    st.tuples(CLIENT, st.sampled_from([0, 1, 2**64 - 1])),
    st.integers(0, 2**64 - 1),
    st.one_of(st.integers(1, 5), st.sampled_from([TIMEOUT - 1, TIMEOUT])),
)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, max_size=80), capacity=st.integers(0, 40))
def test_a_client_is_remembered_as_the_model_remembers_it(
    steps: list[tuple[bool, Entry, int, int]], capacity: int
) -> None:
    affinity = probe.Affinity(capacity)
    model = Model(affinity.n_sets)
    now = START
    for is_new, entry, backend, passed in steps:
        now += passed
        if is_new:
            affinity.remember(*entry, backend, now)
            model.remember(entry, backend, now)
        assert affinity.recall(*entry, TIMEOUT, now) == model.recall(entry, TIMEOUT, now)
    for entry in list(model.known):
        for timeout in (0, 1, 2**32 - 1):
            assert affinity.recall(*entry, timeout, now) == model.recall(entry, timeout, now)


def test_who_is_used_the_longest_ago_makes_room() -> None:
    affinity = probe.Affinity(probe.AFFINITY_WAYS)
    clients = [address(f"192.0.2.{i}") for i in range(probe.AFFINITY_WAYS + 1)]
    for i, client in enumerate(clients[:-1]):
        affinity.remember(client, 1, i, START + i)
    affinity.remember(clients[0], 1, 77, START + 100)
    affinity.remember(clients[-1], 1, 88, START + 101)
    found = [affinity.recall(client, 1, TIMEOUT, START + 102) for client in clients]
    assert found == [77, None, *range(2, probe.AFFINITY_WAYS), 88]


def test_more_than_memory_can_be_had_for_is_refused() -> None:
    with pytest.raises(MemoryError):
        probe.Affinity((1 << 20) + 1)
