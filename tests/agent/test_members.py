"""What is believed of the other nodes, and which of two hosts with one name gives way."""

from __future__ import annotations

from msgspec.structs import replace

from piagent.agent.letters import Peer
from piagent.agent.members import Members, candidate
from piagent.core.lease_types import Reason
from piagent.core.wire import Presence

HERE = Presence(online=1, incarnation="a" * 16, mac="020000000001")
OWN, LOWER, HIGHER = "5" * 16, "1" * 16, "9" * 16


def members() -> Members:
    return Members("n1", OWN)


def peer(said: Presence, node: str = "n2", broker: str = "b1", *, fresh: bool = True) -> Peer:
    return Peer(broker, node, said, fresh)


def test_a_node_is_there_as_long_as_one_broker_believes_it() -> None:
    known = members()
    assert known.note(peer(HERE))
    assert not known.note(peer(HERE, broker="b2")), "no news"
    gone = replace(HERE, online=0)
    assert not known.note(peer(gone))
    assert known.get("n2") == HERE
    assert known.note(peer(gone, broker="b2"))
    assert known.all() == {}


def test_the_will_of_a_former_life_says_nothing_of_the_present_one() -> None:
    known = members()
    known.note(peer(HERE))
    assert not known.note(peer(replace(HERE, online=0, incarnation="b" * 16)))
    assert known.get("n2") == HERE


def test_what_a_lost_broker_said_is_forgotten() -> None:
    known = members()
    known.note(peer(HERE))
    known.note(peer(HERE, "n3", "b2"))
    known.forget("b1")
    assert list(known.all()) == ["n3"]


def test_a_change_that_matters_to_placement_is_news() -> None:
    known = members()
    known.note(peer(HERE))
    assert not known.note(peer(replace(HERE, connection="another")))
    for changed in ({"weight": 1}, {"draining": 1}, {"listening": 1}, {"refuses": {"v": "twin"}}):
        assert known.note(peer(replace(HERE, **changed))), changed


def test_a_reason_of_a_later_version_is_a_refusal_all_the_same() -> None:
    said = replace(HERE, refuses={"10.0.0.9": "phase-of-the-moon"})
    assert candidate("n2", said).refuses == {"10.0.0.9": Reason.NOT_ELIGIBLE}


def test_a_hardware_address_is_known_in_the_spelling_of_arp() -> None:
    known = members()
    known.note(peer(HERE))
    assert known.has_mac("02:00:00:00:00:01")
    assert not known.has_mac("02:00:00:00:00:02")
    assert not known.has_mac(None)


def test_a_newcomer_gives_way_to_a_host_of_its_name_that_may_claim() -> None:
    for incarnation in (LOWER, HIGHER):
        known = members()
        said = replace(HERE, incarnation=incarnation)
        assert known.note(peer(said, "n1"))
        assert known.twin == said
        assert known.note(peer(replace(said, online=0), "n1"))
        assert known.twin is None


def test_an_owner_gives_way_to_nobody_however_short_it_has_been_there() -> None:
    known = members()
    known.settle()
    for listening in (0, 1):
        said = replace(HERE, incarnation=LOWER, listening=listening)
        assert not known.note(peer(said, "n1"))
    assert known.twin is None


def test_of_two_newcomers_exactly_one_gives_way() -> None:
    for incarnation, yields in ((LOWER, True), (HIGHER, False)):
        known = members()
        known.note(peer(replace(HERE, incarnation=incarnation, listening=1), "n1"))
        assert (known.twin is not None) is yields


def test_what_a_broker_retained_of_our_own_former_life_is_no_twin() -> None:
    known = members()
    assert not known.note(peer(HERE, "n1", fresh=False))
    assert not known.note(peer(replace(HERE, incarnation=OWN), "n1"))
    assert known.twin is None
