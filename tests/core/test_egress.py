"""Whether frames leave this host: the judgement, round by round."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from piagent.core.egress import (
    ASK_AGAIN_MS,
    ASK_EVERY_MS,
    SILENT_ROUNDS,
    WITNESSES_MAX,
    EgressProof,
    Verdict,
)


class Lan:
    """Hosts that answer or do not, and a counter of what is received."""

    def __init__(self, *hosts: str) -> None:
        self.proof = EgressProof()
        self.hosts = list(hosts)
        self.silent: set[str] = set()
        self.received = 0
        self.chatter = 1
        """Frames that come in between two rounds, whoever answers."""
        self.passed_ms = 0
        self.asked: tuple[str, ...] = ()

    def rounds(self, count: int) -> Verdict:
        for _ in range(count):
            self.asked = self.proof.round(self.received, self.hosts)
            self.received += self.chatter
            for who in self.asked:
                if who not in self.silent:
                    self.proof.answered(who)
            self.passed_ms += self.proof.pause_ms
        return self.proof.verdict

    def sends_nothing(self) -> None:
        self.silent = set(self.hosts)


def test_alone_on_the_lan_nothing_is_known() -> None:
    lan = Lan()
    assert lan.rounds(20) is Verdict.UNKNOWN
    assert lan.asked == ()


def test_hosts_that_never_answered_prove_nothing() -> None:
    lan = Lan("gateway", "printer")
    lan.sends_nothing()
    assert lan.rounds(20) is Verdict.UNKNOWN
    assert len(lan.asked) == 1


def test_one_answer_is_proof() -> None:
    lan = Lan("gateway")
    lan.rounds(1)
    assert (lan.proof.verdict, lan.proof.reason) == (Verdict.PROVEN, "gateway answers")


def test_at_most_two_hosts_are_asked_a_second_while_they_answer() -> None:
    lan = Lan(*(f"host{n}" for n in range(16)))
    for _ in range(40):
        before_ms = lan.passed_ms
        lan.rounds(1)
        assert len(lan.asked) <= 2
        assert lan.passed_ms - before_ms == ASK_EVERY_MS
    assert len(lan.proof.witnesses) == WITNESSES_MAX


def test_a_transmitter_that_stalls_is_found_out_in_two_and_a_half_seconds() -> None:
    lan = Lan("gateway", "pi2", "pi3")
    assert lan.rounds(10) is Verdict.PROVEN
    lan.sends_nothing()
    assert lan.rounds(1) is Verdict.PROVEN  # asked, not yet judged
    lan.passed_ms = 0
    lan.rounds(SILENT_ROUNDS - 1)
    assert lan.passed_ms == 3 * ASK_AGAIN_MS
    assert lan.proof.verdict is Verdict.PROVEN
    assert lan.rounds(1) is Verdict.LOST
    assert lan.proof.reason.endswith("no answer any more, though frames are received")
    assert set(lan.asked) >= {"gateway", "pi2", "pi3"}


def test_three_lost_questions_lose_nothing() -> None:
    lan = Lan("gateway", "pi2", "pi3")
    for _ in range(5):
        lan.silent = set()
        lan.rounds(10)
        lan.sends_nothing()
        assert lan.rounds(SILENT_ROUNDS - 1) is Verdict.PROVEN
        lan.silent = set()
        assert lan.rounds(1) is Verdict.PROVEN


def test_when_nothing_is_received_either_the_network_is_at_fault() -> None:
    lan = Lan("gateway", "pi2")
    lan.rounds(10)
    lan.sends_nothing()
    lan.chatter = 0
    assert lan.rounds(30) is Verdict.UNKNOWN
    assert "hardly anything is received" in lan.proof.reason


def test_a_frame_now_and_then_does_not_mean_that_the_others_are_there() -> None:
    lan = Lan("gateway", "pi2")
    lan.rounds(10)
    lan.sends_nothing()
    for number in range(60):
        lan.chatter = 1 if number % 3 == 0 else 0
        assert lan.rounds(1) is not Verdict.LOST


def test_a_gateway_that_restarts_takes_nothing_away_while_others_answer() -> None:
    lan = Lan("gateway", "pi2", "pi3")
    lan.rounds(10)
    lan.silent = {"gateway"}
    for _ in range(60):
        assert lan.rounds(1) is Verdict.PROVEN
    assert "gateway" not in lan.proof.witnesses


def test_a_gateway_that_restarts_takes_nothing_away_where_it_is_the_only_witness() -> None:
    lan = Lan("gateway")
    lan.rounds(10)
    lan.sends_nothing()
    assert lan.rounds(60) is Verdict.UNKNOWN
    assert "no other witness" in lan.proof.reason
    lan.silent = set()
    assert lan.rounds(1) is Verdict.PROVEN


def test_the_only_witness_that_speaks_but_does_not_answer_does_not_hear_us() -> None:
    lan = Lan("gateway")
    lan.rounds(10)
    lan.sends_nothing()
    lan.rounds(2)
    lan.proof.spoke("gateway")
    assert lan.rounds(3) is Verdict.LOST


def test_what_strangers_say_is_no_evidence() -> None:
    lan = Lan("gateway")
    lan.rounds(10)
    lan.sends_nothing()
    for _ in range(10):
        lan.proof.spoke("stranger")
        lan.proof.answered("stranger")
        assert lan.rounds(1) is not Verdict.LOST
    assert lan.proof.verdict is Verdict.UNKNOWN


def test_a_host_that_left_long_ago_is_no_second_witness() -> None:
    lan = Lan("gateway", "phone")
    lan.rounds(10)
    lan.silent = {"phone"}
    lan.rounds(10)
    lan.sends_nothing()
    assert lan.rounds(30) is Verdict.UNKNOWN


def test_neighbours_that_somebody_invents_and_never_answer_do_no_harm() -> None:
    lan = Lan("gateway", "pi2", *(f"fake{n}" for n in range(14)))
    lan.silent = {f"fake{n}" for n in range(14)}
    lan.rounds(20)
    for _ in range(100):
        assert lan.rounds(1) is Verdict.PROVEN


def test_lost_stays_lost_until_somebody_answers() -> None:
    lan = Lan("gateway", "pi2")
    lan.rounds(10)
    lan.sends_nothing()
    lan.rounds(10)
    lan.chatter = 0
    assert lan.rounds(10) is Verdict.LOST
    assert lan.proof.pause_ms == ASK_EVERY_MS
    lan.silent = {"gateway"}
    assert lan.rounds(1) is Verdict.PROVEN


def test_another_link_begins_anew() -> None:
    lan = Lan("gateway", "pi2")
    lan.rounds(10)
    lan.sends_nothing()
    lan.rounds(10)
    lan.proof.reset("link: no carrier")
    assert (lan.proof.verdict, lan.proof.reason) == (Verdict.UNKNOWN, "link: no carrier")
    assert lan.rounds(20) is Verdict.UNKNOWN


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.integers(0, 2)), max_size=60))
def test_it_is_never_lost_within_the_rounds_after_an_answer(
    history: list[tuple[set[str], int]],
) -> None:
    lan = Lan(*"abcdef")
    since_answer = 0
    for silent, chatter in history:
        lan.silent, lan.chatter = silent, chatter
        lan.rounds(1)
        answered = any(who not in silent for who in lan.asked)
        since_answer = 0 if answered else since_answer + 1
        if since_answer < SILENT_ROUNDS:
            assert lan.proof.verdict is not Verdict.LOST
