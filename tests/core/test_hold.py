"""Around a claim and without a quorum: probes, strangers, holding, last words."""

from __future__ import annotations

from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import (
    MAX_COUNT,
    Acquired,
    Assertion,
    Disconnected,
    EchoReturned,
    Effect,
    Event,
    Extended,
    Heard,
    LeaseMessage,
    Occupied,
    Probe,
    Rank,
    Reason,
    Released,
    Role,
    Send,
    SendEcho,
    State,
    Subscribed,
    Tick,
    Want,
)
from piagent.core.model import Timing

MS = 1_000_000
TIMING = Timing(
    lease_ms=900, renew_ms=200, wait_ms=938, guard_ms=80, attempt_ms=250, stagger_ms=40, lag_ms=400
)
KEY = "vip"


class Node:
    """A group on one broker that returns what it gets a millisecond later."""

    def __init__(self, *, hold: bool = False) -> None:
        self.now = 1_000 * MS
        self.up = True
        self.group = LeaseGroup(
            TIMING, ("b1",), "n1", "1" * 16, {KEY: 0}, config_hash="c", seed=1,
            now_ns=self.now, wall_ms=1, hold=hold,
        )  # fmt: skip
        self.effects: list[tuple[int, Effect]] = []
        self._due: list[tuple[int, Event]] = []
        self.step(Subscribed("b1", "c1"))

    def step(self, event: Event) -> list[Effect]:
        effects = self.group.step(event, self.now)
        for effect in effects:
            self.effects.append((self.now, effect))
            if not self.up:
                continue
            if isinstance(effect, Send):
                self._due.append((self.now + MS, Heard("b1", "c1", effect.message)))
            elif isinstance(effect, SendEcho):
                self._due.append((self.now + MS, EchoReturned("b1", "c1", effect.nonce)))
        return effects

    def run(self, ms: int) -> None:
        """Let time pass, a millisecond at a time."""
        for _ in range(ms):
            self.now += MS
            due = [event for at, event in self._due if at <= self.now]
            self._due = [(at, event) for at, event in self._due if at > self.now]
            for event in due:
                self.step(event)
            if self.now >= self.group.next_wakeup_ns():
                self.step(Tick())

    def lose_broker(self) -> None:
        self.up = False
        self._due.clear()
        self.step(Disconnected("b1"))

    def find_broker(self, connection: str = "c1") -> None:
        self.up = True
        self.step(Subscribed("b1", connection))

    def times(self, kind: type[Effect]) -> list[int]:
        return [at for at, effect in self.effects if isinstance(effect, kind)]

    @property
    def state(self) -> State:
        return self.group.view()[0].state

    @property
    def reason(self) -> Reason:
        return self.group.view()[0].reason


def foreign(role: Role, epoch: int = 5, seq: int = 1) -> Heard:
    return Heard(
        "b1",
        "c1",
        LeaseMessage(
            node="n2", incarnation="2" * 16, seq=seq, broker="b1", config_hash="c", lease_ms=900,
            asserts={KEY: Assertion(epoch, role)},
        ),
    )  # fmt: skip


def test_the_lan_is_asked_once_before_a_claim_and_not_while_the_former_owner_may_answer() -> None:
    node = Node()
    node.step(foreign(Role.OWNER))
    heard = node.now
    node.run(1500)
    (probe,) = node.times(Probe)
    (acquired,) = node.times(Acquired)
    assert heard + (900 - 80) * MS <= probe <= acquired - 90 * MS


def test_a_stranger_on_the_lan_is_left_alone_and_asked_again() -> None:
    node = Node()
    node.run(850)
    assert len(node.times(Probe)) == 1
    node.step(Occupied(KEY))
    node.run(800)
    assert node.state is State.FOLLOWER
    assert node.reason is Reason.ADDRESS_IN_USE
    node.run(1000)
    assert len(node.times(Probe)) == 2
    assert node.state is State.OWNER


