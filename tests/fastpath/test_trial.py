"""A trial decides as the forwarder does, about any frame, and sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.forwards import HOWS, Forward, Target
from fastpath.packet.conversation import ACK, SYN, Ends, Segment, frame, headers, told_mtu
from fastpath.packet.verdicts import FORWARDED
from fastpath.trial import Taken, Trial
from tests.fastpath.packet.frames import UDP, Ports, ether, ip, ipv4, summed, udp

KEY = bytes(range(16))
CLIENT, VIP, PORT = "192.0.2.7", "198.51.100.1", 443
CLIENTS_IF, BACKENDS_IF = 2, 3
MAC_US, MAC_PEER = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
MAC_B, MAC_OUT = bytes.fromhex("0200000000ee"), bytes.fromhex("0200000000dd")
ENDS = Ends(CLIENT, 40000, VIP, PORT)


def target(number: int = 1, **more: Any) -> Target:
    return Target(
        name=f"b{number}", address=f"10.0.0.{number}", port=8080, weight=1, up=True,
        interface=BACKENDS_IF, mac=MAC_B, own_mac=MAC_OUT, source=VIP, mtu=1500,
    )._replace(**more)  # fmt: skip


def forward(how: str = "nat", *targets: Target, **more: Any) -> Forward:
    return Forward("web", VIP, PORT, False, how, targets or (target(),))._replace(**more)


def trial(*forwards: Forward, **more: Any) -> Trial:
    return Trial(forwards, hash_key=KEY, interface=CLIENTS_IF, mtu=1500, **more)


def said(flags: int = SYN, ends: Ends = ENDS, **more: Any) -> bytes:
    return frame(ends, (MAC_US, MAC_PEER), Segment(flags), **more)


def taken(made: Trial, sent: bytes) -> tuple[str, str | None, str | None]:
    told = made.take(sent)
    return told.verdict, told.forward, told.backend


# ---- how the way of a frame ends: each of FORWARDED ----
# But "unsent", which takes an interface, and "lease-over", which takes an agent.


def test_a_new_flow_goes_to_a_backend() -> None:
    told = trial(forward()).take(said())
    assert (told.verdict, told.kind, told.backend, told.table) == ("sent", "flow", "b1", "b1")
    assert [each.interface for each in told.out] == [BACKENDS_IF]
    went = headers(told.out[0].frame)
    assert (went.destination_mac, went.source_mac, went.ttl) == (MAC_B, MAC_OUT, 63)
    assert (went.ends.source, went.ends.destination) == (VIP, "10.0.0.1")
    assert went.ends.destination_port == 8080


def test_what_no_forward_has_is_passed_to_the_kernels_stack() -> None:
    made = trial(forward())
    assert taken(made, said(ends=ENDS._replace(destination_port=444))) == ("passed", None, None)
    assert taken(made, said(ends=ENDS._replace(udp=True))) == ("passed", None, None)
    assert made.take(ether(bytes(46), kind=0x0806)).kind == "not-ip"


def datagram(ends: Ends, data: bytes) -> bytes:
    ports = Ports(ends.source_port, ends.destination_port)
    return summed(ends.source, ends.destination, UDP, udp(ports, data))


def test_a_later_fragment_is_held_and_goes_after_the_first_one() -> None:
    made = trial(forward(udp=True))
    whole = datagram(ENDS._replace(udp=True), bytes(2000))
    later = ether(ipv4(CLIENT, VIP, UDP, whole[1400:], fragment=1400 // 8))
    first = ether(ipv4(CLIENT, VIP, UDP, whole[:1400], fragment=0x2000))
    assert made.take(later)[:2] == ("held", "fragment")
    told = made.take(first)
    assert (told.verdict, len(told.out)) == ("sent", 2)
    assert [len(each.frame) for each in told.out] == [len(first), len(later)]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (said()[:40], "truncated"),
        (said(ends=ENDS._replace(source="127.0.0.1")), "source"),
        (said(ends=ENDS._replace(source=VIP, source_port=PORT)), "land"),
    ],
)
def test_what_nobody_should_carry_is_malformed_and_it_says_how(bad: bytes, kind: str) -> None:
    told = trial(forward()).take(bad)
    assert (told.verdict, told.kind, told.backend, told.out) == ("malformed", kind, None, ())


def test_a_source_has_to_be_allowed_and_may_be_no_vip() -> None:
    made = trial(forward(allowed=("10.0.0.0/8",)))
    assert taken(made, said()) == ("source-not-allowed", "web", None)
    other = forward(name="other", address="198.51.100.2", port=53)
    made = trial(forward(), other)
    spoofed = ENDS._replace(source="198.51.100.2", source_port=53)
    assert taken(made, said(ends=spoofed)) == ("source-not-allowed", "web", None)


def test_nat_takes_up_nothing_in_its_midst_and_dsr_does() -> None:
    assert taken(trial(forward("nat")), said(ACK)) == ("no-flow", "web", None)
    assert taken(trial(forward("dsr")), said(ACK)) == ("sent", "web", "b1")


@pytest.mark.parametrize(
    "lost", [{"up": False}, {"weight": 0}, {"interface": 0}], ids=["down", "weight", "unreachable"]
)
def test_without_a_backend_there_is_none(lost: dict[str, Any]) -> None:
    assert taken(trial(forward("nat", target(**lost))), said()) == ("no-backend", "web", None)


def test_dsr_takes_no_client_to_itself() -> None:
    itself = said(ends=ENDS._replace(source="10.0.0.1"))
    assert taken(trial(forward("dsr")), itself) == ("no-backend", "web", None)
    assert taken(trial(forward("nat")), itself) == ("sent", "web", "b1")


def test_when_every_port_of_ours_is_taken_there_is_none() -> None:
    """The one is of a flow that is established; else it would have to give way."""
    made = trial(forward(), ports=(50000, 50000))
    went = headers(made.take(said()).out[0].frame)
    macs = went.source_mac, went.destination_mac
    assert made.take(frame(went.ends.reverse, macs, Segment(SYN | ACK, 5000, 1))).verdict == "sent"
    assert made.take(frame(ENDS, (MAC_US, MAC_PEER), Segment(ACK, 1, 5001))).verdict == "sent"
    assert taken(made, said(ends=ENDS._replace(source_port=2))) == ("no-port", "web", None)


def test_a_vip_that_is_about_to_move_takes_no_new_flow() -> None:
    assert taken(trial(forward(draining=True)), said()) == ("draining", "web", None)


@pytest.mark.parametrize(("how", "mtu"), [("nat", 1400), ("dsr", 1400), ("ipip", 1380)])
def test_what_is_too_long_for_the_way_is_answered_with_what_is_not(how: str, mtu: int) -> None:
    made = trial(forward(how, target(mtu=1400)))
    told = made.take(said(size=mtu + 1))
    assert (told.verdict, told.backend, told.mtu) == ("too-big", "b1", mtu)
    assert [each.interface for each in told.out] == [CLIENTS_IF]
    assert told_mtu(told.out[0].frame) == mtu
    assert made.take(said(size=mtu)).verdict == "sent"


def test_the_last_hop_is_answered() -> None:
    packet = ip(CLIENT, VIP, UDP, datagram(ENDS, b""), ttl=1)
    told = trial(forward(udp=True)).take(ether(packet))
    assert told.verdict == "expired"
    assert (told.out[0].frame[23], told.out[0].frame[34]) == (1, 11)


def test_nobody_translates_between_ip_versions() -> None:
    six = target(address="fd00::1", source="fd00::2")
    assert taken(trial(forward("nat", six)), said()) == ("unwritten", "web", "b1")


def test_every_verdict_has_a_frame_above() -> None:
    source = Path(__file__).read_text()
    assert [each for each in FORWARDED if f'"{each}"' not in source] == []


# ---- what else there is ----


def test_the_entry_of_the_table_is_the_one_that_the_hash_leads_to() -> None:
    targets = tuple(target(i) for i in range(1, 5))
    told = [
        trial(forward("dsr", *targets)).take(said(ends=ENDS._replace(source_port=port)))
        for port in range(1, 60)
    ]
    assert all(one.entry == one.hash % 65537 and one.table == one.backend for one in told)
    assert {one.backend for one in told} == {"b1", "b2", "b3", "b4"}


def test_with_affinity_all_of_a_client_has_one_hash() -> None:
    def hashes(*, affinity_ms: int | None) -> set[int]:
        made = trial(forward("dsr", target(1), target(2), affinity_ms=affinity_ms))
        return {made.take(said(ends=ENDS._replace(source_port=port))).hash for port in range(1, 9)}

    assert len(hashes(affinity_ms=0)) == 1
    assert len(hashes(affinity_ms=None)) == 8


def test_an_entry_whose_backend_cannot_be_reached_is_the_next_ones() -> None:
    made = trial(forward("dsr", target(1), target(2, interface=0)))
    told = [made.take(said(ends=ENDS._replace(source_port=port))) for port in range(1, 40)]
    assert {one.backend for one in told} == {"b1"}
    assert {one.table for one in told} == {"b1", "b2"}


def test_a_trial_remembers_its_flows_and_time_passes_when_it_is_told_to() -> None:
    made = trial(forward("nat", target(1), target(2)))
    first = made.take(said())
    again = made.take(said())
    assert again.out == first.out
    made.wait(10_000)
    anew = made.take(said())
    assert anew.backend == first.backend
    assert anew.out != first.out, "another port: the other one rests"


def test_another_trial_knows_nothing_of_it() -> None:
    def first() -> Taken:
        return trial(forward()).take(said())

    assert first() == first()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="not 16"):
        Trial([], hash_key=b"x", interface=1, mtu=1500)
    with pytest.raises(ValueError, match="is there twice"):
        trial(forward(), forward())
    with pytest.raises(ValueError, match="at most"):
        trial().take(bytes(1 << 17))


MUTATIONS = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6)


@given(st.sampled_from(HOWS), MUTATIONS, st.integers(0, 90))
def test_whatever_comes_it_says_something_and_sends_no_more_than_was_asked(
    how: str, mutations: list[tuple[int, int]], size: int
) -> None:
    bad = bytearray(said(size=80))
    for at, byte in mutations:
        bad[at] = byte
    made = trial(forward(how, target(1), target(2)))
    for sent in (bytes(bad[:size]), said(), bytes(bad)):
        told = made.take(sent)
        assert told.verdict in FORWARDED
        assert len(told.out) <= 1
        assert bool(told.out) == (told.verdict in {"sent", "too-big", "expired"})
