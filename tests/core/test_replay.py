"""A message counts once, in the order of its sender, however many senders there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from piagent.core.replay import Replay


def test_only_rising_numbers_of_one_sender_count() -> None:
    replay = Replay()
    assert [replay.accepts("a", "1", seq) for seq in (0, 0, 1, 5, 4, 5, 6)] == [
        True, False, True, True, False, False, True,
    ]  # fmt: skip


def test_each_life_of_each_node_has_numbers_of_its_own() -> None:
    replay = Replay()
    for sender in (("a", "1"), ("a", "2"), ("b", "1")):
        assert replay.accepts(*sender, 7)
    assert not replay.accepts("a", "1", 7)


def test_a_former_life_stays_known_after_the_next_one_began() -> None:
    replay = Replay()
    assert replay.accepts("a", "1", 7)
    assert replay.accepts("a", "2", 0)
    assert not replay.accepts("a", "1", 7)


def test_the_sender_heard_longest_ago_is_forgotten_first() -> None:
    replay = Replay(max_senders=2)
    assert replay.accepts("a", "1", 5)
    assert replay.accepts("b", "1", 5)
    assert replay.accepts("a", "1", 6)
    assert replay.accepts("c", "1", 5)
    assert not replay.accepts("a", "1", 6)
    assert replay.accepts("b", "1", 5)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=40))
def test_what_counts_is_a_rising_sequence_for_each_sender(messages: list[tuple[str, int]]) -> None:
    replay = Replay()
    taken: dict[str, list[int]] = {"a": [], "b": []}
    for node, seq in messages:
        if replay.accepts(node, "1", seq):
            taken[node].append(seq)
    for node, seqs in taken.items():
        assert seqs == sorted(set(seqs))
        everything = [seq for name, seq in messages if name == node]
        assert max(seqs, default=None) == max(everything, default=None)
