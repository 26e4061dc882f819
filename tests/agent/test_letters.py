"""What is written is read back; what is strange is never an exception."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from piagent.agent.letters import Letters, Peer
from piagent.core.lease_types import Assertion, EchoReturned, Heard, LeaseMessage, Role, Unreadable
from piagent.ports import Received

LETTERS = Letters(cluster="home", node="n1", incarnation="0" * 16, secret=b"secret")
MESSAGE = LeaseMessage(
    node="n1",
    incarnation="0" * 16,
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
    other = Letters(cluster="home", node="n1", incarnation="0" * 16, secret=b"other")
    assert isinstance(other.read(received(*LETTERS.lease_message(MESSAGE))), Unreadable)


def test_retained_lease_message_is_ignored() -> None:
    assert LETTERS.read(received(*LETTERS.lease_message(MESSAGE), retain=True)) is None


def test_echo_comes_back_with_its_connection() -> None:
    read = LETTERS.read(received(*LETTERS.echo("c9", "abc")))
    assert read == EchoReturned("b1", "c9", "abc")


def test_presence_comes_back_retained_or_not() -> None:
    payload = LETTERS.presence(True, "c1")
    assert LETTERS.read(received("piagent/home/s/n2", payload, retain=True)) == Peer(
        "b1", "n2", True
    )


def test_vip_is_readable_by_people_and_ignored_by_nodes() -> None:
    topic, payload = LETTERS.vip("10.0.0.9", owner="n1", epoch=7, since_ms=0, reason="silence")
    assert topic == "piagent/home/v/10.0.0.9"
    assert b'"since":"1970-01-01T00:00:00.000+00:00"' in payload
    assert LETTERS.read(received(topic, payload)) is None


@given(
    topic=st.sampled_from(
        ["piagent/home/l/vips/n2", "piagent/home/e/n1/c", "piagent/home/s/n2", "else", ""]
    ),
    payload=st.binary(max_size=200),
    retain=st.booleans(),
)
def test_no_payload_raises(topic: str, payload: bytes, *, retain: bool) -> None:
    read = LETTERS.read(received(topic, payload, retain=retain))
    if topic.startswith("piagent/home/l/"):
        assert (read is None) == retain, "what cannot be read blocks, never nothing"
