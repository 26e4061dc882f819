"""NAT ports against a dictionary of who has which and since when others rest."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fastpath.packet.flow_model import TCP, UDP, flow_key

REASON = "built with PIAGENT_PROBE=1 only"
probe = pytest.importorskip("fastpath.packet._flows_probe", reason=REASON)

OK, FULL, BAD, PORTS = 0, -2, -3, -5
START = 1_000_000
S = 1000


def peer(i: int, protocol: int = TCP, ours: str = "10.0.0.1") -> bytes:
    """Replies of the i-th backend; the destination port does not count."""
    return flow_key(f"10.0.1.{i}", 8080, ours, 9, protocol)


class Rest(NamedTuple):
    """A port that was given back."""

    since: int
    may_hurry: bool


def has_rested(rest: Rest, now: int) -> bool:
    """Ports of one span of time are freed together."""
    span = probe.PORT_SPAN_MS
    return rest.since // span + probe.PORT_REST_MS // span + 1 <= now // span


class Model:
    """The ports of one peer."""

    def __init__(self, ports: range) -> None:
        self.ports = ports
        self.used: set[int] = set()
        self.rests: dict[int, Rest] = {}

    def go_on(self, now: int) -> None:
        """Free what has rested."""
        self.rests = {p: rest for p, rest in self.rests.items() if not has_rested(rest, now)}

    def may_take(self) -> set[int]:
        """Those that one may get now."""
        free = set(self.ports) - self.used - set(self.rests)
        return free or {port for port, rest in self.rests.items() if rest.may_hurry}

    def expected(self, hash_: int) -> int:
        """The first of these from where the hash says."""
        may = self.may_take()
        if not may:
            return PORTS
        start = (hash_ >> 32) * len(self.ports) >> 32
        turned = [*self.ports[start:], *self.ports[:start]]
        return next(port for port in turned if port in may)


STEP = st.tuples(
    st.sampled_from(["take", "take", "take", "give", "give", "claim"]),
    st.integers(0, 1),
    st.integers(0, 2**64 - 1),
    st.one_of(st.sampled_from([0, 0, 0, 1, 19_999, 60_000, 79_999]), st.integers(0, 200_000)),
    st.booleans(),
    st.sampled_from([0, 0, 19_999, 59_999, 60_000, 79_999, 80_000, 10**9]),
)


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(STEP, max_size=120),
    first=st.integers(10_000, 10_010),
    size=st.sampled_from([1, 2, 3, 63, 64, 65, 70, 130]),
    n_workers=st.integers(1, 3),
    worker=st.integers(0, 2),
)
def test_ports_are_given_out_as_the_model_does(
    steps: list[tuple[str, int, int, int, bool, int]],
    first: int,
    size: int,
    n_workers: int,
    worker: int,
) -> None:
    worker %= n_workers
    last = first + size * n_workers - 1
    ports = probe.NatPorts(first, last, worker, n_workers)
    own = [port for port in range(first, last + 1) if port % n_workers == worker]
    models = [Model(range(own[0], own[-1] + 1, n_workers)) for _ in range(2)]
    assert ports.n_ports == len(models[0].ports) == size
    now = START
    for what, who, hash_, passed, may_hurry, silent in steps:
        now += passed
        model = models[who]
        model.go_on(now)
        if what == "take":
            got = ports.take(peer(who), hash_, now)
            assert got == model.expected(hash_)
            if got > 0:
                model.rests.pop(got, None)
                model.used.add(got)
        elif what == "claim":
            port = own[hash_ % size]
            free = port not in model.used
            assert ports.claim(peer(who), port, now) == (OK if free else PORTS)
            if free:
                model.rests.pop(port, None)
                model.used.add(port)
        elif model.used:
            port = sorted(model.used)[hash_ % len(model.used)]
            ports.give(peer(who), port, silent, may_hurry, now)
            model.used.remove(port)
            model.rests[port] = Rest(max(0, now - silent), may_hurry)
            model.go_on(now)


def test_a_port_rests_for_two_msl_and_at_most_a_span_longer() -> None:
    for begin in range(START, START + probe.PORT_SPAN_MS, 500):
        ports = probe.NatPorts(10_000, 10_000)
        assert ports.take(peer(0), 0, begin) == 10_000
        ports.give(peer(0), 10_000, 0, False, begin)
        assert ports.take(peer(0), 0, begin + 59_999) == PORTS
        assert ports.take(peer(0), 0, begin + 80_000) == 10_000


def test_a_port_that_may_hurry_is_taken_at_once_only_when_nothing_else_is_left() -> None:
    ports = probe.NatPorts(10_000, 10_001)
    assert {ports.take(peer(0), 0, START), ports.take(peer(0), 0, START)} == {10_000, 10_001}
    ports.give(peer(0), 10_001, 0, False, START)
    assert ports.take(peer(0), 0, START) == PORTS
    ports.give(peer(0), 10_000, 0, True, START)
    assert ports.take(peer(0), 0, START) == 10_000


def test_different_backends_protocols_and_addresses_of_ours_do_not_share_ports() -> None:
    ports = probe.NatPorts(10_000, 10_000)
    peers = [peer(0), peer(1), peer(0, UDP), peer(0, TCP, "10.0.0.2")]
    assert [ports.take(each, 0, START) for each in peers] == [10_000] * 4
    assert [ports.take(each, 0, START) for each in peers] == [PORTS] * 4


def test_workers_have_ports_of_their_own_and_all_of_them_together() -> None:
    taken: set[int] = set()
    for worker in range(4):
        ports = probe.NatPorts(10_001, 10_100, worker, 4)
        own = {ports.take(peer(0), i << 58, START) for i in range(ports.n_ports)}
        assert {port % 4 for port in own} == {worker}
        assert not own & taken
        taken |= own
    assert taken == set(range(10_001, 10_101))


def test_where_the_search_begins_is_the_hashs_business() -> None:
    ports = probe.NatPorts(10_000, 26_383)
    drawn = [ports.take(peer(0), i * 0x9E3779B97F4A7C15 % 2**64, START) for i in range(1000)]
    assert len(set(drawn)) == 1000
    assert max(drawn) - min(drawn) > 16_000
    assert sum(b == a + 1 for a, b in pairwise(drawn)) < 10


def test_a_pool_that_nobody_is_in_any_more_serves_another_backend() -> None:
    ports = probe.NatPorts(10_000, 10_063, n_pools=2)
    assert ports.take(peer(0), 0, START) == 10_000
    assert ports.take(peer(1), 0, START) == 10_000
    assert ports.take(peer(2), 0, START) == FULL
    ports.give(peer(1), 10_000, 0, False, START)
    assert ports.take(peer(2), 0, START + 1) == FULL  # the port rests
    assert ports.take(peer(2), 0, START + 80 * S) == 10_000
    assert ports.take(peer(0), 0, START + 80 * S) == 10_001
    assert ports.take(peer(1), 0, START + 80 * S) == FULL


@pytest.mark.parametrize(
    "wrong", [(0, 9), (10, 9), (10_000, 10_000, 1, 2), (10_000, 10_001, 2, 2), (1, 2, 0, 1, 0)]
)
def test_a_range_without_ports_is_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="-3"):
        probe.NatPorts(*wrong)


def test_the_range_may_reach_to_the_last_port() -> None:
    ports = probe.NatPorts(1, 65_535)
    assert ports.n_ports == 65_535
    assert ports.take(peer(0), 2**64 - 1, START) == 65_535
    assert ports.take(peer(0), 2**64 - 1, START) == 1


def test_a_port_of_another_worker_cannot_be_claimed() -> None:
    ports = probe.NatPorts(10_000, 10_009, 0, 2)
    assert [ports.claim(peer(0), port, START) for port in [10_000, 10_001, 9998, 10_010]] == [
        OK,
        BAD,
        BAD,
        BAD,
    ]
