"""What is believed of other nodes' presence."""

from __future__ import annotations

from piagent.agent.letters import Peer
from piagent.agent.peers import MAX_PEERS, Peers


def test_node_is_there_while_one_broker_says_so() -> None:
    peers = Peers("n1")
    assert peers.note(Peer("b1", "n2", True))
    assert not peers.note(Peer("b2", "n2", True))
    assert not peers.note(Peer("b1", "n2", False))
    assert peers.online() == ("n1", "n2")
    assert peers.note(Peer("b2", "n2", False))
    assert peers.online() == ("n1",)


def test_own_absence_is_not_believed() -> None:
    peers = Peers("n1")
    assert not peers.note(Peer("b1", "n1", False))
    assert peers.online() == ("n1",)


def test_new_connection_starts_from_what_the_broker_retains() -> None:
    peers = Peers("n1")
    peers.note(Peer("b1", "n2", True))
    peers.note(Peer("b1", "n3", True))
    peers.note(Peer("b2", "n3", True))
    peers.forget("b1")
    assert peers.online() == ("n1", "n3")
    assert peers.note(Peer("b2", "n3", False))
    assert peers.online() == ("n1",)


def test_invented_nodes_are_limited() -> None:
    peers = Peers("n1")
    for number in range(1000):
        peers.note(Peer("b1", f"x{number}", True))
    assert len(peers.online()) <= MAX_PEERS + 1
