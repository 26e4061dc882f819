"""Lease messages on the wire: what is sound comes through, everything else is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.core import wire
from piagent.core.lease_types import MAX_COUNT, MAX_KEYS, Assertion, LeaseMessage, Reason, Role
from piagent.core.model import Broker
from piagent.core.wire import Refused
from tests.core.timing import TIMING

SECRET = b"a secret"
TOPIC = wire.Topics("home").lease("main", "pi3")
MESSAGE = LeaseMessage(
    node="pi3",
    incarnation="5f0e5f0e5f0e5f0e",
    seq=1234,
    broker="b1",
    config_hash="9a1b22ff",
    lease_ms=900,
    asserts={"10.0.0.1": Assertion(1764, Role.OWNER), "10.0.0.2": Assertion(33, Role.CLAIM)},
    yields={"10.0.0.4": "pi1", "10.0.0.5": None},
)


def _sign(body: bytes, topic: str = TOPIC, secret: bytes = SECRET) -> bytes:
    """Written apart from the code under test."""
    digest = hmac.new(secret, b"pa1|" + topic.encode() + b"|" + body, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=") + b"." + body


def _with(**changes: object) -> bytes:
    fields = json.loads(wire.encode(SECRET, TOPIC, MESSAGE).partition(b".")[2])
    return _sign(json.dumps(fields | changes).encode())


def test_a_message_comes_through_whole() -> None:
    assert wire.decode(SECRET, TOPIC, wire.encode(SECRET, TOPIC, MESSAGE)) == MESSAGE


def test_the_payload_is_the_documented_one() -> None:
    body = (
        b'{"v":1,"n":"pi3","i":"5f0e5f0e5f0e5f0e","q":1234,"b":"b1","c":"9a1b22ff","l":900,'
        b'"a":{"10.0.0.1":[1764,"o"],"10.0.0.2":[33,"c"]},'
        b'"y":{"10.0.0.4":"pi1","10.0.0.5":null}}'
    )
    assert wire.encode(SECRET, TOPIC, MESSAGE) == _sign(body)


def test_topics_are_the_documented_ones() -> None:
    topics = wire.Topics("home")
    assert TOPIC == "piagent/home/l/main/pi3"
    assert topics.echo("pi3", "c1") == "piagent/home/e/pi3/c1"
    assert topics.presence("pi3") == "piagent/home/s/pi3"
    assert topics.vip("10.0.0.1") == "piagent/home/v/10.0.0.1"


@given(st.binary(max_size=300))
def test_no_bytes_are_taken_for_a_message(payload: bytes) -> None:
    assert isinstance(wire.decode(SECRET, TOPIC, payload), Refused)


@given(st.binary(max_size=300), st.text(max_size=40))
def test_no_signed_bytes_on_any_topic_make_it_raise(body: bytes, topic: str) -> None:
    try:
        payload = _sign(body, topic)
    except UnicodeEncodeError:
        payload = body
    assert isinstance(wire.decode(SECRET, topic, payload), Refused)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from("vniqbclay"), _JSON)
def test_a_signed_message_with_one_odd_field_is_refused_or_well_typed(
    field: str, value: object
) -> None:
    read = wire.decode(SECRET, TOPIC, _with(**{field: value}))
    if isinstance(read, LeaseMessage):
        again = msgspec.json.decode(msgspec.json.encode(read), type=LeaseMessage)
        assert again == read
    else:
        assert read.sender == "pi3"


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(position: int, flip: int) -> None:
    payload = bytearray(wire.encode(SECRET, TOPIC, MESSAGE))
    payload[position % len(payload)] ^= flip
    assert isinstance(wire.decode(SECRET, TOPIC, bytes(payload)), Refused)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"x" * (wire.MAX_SIZE + 1), Reason.TOO_LARGE),
        (_sign(b"{}", secret=b"another"), Reason.BAD_SIGNATURE),
        (_sign(b"{}"), Reason.MALFORMED),
        (_sign(b"\xff\xfe"), Reason.MALFORMED),
        (_sign(b"[" * 15_000), Reason.MALFORMED),
        (_with(v=2), Reason.OTHER_VERSION),
        (_with(n="pi4"), Reason.WRONG_SENDER),
        (_with(n=""), Reason.MALFORMED),
        (_with(i="xyz"), Reason.MALFORMED),
        (_with(q=-1), Reason.MALFORMED),
        (_with(q=MAX_COUNT + 1), Reason.MALFORMED),
        (_with(q=1.5), Reason.MALFORMED),
        (_with(l=0), Reason.MALFORMED),
        (_with(a={"10.0.0.1": [1, "x"]}), Reason.MALFORMED),
        (_with(a={"10.0.0.1": [1, "o", 2]}), Reason.MALFORMED),
        (_with(z=1), Reason.MALFORMED),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, reason: Reason) -> None:
    refused = wire.decode(SECRET, TOPIC, payload)
    assert isinstance(refused, Refused)
    assert (refused.sender, refused.reason) == ("pi3", reason)


@pytest.mark.parametrize(
    "topic", ["piagent/home/l/main/pi4", "piagent/home/l/other/pi3", "piagent/else/l/main/pi3"]
)
def test_a_message_cannot_be_moved_to_another_topic(topic: str) -> None:
    refused = wire.decode(SECRET, topic, wire.encode(SECRET, TOPIC, MESSAGE))
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.BAD_SIGNATURE


def test_the_lease_of_a_message_of_unknown_signature_is_a_bounded_hint() -> None:
    long = msgspec.structs.replace(MESSAGE, lease_ms=500_000)
    for message, hint in ((MESSAGE, 900), (long, 60_000)):
        refused = wire.decode(b"another", TOPIC, wire.encode(SECRET, TOPIC, message))
        assert refused == Refused("pi3", Reason.BAD_SIGNATURE, hint)


def test_the_fullest_message_is_not_too_large() -> None:
    ipv6 = "2001:db8:1234:5678:9abc:def0:1234:{:04x}"
    names = [ipv6.format(i) for i in range(MAX_KEYS)]
    full = msgspec.structs.replace(
        MESSAGE,
        seq=MAX_COUNT,
        asserts={},
        yields=dict.fromkeys(names, "n" * 64),
    )
    assert len(wire.encode(SECRET, TOPIC, full)) <= wire.MAX_SIZE


def _hash(**changes: object) -> str:
    brokers = [Broker(label="b1", host="192.168.1.11", port=1883)]
    arguments = {"brokers": brokers, "timing": TIMING, "candidates": ("pi1", "pi2")} | changes
    return wire.config_hash(**arguments)  # type: ignore[arg-type]


def test_the_configuration_hash_covers_what_all_candidates_must_share() -> None:
    two = [Broker(label=f"b{i}", host=f"192.168.1.1{i}", port=1883) for i in (1, 2)]
    hashes = [
        _hash(),
        _hash(brokers=two),
        _hash(brokers=two[::-1]),
        _hash(candidates=("pi2", "pi1")),
        *(
            _hash(timing=msgspec.structs.replace(TIMING, **{field: 10_000}))
            for field in ("lease_ms", "wait_ms", "renew_ms")
        ),
    ]
    assert len(set(hashes)) == len(hashes)
    assert _hash() == _hash()
    assert _hash() == _hash(timing=msgspec.structs.replace(TIMING, stagger_ms=99))


def test_presence_and_ownership_are_small_json() -> None:
    presence = wire.Presence(online=1, incarnation="5f0e")
    assert msgspec.json.decode(msgspec.json.encode(presence)) == {"on": 1, "i": "5f0e", "k": ""}
    owned = wire.Ownership(owner="pi1", epoch=7, since="2026-11-23T05:00:00Z", reason="silence")
    assert msgspec.json.decode(msgspec.json.encode(owned))["owner"] == "pi1"
