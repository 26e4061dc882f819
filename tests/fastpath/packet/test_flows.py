"""The flow table against a plain model of it, and each of its rules by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.packet.verdicts import FLOW_ENDS, FLOW_STATES
from tests.fastpath.packet.flow_model import (
    ACK,
    FIN,
    PATIENCE_MS,
    REFRESH_MS,
    RST,
    SYN,
    TCP,
    UDP,
    Admit,
    Model,
    Segment,
    State,
    Why,
    flow_key,
)

REASON = "built with PIAGENT_PROBE=1 only"
probe = pytest.importorskip("fastpath.packet._flows_probe", reason=REASON)

OK, FULL, TAKEN, DONE = 0, -2, -3, 1
VIP, OURS = "10.0.0.100", "10.0.0.1"
STAYS, TO_CARRY, TO_RECALL = 0, 1, 2
START = 1_000_000


def client(i: int, protocol: int = TCP) -> bytes:
    """The key of packets from the i-th client to the VIP."""
    return flow_key(f"192.0.2.{i % 256}", 40000 + i // 256, VIP, 80, protocol)


def answer(i: int, protocol: int = TCP) -> bytes:
    """The key of replies that come to our i-th port."""
    return flow_key("10.0.0.11", 8080, OURS, 10000 + i, protocol)


class Both:
    """The table and its model, given the same."""

    def __init__(self, new_max: int, confirmed_max: int) -> None:
        self.table = probe.Flows(new_max, confirmed_max, uses=True)
        self.model = Model(new_max, confirmed_max)
        self.now = START

    def packet(self, original: bytes, reply: bytes | None, way: int, tcp: Segment | None) -> None:
        """What the forwarder does with one."""
        key = reply if way and reply else original
        flags = tcp[0] if tcp else 0
        admitted = self.table.admit(key, reply is not None, flags, self.now)
        assert admitted == self.model.admit(key, nat=reply is not None, flags=flags, now=self.now)
        if admitted == Admit.ANEW:
            self.table.remove(original, Why.RESELECTED)
            self.model.remove(self.model.keys[original][0], Why.RESELECTED)
        if admitted in {Admit.NEW, Admit.ANEW}:
            if way:
                return  # nobody adds a flow for the other side's packets
            backend = original[15] % 3
            added = self.table.add(original, reply, flags, backend, self.now)
            assert added == (
                OK if self.model.add(original, reply, flags, backend, self.now) else TAKEN
            )
        if key in self.model.keys:
            flow, found_way = self.model.keys[key]
            said = self.table.seen(key, tcp, self.now)
            assert said == self.model.seen(flow, found_way, tcp, self.now)

    def kernel(self, key: bytes) -> None:
        """The flow cache has carried a packet."""
        if key in self.model.keys:
            self.table.use(key, self.now * 1_000_000)
            self.model.keys[key][0].used = self.now

    def sweep(self) -> None:
        """A whole one."""
        assert self.table.sweep(self.now, 1000) == DONE
        self.model.sweep(self.now)

    def backend_gone(self, slot: int) -> None:
        """A step at a time."""
        gone = [flow for flow in self.model.flows() if flow.backend == slot]
        for flow in gone:
            self.model.remove(flow, Why.BACKEND_DOWN)
        for left in reversed(range(len(gone))):
            assert self.table.remove_backend(slot, Why.BACKEND_DOWN, 1) == left

    def compare(self) -> None:
        """Everything that can be seen of them."""
        for state in State:
            expected = [flow.original for flow in self.model.order[state]]
            assert self.table.order(state) == expected, state
        flows = self.model.flows()
        for key, (flow, way) in self.model.keys.items():
            assert self.table.find(key) == (flow.original, way)
            state, seen, backend, _ = self.table.look(key)
            assert (state, seen, backend) == (flow.state, flow.seen, flow.backend)
        assert sorted(everyone(self.table)) == sorted(flow.original for flow in flows)
        for slot in range(3):
            names = sorted(flow.original for flow in flows if flow.backend == slot)
            assert sorted(self.table.of_backend(slot)) == names
            assert self.table.count_of(slot) == len(names)
        assert sorted(self.table.ended()) == sorted(self.model.ended)
        self.model.ended.clear()
        _, new, confirmed, _ = self.table.counters()
        assert (new + confirmed, confirmed) == (
            len(flows),
            sum(flow.state >= State.CLOSED for flow in flows),
        )


def everyone(table: probe.Flows) -> list[bytes]:
    """All flows, in steps."""
    names, (name, cursor) = [], table.next(0)
    while name is not None:
        names.append(name)
        name, cursor = table.next(cursor)
    return names


# Few clients, and fewer ports of ours, so that all meet. Acknowledgments: of the SYN, wrong, late.
FLAGS = st.sampled_from([SYN, SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST, RST | ACK, FIN, 0])
TCP_SEEN = st.tuples(
    FLAGS, st.sampled_from([7, 2**32 - 1]), st.sampled_from([8, 0, 65543, 65544, 2**31])
)
STEP = st.tuples(
    st.sampled_from(["packet"] * 12 + ["kernel", "kernel", "sweep", "gone"]),
    st.integers(0, 11),
    st.integers(0, 1),
    TCP_SEEN,
    st.one_of(
        st.sampled_from([0, 1, 999, 1000, 1999, 2000, 3999, 4000, 10_000, 11_000]),
        st.integers(0, 200_000),
        st.integers(0, 20_000_000),
    ),
)


def parties(i: int) -> tuple[bytes, bytes | None, bool]:
    """Original and reply key of the i-th flow, and whether it is TCP."""
    protocol = TCP if i % 3 else UDP
    return client(i, protocol), answer(i % 5, protocol) if i % 2 else None, protocol == TCP


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(STEP, min_size=30, max_size=90),
    new_max=st.integers(1, 6),
    confirmed_max=st.integers(1, 4),
)
def test_the_table_does_what_its_model_does(
    steps: list[tuple[str, int, int, Segment, int]], new_max: int, confirmed_max: int
) -> None:
    both = Both(new_max, confirmed_max)
    for what, i, way, tcp, passed in steps:
        both.now += passed
        original, reply, is_tcp = parties(i)
        if what == "packet":
            both.packet(original, reply, way, tcp if is_tcp else None)
        elif what == "kernel":
            both.kernel(reply if way and reply else original)
        elif what == "sweep":
            both.sweep()
        else:
            both.backend_gone(i % 3)
        both.compare()


# ---- the rules one by one ----


def handshake(table: probe.Flows, i: int, now: int, *, nat: bool = True) -> None:
    """From SYN to established."""
    reply = answer(i) if nat else None
    assert table.add(client(i), reply, SYN, 0, now) == OK
    assert table.seen(client(i), (SYN, 5, 0), now) == STAYS
    if reply:
        assert table.seen(reply, (SYN | ACK, 70, 6), now) == STAYS
    assert table.seen(client(i), (ACK, 6, 71), now) == TO_CARRY
    assert table.look(client(i))[0] == State.ESTABLISHED


def test_a_flow_has_256_bytes() -> None:
    assert probe.FLOW_SIZE == 256


def test_states_and_ends_have_names() -> None:
    assert len(FLOW_STATES) == len(State) == probe.FLOW_STATES
    assert len(FLOW_ENDS) == len(Why) == probe.FLOW_ENDS
    assert [name.replace("-", "_").upper() for name in FLOW_STATES] == [s.name for s in State]
    assert [name.replace("-", "_").upper() for name in FLOW_ENDS] == [why.name for why in Why]


@pytest.mark.parametrize("state", State)
def test_timeouts_are_those_of_the_model(state: State) -> None:
    assert probe.patience_ms(state) == PATIENCE_MS[state]


def test_no_room_is_refused() -> None:
    for sizes in [(0, 1), (1, 0), (2**20 + 1, 1)]:
        with pytest.raises(MemoryError):
            probe.Flows(*sizes)


def test_half_open_flows_never_take_the_place_of_established_ones() -> None:
    table = probe.Flows(16, 16)
    for i in range(16):
        handshake(table, i, START)
    for i in range(1000, 3000):
        assert table.add(client(i), answer(i), SYN, 0, START + 1) == OK
    assert all(table.find(client(i)) for i in range(16))
    _, new, confirmed, ended = table.counters()
    assert (new, confirmed) == (16, 16)
    assert ended[Why.EVICTED_NEW] == 1984
    assert ended[Why.EVICTED_CONFIRMED] == 0


def test_what_is_over_makes_room_before_what_is_idle_for_longer() -> None:
    table = probe.Flows(4, 3)
    for i in range(3):
        handshake(table, i, START + i)
    table.seen(client(2), (RST, 6, 0), START + 10)
    handshake(table, 3, START + 20)
    assert table.ended() == [(client(2), Why.EVICTED_CONFIRMED)]
    handshake(table, 4, START + 30)
    assert table.ended() == [(client(0), Why.EVICTED_CONFIRMED)]


@pytest.mark.parametrize("acknowledgment", [70, 0, 71 + 65536, 2**31 + 71])
def test_who_does_not_know_the_backends_syn_establishes_nothing(acknowledgment: int) -> None:
    table = probe.Flows(4, 4)
    table.add(client(0), answer(0), SYN, 0, START)
    table.seen(answer(0), (SYN | ACK, 70, 6), START)
    assert table.seen(client(0), (ACK, 6, acknowledgment), START) == STAYS
    assert table.look(client(0))[0] == State.HALF_OPEN


@pytest.mark.parametrize("acknowledgment", [71, 71 + 65535])
def test_the_clients_first_ack_may_be_lost(acknowledgment: int) -> None:
    table = probe.Flows(4, 4)
    table.add(client(0), answer(0), SYN, 0, START)
    table.seen(answer(0), (SYN | ACK, 70, 6), START)
    assert table.seen(client(0), (ACK, 6, acknowledgment), START) == TO_CARRY


def test_nat_takes_up_no_connection_in_the_middle() -> None:
    table = probe.Flows(4, 4)
    for flags in range(64):
        begins = flags & (SYN | ACK | RST | FIN) == SYN
        expected = Admit.NEW if begins else Admit.NONE
        assert table.admit(client(0), True, flags, START) == expected
    assert table.admit(client(0, UDP), True, 0, START) == Admit.NEW


def test_dsr_takes_up_a_connection_that_goes_on_and_sends_everything_else_by_maglev() -> None:
    table = probe.Flows(4, 4)
    for flags in range(64):
        kind = flags & (SYN | ACK | RST | FIN)
        expected = Admit.NEW if kind in {SYN, ACK} else Admit.STATELESS
        assert table.admit(client(0), False, flags, START) == expected


def test_what_was_taken_up_is_confirmed_when_it_goes_on_two_seconds_later() -> None:
    table = probe.Flows(4, 4)
    table.add(client(0), None, ACK, 0, START)
    assert table.seen(client(0), (ACK, 6, 71), START) == STAYS
    assert table.seen(client(0), (ACK, 6, 71), START + 1999) == STAYS
    assert table.seen(client(0), (ACK, 6, 71), START + 2000) == TO_CARRY


def test_who_joins_a_connection_at_its_end_confirms_nothing() -> None:
    table = probe.Flows(4, 4)
    table.add(client(0), None, ACK, 0, START)
    assert table.seen(client(0), (FIN | ACK, 6, 71), START + 5000) == STAYS
    assert table.look(client(0))[0] == State.ABORTED


def test_a_datagram_that_is_answered_confirms_nothing_until_the_client_goes_on() -> None:
    table = probe.Flows(4, 4)
    table.add(client(0, UDP), answer(0, UDP), 0, 0, START)
    assert table.seen(client(0, UDP), None, START) == STAYS
    assert table.seen(answer(0, UDP), None, START) == STAYS
    assert table.seen(answer(0, UDP), None, START) == STAYS
    assert table.seen(client(0, UDP), None, START) == TO_CARRY
    assert table.look(client(0, UDP))[0] == State.STREAM


def test_a_later_fragment_of_a_segment_changes_nothing_but_the_time() -> None:
    table = probe.Flows(4, 4)
    for i, flags, state in [(0, SYN, State.HALF_OPEN), (1, ACK, State.UNREPLIED)]:
        table.add(client(i), None, flags, 0, START)
        assert table.seen(client(i), None, START + 5000) == STAYS
        assert table.look(client(i))[:2] == (state, START + 5000)


@pytest.mark.parametrize(
    ("passed", "expected"),
    [(0, Admit.BY_FLOW), (3999, Admit.BY_FLOW), (4000, Admit.ANEW), (60_000, Admit.ANEW)],
)
@pytest.mark.parametrize("established", [False, True])
def test_a_syn_begins_anew_unless_it_may_be_sent_again_or_be_forged(
    passed: int, expected: Admit, *, established: bool
) -> None:
    table = probe.Flows(4, 4)
    if established:
        handshake(table, 0, START)
    else:
        table.add(client(0), answer(0), SYN, 0, START)
        table.seen(client(0), (SYN, 5, 0), START)
    assert table.admit(client(0), True, SYN, START + passed) == expected


def test_a_forged_syn_ends_nothing_that_the_kernel_carries() -> None:
    table = probe.Flows(4, 4, uses=True)
    handshake(table, 0, START)
    table.use(answer(0), (START + 100_000) * 1_000_000)
    assert table.admit(client(0), True, SYN, START + 103_999) == Admit.BY_FLOW
    assert table.admit(client(0), True, SYN, START + 104_000) == Admit.ANEW


def test_a_backend_cannot_begin_anew() -> None:
    table = probe.Flows(4, 4)
    table.add(client(0), answer(0), SYN, 0, START)
    assert table.admit(answer(0), True, SYN, START + 10_000) == Admit.BY_FLOW


def test_a_syn_after_the_clients_end_begins_anew_at_once() -> None:
    for flags, way in [(FIN | ACK, 0), (RST, 0), (RST, 1)]:
        table = probe.Flows(4, 4)
        handshake(table, 0, START)
        said = table.seen(answer(0) if way else client(0), (flags, 6, 71), START)
        assert said == TO_RECALL
        assert table.admit(client(0), True, SYN, START) == Admit.ANEW
    table = probe.Flows(4, 4)
    handshake(table, 0, START)
    assert table.seen(answer(0), (FIN | ACK, 71, 6), START) == TO_RECALL
    assert table.admit(client(0), True, SYN, START) == Admit.BY_FLOW


def test_a_reset_that_was_none_ends_nothing() -> None:
    table = probe.Flows(4, 4)
    handshake(table, 0, START)
    assert table.seen(client(0), (RST, 1, 0), START) == TO_RECALL
    assert table.seen(client(0), (ACK, 6, 71), START + 1999) == STAYS
    assert table.seen(answer(0), (ACK, 71, 6), START + 2000) == TO_CARRY


def test_a_reset_is_remembered_for_ten_seconds_whatever_comes_right_after_it() -> None:
    table = probe.Flows(4, 4)
    handshake(table, 0, START)
    table.seen(client(0), (RST, 1, 0), START)
    table.seen(answer(0), (ACK, 71, 6), START + 1500)
    assert table.sweep(START + 10_999, 10) == DONE
    assert table.find(client(0))
    assert table.sweep(START + 11_000, 10) == DONE
    assert table.ended() == [(client(0), Why.EXPIRED)]


def test_fins_of_both_sides_end_it_sooner() -> None:
    table = probe.Flows(4, 4)
    handshake(table, 0, START)
    assert table.seen(client(0), (FIN | ACK, 6, 71), START) == TO_RECALL
    assert table.look(client(0))[0] == State.CLOSING
    assert table.seen(answer(0), (FIN | ACK, 71, 7), START) == STAYS
    assert table.look(client(0))[0] == State.DONE


def test_two_flows_never_share_a_reply() -> None:
    table = probe.Flows(4, 4)
    assert table.add(client(0), answer(0), SYN, 0, START) == OK
    assert table.add(client(1), answer(0), SYN, 0, START) == TAKEN
    assert table.add(client(0), answer(1), SYN, 0, START) == TAKEN
    assert table.add(client(2), client(2), SYN, 0, START) == TAKEN
    assert table.add(answer(0), None, SYN, 0, START) == TAKEN
    assert everyone(table) == [client(0)]
    assert table.find(client(1)) is None


def test_what_the_kernel_carries_does_not_age() -> None:
    table = probe.Flows(4, 4, uses=True)
    handshake(table, 0, START)
    handshake(table, 1, START)
    later = START + PATIENCE_MS[State.ESTABLISHED] + REFRESH_MS
    table.use(answer(0), (later - 10) * 1_000_000)
    assert table.sweep(later, 10) == DONE
    assert table.ended() == [(client(1), Why.EXPIRED)]
    assert table.look(client(0))[1] == later - 10


def test_what_the_kernel_carries_is_not_evicted_for_a_lack_of_packets_here() -> None:
    table = probe.Flows(4, 2, uses=True)
    handshake(table, 0, START)
    handshake(table, 1, START + 1)
    table.use(client(0), (START + 50) * 1_000_000)
    handshake(table, 2, START + 100)
    assert table.ended() == [(client(1), Why.EVICTED_CONFIRMED)]


def test_the_kernels_counts_of_an_earlier_flow_are_not_those_of_the_next() -> None:
    table = probe.Flows(1, 1, uses=True)
    handshake(table, 0, START)
    uses = table.look(client(0))[3]
    table.use(client(0), 10**18)
    table.use(answer(0), 10**18)
    table.remove(client(0), Why.STOPPED)
    handshake(table, 1, START)
    assert table.look(client(1))[3] == uses
    assert table.last_uses(client(1)) == [0, 0]


def test_a_sweep_looks_at_no_more_than_it_may_and_leaves_no_state_out() -> None:
    table = probe.Flows(64, 64)
    for i in range(60):
        table.add(client(i), None, SYN, 0, START)
    handshake(table, 100, START, nat=False)
    table.seen(client(100), (RST, 1, 0), START)
    now = START + 100_000
    for _ in range(8):
        assert table.sweep(now, 1) == OK
    assert (client(100), Why.EXPIRED) in table.ended()
    assert len(everyone(table)) == 61 - 8


def test_beyond_the_rate_of_new_flows_dsr_keeps_none_and_nat_does() -> None:
    table = probe.Flows(4, 4, new_per_s=100)
    admitted = [table.admit(client(i), False, SYN, START) for i in range(50)]
    assert admitted == [Admit.NEW] * 11 + [Admit.STATELESS] * 39
    assert table.admit(client(0), True, SYN, START) == Admit.NEW
    assert table.admit(client(0), False, SYN, START + 10) == Admit.NEW
    assert table.admit(client(0), False, SYN, START + 10) == Admit.STATELESS


def test_a_flow_of_another_node_goes_on_here_and_takes_nobodys_place() -> None:
    table = probe.Flows(4, 2)
    handshake(table, 0, START)
    assert table.adopt(client(1), answer(1), State.ESTABLISHED, 1, START) == OK
    assert table.find(answer(1)) == (client(1), 1)
    assert table.look(client(1))[:3] == (State.ESTABLISHED, START, 1)
    assert table.counters()[:3] == (2, 0, 2)
    assert table.adopt(client(2), answer(2), State.ESTABLISHED, 1, START) == FULL
    assert table.find(client(2)) is None
    table.remove(client(0), Why.STOPPED)
    assert table.adopt(client(2), answer(1), State.ESTABLISHED, 1, START) == TAKEN
    assert table.adopt(client(2), answer(2), State.HALF_OPEN, 1, START) == TAKEN
    assert table.seen(answer(1), (FIN | ACK, 9, 9), START) == TO_RECALL
    assert table.count_of(1) == 1


def test_where_no_port_is_left_the_longest_silent_flow_that_may_gives_way() -> None:
    table = probe.Flows(8, 8)
    handshake(table, 0, START)
    table.add(client(1), None, SYN, 0, START)
    table.add(client(2), answer(2), SYN, 1, START)
    table.add(client(3, UDP), answer(3, UDP), 0, 0, START)
    table.add(client(4), answer(4), SYN, 0, START + 3)
    handshake(table, 5, START + 2)
    table.seen(client(5), (RST, 6, 0), START + 2)
    table.add(client(6), answer(6), SYN, 0, START + 4)
    assert not table.give_way(0, TCP, 0)
    assert [table.give_way(0, TCP, 9) for _ in range(4)] == [True, True, True, False]
    assert table.ended() == [
        (client(5), Why.EVICTED_CONFIRMED),
        (client(4), Why.EVICTED_NEW),
        (client(6), Why.EVICTED_NEW),
    ]
    assert table.give_way(0, UDP, 9)
    assert not table.give_way(1, TCP, 1)
    assert table.give_way(1, TCP, 2)
    assert sorted(everyone(table)) == [client(0), client(1)]


def test_all_flows_come_once_each_while_others_come_and_go() -> None:
    table = probe.Flows(300, 300)
    for i in range(300):
        table.add(client(i), answer(i), SYN, i % 3, START)
    stay = {client(i) for i in range(0, 300, 2)}
    names, cursor = [], 0
    for step in range(1, 10_000):
        name, cursor = table.next(cursor)
        if name is None:
            break
        names.append(name)
        if step < 150:
            table.remove(client(2 * step - 1), Why.STOPPED)
            table.add(client(1000 + step), None, SYN, 0, START)
    assert [name for name in names if name in stay] != []
    assert sorted(name for name in names if name in stay) == sorted(stay)
    assert len(names) == len(set(names))


def test_a_few_flows_among_many_gone_all_come() -> None:
    table = probe.Flows(300, 1)
    for i in range(300):
        table.add(client(i), None, SYN, 0, START)
    stay = [client(i) for i in [0, 62, 63, 70, 127, 200, 299]]
    for i in range(300):
        if client(i) not in stay:
            table.remove(client(i), Why.STOPPED)
    assert everyone(table) == stay


def test_a_full_table_finds_every_flow_after_any_number_of_changes() -> None:
    table = probe.Flows(2000, 1)
    for turn in range(5):
        for i in range(2000):
            assert table.add(client(i), answer(i), SYN, 0, START) == OK
        for i in range(0, 2000, 3 + turn):
            table.remove(client(i), Why.STOPPED)
        for i in range(2000):
            expected = None if i % (3 + turn) == 0 else client(i)
            assert table.find(client(i)) == (expected and (expected, 0))
            assert table.find(answer(i)) == (expected and (expected, 1))
        while table.remove_backend(0, Why.STOPPED, 100):
            pass
        assert everyone(table) == []
