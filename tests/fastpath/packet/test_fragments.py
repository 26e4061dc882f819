"""The ports of later fragments against a dictionary of what came when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fastpath.packet.flow_model import UDP, address

REASON = "built with PIAGENT_PROBE=1 only"
probe = pytest.importorskip("fastpath.packet._flows_probe", reason=REASON)

AGAIN = -1
START = 1_000_000
VIP = address("10.0.0.100")

Key = tuple[bytes, bytes, bytes, bytes]


def key_of(client: int, identification: int, protocol: int = UDP) -> Key:
    """What tells a client's packet."""
    source = address(f"192.0.2.{client}")
    return source, VIP, identification.to_bytes(4, "little"), bytes([protocol])


KEY = st.builds(key_of, st.integers(1, 3), st.integers(1, 4), st.sampled_from([6, 17]))
STEP = st.tuples(
    st.sampled_from(["first", "first", "later", "later", "later"]),
    KEY,
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    st.one_of(st.sampled_from([0, 1, 29_999, 30_000]), st.integers(0, 3000)),
)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, max_size=60), capacity=st.integers(0, 64))
def test_a_fragment_gets_its_own_packets_ports_or_none(
    steps: list[tuple[str, Key, tuple[int, int], int]], capacity: int
) -> None:
    fragments = probe.Fragments(capacity)
    known: dict[Key, tuple[tuple[int, int], int]] = {}
    now = START
    for what, key, ports, passed in steps:
        now += passed
        if what == "first":
            fragments.add(key, ports, now)
            known[key] = ports, now
            assert fragments.find(key, now) == ports
        elif key in known and now - known[key][1] < probe.FRAGMENT_MS:
            assert fragments.find(key, now) in {known[key][0], AGAIN}
        else:
            assert fragments.find(key, now) == AGAIN


@pytest.mark.parametrize(("n_ids", "capacity"), [(3, 4), (4, 4)])
def test_as_many_as_a_set_has_room_for_are_all_found(n_ids: int, capacity: int) -> None:
    fragments = probe.Fragments(capacity)
    assert fragments.n_sets == 1
    for i in range(n_ids):
        fragments.add(key_of(1, i), (i, 80), START + i)
    assert [fragments.find(key_of(1, i), START + 9) for i in range(n_ids)] == [
        (i, 80) for i in range(n_ids)
    ]


def test_the_oldest_of_a_set_makes_room() -> None:
    fragments = probe.Fragments(4)
    for i in [3, 1, 0, 2]:
        fragments.add(key_of(1, i), (i, 80), START + i)
    fragments.add(key_of(1, 0), (0, 80), START + 10)  # the same packet again: now the newest
    fragments.add(key_of(1, 9), (9, 80), START + 11)
    assert fragments.find(key_of(1, 1), START + 11) == AGAIN
    assert [fragments.find(key_of(1, i), START + 11) for i in [0, 2, 3, 9]] == [
        (i, 80) for i in [0, 2, 3, 9]
    ]


def test_two_clients_with_one_identification_are_two() -> None:
    fragments = probe.Fragments(64)
    fragments.add(key_of(1, 7), (1, 80), START)
    fragments.add(key_of(2, 7), (2, 80), START)
    fragments.add(key_of(1, 7, 6), (3, 80), START)
    assert fragments.find(key_of(1, 7), START) == (1, 80)
    assert fragments.find(key_of(2, 7), START) == (2, 80)
    assert fragments.find(key_of(1, 7, 6), START) == (3, 80)


def test_a_flood_leaves_a_recent_packet_its_ports_as_long_as_there_is_room() -> None:
    fragments = probe.Fragments(1024)
    for i in range(100_000):
        fragments.add(key_of(1 + i % 250, i), (i % 65536, 80), START + i)
    now = START + 100_000
    recent = [
        i
        for i in range(99_800, 100_000)
        if fragments.find(key_of(1 + i % 250, i), now) == (i % 65536, 80)
    ]
    assert len(recent) > 190  # 200 in 256 sets of four
    found = sum(fragments.find(key_of(1 + i % 250, i), now) != AGAIN for i in range(100_000))
    assert found == 1024


def test_a_key_that_is_all_zero_is_nobodys() -> None:
    fragments = probe.Fragments(4)
    assert fragments.find((bytes(16), bytes(16), bytes(4), bytes(1)), 0) == AGAIN


def test_more_than_there_may_be_is_refused() -> None:
    with pytest.raises(MemoryError):
        probe.Fragments(2**20 + 1)