def test_the_lan_is_asked_anew_when_a_claim_is_put_off() -> None:
    node = Node()
    node.run(850)
    assert len(node.times(Probe)) == 1
    node.step(Rank(KEY, 30))
    node.run(1000)
    assert node.state is State.FOLLOWER
    assert len(node.times(Probe)) == 1
    node.run(300)
    assert node.state is State.OWNER
    assert len(node.times(Probe)) == 2


def test_the_lan_is_asked_anew_for_a_key_that_is_wanted_again() -> None:
    node = Node()
    node.run(850)
    assert len(node.times(Probe)) == 1
    node.step(Want(KEY, wanted=False))
    node.run(1)
    node.step(Want(KEY, wanted=True))
    assert len(node.times(Probe)) == 2


def test_a_claim_ends_when_a_stranger_answers() -> None:
    node = Node()
    node.run(939)
    while node.state is State.FOLLOWER:
        node.run(1)
    assert node.state is State.CLAIMING
    node.step(Occupied(KEY))
    assert node.state is State.FOLLOWER
    node.run(500)
    assert node.state is State.FOLLOWER


def test_an_owner_without_a_broker_lets_go_unless_it_is_to_hold() -> None:
    for hold in (False, True):
        node = Node(hold=hold)
        node.run(1000)
        assert node.state is State.OWNER
        node.lose_broker()
        node.run(5000)
        assert (node.state is State.OWNER) is hold
        assert bool(node.times(Released)) is not hold


def test_a_holder_never_lets_its_deadline_pass_and_says_why_it_goes_on() -> None:
    node = Node(hold=True)
    node.run(1000)
    node.lose_broker()
    node.run(3000)
    assert node.reason is Reason.QUORUM_LOST_HELD
    until = 0
    for at, effect in node.effects:
        if isinstance(effect, Acquired | Extended):
            assert not until or at < until
            until = effect.until_ns
    node.find_broker()
    node.run(3000)
    assert node.state is State.OWNER
    assert node.reason is Reason.SILENCE, "owner by the quorum again"
    node.lose_broker()
    node.run(1000)
    assert node.reason is Reason.QUORUM_LOST_HELD


def test_a_holder_gives_way_to_an_owner_with_a_higher_epoch() -> None:
    node = Node(hold=True)
    node.run(1000)
    node.lose_broker()
    node.run(2000)
    node.find_broker()
    node.step(foreign(Role.OWNER, epoch=1 << 50))
    assert node.state is State.FOLLOWER


def test_a_holder_that_does_not_get_its_lease_back_lets_go() -> None:
    node = Node(hold=True)
    node.run(1000)
    node.lose_broker()
    node.run(2000)
    node.find_broker()
    for seq in range(1, 40):  # somebody keeps claiming
        node.step(foreign(Role.CLAIM, seq=seq))
        node.run(100)
    assert node.state is State.FOLLOWER


def test_last_words_yield_and_nothing_that_was_said_before_counts_after_them() -> None:
    node = Node()
    node.run(1000)
    (word,) = node.group.last_words({KEY: "n2", "unknown": None})
    assert word.message.seq == MAX_COUNT
    assert word.message.yields == {KEY: "n2"}
    assert word.message.asserts == {}
    other = Node()
    other.step(foreign(Role.OWNER, seq=1))
    yielded = Heard(
        "b1",
        "c1",
        LeaseMessage(
            node="n2", incarnation="2" * 16, seq=MAX_COUNT, broker="b1", config_hash="c",
            lease_ms=900, yields={KEY: "n1"},
        ),
    )  # fmt: skip
    other.run(500)
    other.step(foreign(Role.OWNER, seq=2))
    other.run(600)
    assert other.reason is Reason.OTHER_OWNS
    other.step(yielded)
    other.step(foreign(Role.OWNER, seq=3))  # was still under way when its sender died
    other.run(10)
    assert other.state is State.OWNER
    assert other.reason is Reason.INVITED
