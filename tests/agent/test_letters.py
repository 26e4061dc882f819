"""What is written is read back; what is strange is never an exception."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from piagent.agent.letters import Asked, Letters, Peer
from piagent.core.lease_types import Assertion, EchoReturned, Heard, LeaseMessage, Role, Unreadable
from piagent.core.wire import Command
from piagent.ports import Received


def letters(node: str = "n1", *secrets: bytes) -> Letters:
    return Letters(
        cluster="home",
        node=node,
        incarnation=node[-1] * 16,
        secrets=secrets or (b"secret",),
        started=1,
    )


LETTERS = letters()
MESSAGE = LeaseMessage(
    node="n1",
    incarnation="1" * 16,
    seq=1,
    broker="b1",
    config_hash="c",
    lease_ms=900,
    asserts={"10.0.0.9": Assertion(7, Role.OWNER)},
)


def received(topic: str, payload: bytes, *, retain: bool = False) -> Received:
    return Received("b1", "c1", topic, payload, retain)


def test_lease_message_comes_back() -> None:
    assert LETTERS.read(received(*LETTERS.lease_message(MESSAGE))) == Heard("b1", "c1", MESSAGE)


def test_lease_message_under_another_secret_is_unreadable() -> None:
    other = letters("n1", b"other")
    assert isinstance(other.read(received(*LETTERS.lease_message(MESSAGE))), Unreadable)


def test_retained_lease_message_is_ignored() -> None:
    assert LETTERS.read(received(*LETTERS.lease_message(MESSAGE), retain=True)) is None


def test_echo_comes_back_with_its_connection() -> None:
    read = LETTERS.read(received(*LETTERS.echo("c9", "abc")))
    assert read == EchoReturned("b1", "c9", "abc")


def test_presence_comes_back_retained_or_not() -> None:
    LETTERS.describe(
        weight=50,
        health=75,
        zone="shelf",
        draining=True,
        refuses={"10.0.0.9": "carrier-lost"},
        mac=bytes(6),
        listening=False,
    )
    payload = LETTERS.presence(True, "c1")
    read = LETTERS.read(received("piagent/home/s/n1", payload, retain=True))
    assert isinstance(read, Peer)
    assert (read.node, read.fresh) == ("n1", False)
    said = read.said
    assert (said.online, said.weight, said.health, said.zone) == (1, 50, 75, "shelf")
    assert (said.draining, said.refuses) == (1, {"10.0.0.9": "carrier-lost"})


def test_presence_that_nobody_of_the_cluster_signed_is_not_believed() -> None:
    payload = letters("n2", b"other").presence(True, "c1")
    assert LETTERS.read(received("piagent/home/s/n2", payload)) is None
    assert LETTERS.read(received("piagent/home/s/n3", LETTERS.presence(True, "c1"))) is None


def test_command_reaches_only_the_life_it_is_meant_for() -> None:
    topic, payload = letters("n2").command("n1", LETTERS.incarnation, Command.DRAIN)
    read = LETTERS.read(received(topic, payload))
    assert isinstance(read, Asked)
    assert (read.message.sender, read.message.command) == ("n2", Command.DRAIN)
    other_life = Letters(
        cluster="home", node="n1", incarnation="f" * 16, secrets=(b"secret",), started=2
    )
    assert other_life.read(received(topic, payload)) is None
    assert LETTERS.read(received(topic, payload, retain=True)) is None, "kept by the broker"


def test_each_secret_is_accepted_and_the_first_one_signs() -> None:
    old, both, new = letters("n1", b"old"), letters("n1", b"old", b"new"), letters("n1", b"new")
    assert isinstance(both.read(received(*new.lease_message(MESSAGE))), Heard)
    assert isinstance(old.read(received(*both.lease_message(MESSAGE))), Heard)
    assert isinstance(new.read(received(*both.lease_message(MESSAGE))), Unreadable)


def test_vip_is_readable_by_people_and_ignored_by_nodes() -> None:
    topic, payload = LETTERS.vip("10.0.0.9", owner="n1", epoch=7, since_ms=0, reason="silence")
    assert topic == "piagent/home/v/10.0.0.9"
    assert b'"since":"1970-01-01T00:00:00.000+00:00"' in payload
    assert LETTERS.read(received(topic, payload)) is None


@given(
    topic=st.sampled_from(
        [
            "piagent/home/l/vips/n2",
            "piagent/home/e/n1/c",
            "piagent/home/s/n2",
            "piagent/home/ctl/n1",
            "else",
            "",
        ]
    ),
    payload=st.binary(max_size=200),
    retain=st.booleans(),
)
def test_no_payload_raises(topic: str, payload: bytes, *, retain: bool) -> None:
    read = LETTERS.read(received(topic, payload, retain=retain))
    if topic.startswith("piagent/home/l/"):
        assert (read is None) == retain, "what cannot be read blocks, never nothing"
