"""Messages on the wire: what is sound comes through, everything else is refused."""

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
    assert wire.decode((SECRET,), TOPIC, wire.encode(SECRET, TOPIC, MESSAGE)) == MESSAGE


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
    assert topics.control("pi3") == "piagent/home/ctl/pi3"


@given(st.binary(max_size=300))
def test_no_bytes_are_taken_for_a_message(payload: bytes) -> None:
    assert isinstance(wire.decode((SECRET,), TOPIC, payload), Refused)


@given(st.binary(max_size=300), st.text(max_size=40))
def test_no_signed_bytes_on_any_topic_make_it_raise(body: bytes, topic: str) -> None:
    try:
        payload = _sign(body, topic)
    except UnicodeEncodeError:
        payload = body
    assert isinstance(wire.decode((SECRET,), topic, payload), Refused)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from("vniqbclay"), _JSON)
def test_a_signed_message_with_one_odd_field_is_refused_or_well_typed(
    field: str, value: object
) -> None:
    read = wire.decode((SECRET,), TOPIC, _with(**{field: value}))
    if isinstance(read, LeaseMessage):
        again = msgspec.json.decode(msgspec.json.encode(read), type=LeaseMessage)
        assert again == read
    else:
        assert read.sender == "pi3"


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(position: int, flip: int) -> None:
    payload = bytearray(wire.encode(SECRET, TOPIC, MESSAGE))
    payload[position % len(payload)] ^= flip
    assert isinstance(wire.decode((SECRET,), TOPIC, bytes(payload)), Refused)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"x" * (wire.MAX_SIZE + 1), Reason.TOO_LARGE),
        (_sign(b"{}", secret=b"another"), Reason.BAD_SIGNATURE),
        (_sign(b"{}"), Reason.MALFORMED),
        (_sign(b"\xff\xfe"), Reason.MALFORMED),
        (_sign(b"[" * 60_000), Reason.MALFORMED),
        (_sign(b'{"v":' * 12_000), Reason.MALFORMED),
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
    refused = wire.decode((SECRET,), TOPIC, payload)
    assert isinstance(refused, Refused)
    assert (refused.sender, refused.reason) == ("pi3", reason)


@pytest.mark.parametrize(
    "topic", ["piagent/home/l/main/pi4", "piagent/home/l/other/pi3", "piagent/else/l/main/pi3"]
)
def test_a_message_cannot_be_moved_to_another_topic(topic: str) -> None:
    refused = wire.decode((SECRET,), topic, wire.encode(SECRET, TOPIC, MESSAGE))
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.BAD_SIGNATURE


def test_the_lease_of_a_message_of_unknown_signature_is_a_bounded_hint() -> None:
    long = msgspec.structs.replace(MESSAGE, lease_ms=500_000)
    for message, hint in ((MESSAGE, 900), (long, 60_000)):
        refused = wire.decode((b"another",), TOPIC, wire.encode(SECRET, TOPIC, message))
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


def test_ownership_is_small_json() -> None:
    owned = wire.Ownership(owner="pi1", epoch=7, since="2026-11-23T05:00:00Z", reason="silence")
    assert msgspec.json.decode(msgspec.json.encode(owned))["owner"] == "pi1"


# ---- several secrets ----


def test_a_message_under_any_of_the_secrets_comes_through() -> None:
    for secrets in ((SECRET, b"x"), (b"x", SECRET), (b"x", b"y", SECRET)):
        assert wire.decode(secrets, TOPIC, wire.encode(SECRET, TOPIC, MESSAGE)) == MESSAGE
    refused = wire.decode((b"x", b"y"), TOPIC, wire.encode(SECRET, TOPIC, MESSAGE))
    assert refused == Refused("pi3", Reason.BAD_SIGNATURE, 900)
    assert isinstance(wire.decode((), TOPIC, wire.encode(SECRET, TOPIC, MESSAGE)), Refused)


A, B = b"the old secret", b"the new secret"
ROTATION = [(A,), (A, B), (B, A), (B,)]
"""docs/how-to/rotate-the-secret.md."""


@pytest.mark.parametrize("step", range(3))
def test_while_nodes_take_a_step_of_a_rotation_each_understands_each_other(step: int) -> None:
    states = ROTATION[step : step + 2]
    for sender in states:
        payload = wire.encode(sender[0], TOPIC, MESSAGE)
        for receiver in states:
            assert wire.decode(receiver, TOPIC, payload) == MESSAGE


def test_two_steps_of_a_rotation_at_once_are_not_understood() -> None:
    payload = wire.encode(ROTATION[2][0], TOPIC, MESSAGE)
    assert isinstance(wire.decode(ROTATION[0], TOPIC, payload), Refused)


# ---- presence ----

PRESENCE_TOPIC = wire.Topics("home").presence("pi3")
PRESENCE = wire.Presence(
    online=1,
    incarnation="5f0e5f0e5f0e5f0e",
    connection="pa-pi3-5f0e5f0e-0102",
    host="raspberrypi",
    started=1_795_410_002_345,
    weight=50,
    health=80,
    zone="shelf-a",
    draining=1,
    refuses={"10.0.0.2": "not-eligible", "10.0.0.1": "no-local-backend"},
    mac="0200000000ab",
)


def _presence(body: bytes, topic: str = PRESENCE_TOPIC, secret: bytes = SECRET) -> bytes:
    """Written apart from the code under test."""
    signature = _sign(body, topic, secret).partition(b".")[0]
    return body[:-1] + b',"sig":"' + signature + b'"}'


def test_presence_is_json_and_its_last_key_signs_it() -> None:
    payload = wire.encode_presence(SECRET, PRESENCE_TOPIC, PRESENCE)
    read = json.loads(payload)
    assert list(read)[-1] == "sig"
    assert read["r"] == {"10.0.0.1": "no-local-backend", "10.0.0.2": "not-eligible"}
    body = payload[: payload.index(b',"sig"')] + b"}"
    assert payload == _presence(body)


@pytest.mark.parametrize("secrets", [(SECRET,), (b"x", SECRET)])
def test_presence_comes_through_whole(secrets: tuple[bytes, ...]) -> None:
    payload = wire.encode_presence(SECRET, PRESENCE_TOPIC, PRESENCE)
    assert wire.decode_presence(secrets, PRESENCE_TOPIC, payload) == PRESENCE


def test_presence_of_another_version_may_lack_keys_and_have_others() -> None:
    body = b'{"on":0,"i":"5f0e5f0e5f0e5f0e","new":{"sig":"x"}}'
    read = wire.decode_presence((SECRET,), PRESENCE_TOPIC, _presence(body))
    assert read == wire.Presence(online=0, incarnation="5f0e5f0e5f0e5f0e")


def test_the_most_that_a_node_can_refuse_fits_into_its_presence() -> None:
    names = [f"2001:db8:1234:5678:9abc:def0:1234:{i:04x}" for i in range(500)]
    full = msgspec.structs.replace(PRESENCE, refuses=dict.fromkeys(names, "x" * 64))
    payload = wire.encode_presence(SECRET, PRESENCE_TOPIC, full)
    assert wire.decode_presence((SECRET,), PRESENCE_TOPIC, payload) == full


_BODY = b'{"on":1,"i":"5f0e5f0e5f0e5f0e"}'


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.BAD_SIGNATURE),
        (_BODY, Reason.BAD_SIGNATURE),
        (_presence(_BODY, secret=b"another"), Reason.BAD_SIGNATURE),
        (_presence(_BODY, topic="piagent/home/s/pi4"), Reason.BAD_SIGNATURE),
        (_presence(_BODY) + b" ", Reason.BAD_SIGNATURE),
        (_presence(_BODY).replace(b'"on":1', b'"on":0'), Reason.BAD_SIGNATURE),
        (_presence(_BODY)[:-1] + b',"on":0}', Reason.BAD_SIGNATURE),
        (b" " * (wire.MAX_SIZE + 1), Reason.TOO_LARGE),
        (_presence(b"[" * 60_000 + b"}"), Reason.MALFORMED),
        (_presence(b'{"new":' * 9_000 + b"}"), Reason.MALFORMED),
        (_presence(b"{}"), Reason.MALFORMED),
        (_presence(_BODY.replace(b"1,", b"2,")), Reason.MALFORMED),
        (_presence(_BODY.replace(b"5f0e", b"5F0E")), Reason.MALFORMED),
        (_presence(_BODY[:-1] + b',"g":101}'), Reason.MALFORMED),
        (_presence(_BODY[:-1] + b',"m":"02:00"}'), Reason.MALFORMED),
        (_presence(_BODY[:-1] + b',"m":"020000000001\\n"}'), Reason.MALFORMED),
        (_presence(_BODY[:-1] + b',"h":"' + b"x" * 65 + b'"}'), Reason.MALFORMED),
        (_presence(_BODY[:-1] + b',"r":{"v":' + b'"' + b"x" * 65 + b'"}}'), Reason.MALFORMED),
    ],
)  # fmt: skip
def test_presence_that_cannot_be_believed_is_refused(payload: bytes, reason: Reason) -> None:
    assert wire.decode_presence((SECRET,), PRESENCE_TOPIC, payload) == Refused("pi3", reason)


@given(st.binary(max_size=300), st.text(max_size=40))
def test_no_bytes_are_taken_for_presence(payload: bytes, topic: str) -> None:
    assert isinstance(wire.decode_presence((SECRET,), topic, payload), Refused)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_of_presence_is_noticed(position: int, flip: int) -> None:
    payload = bytearray(wire.encode_presence(SECRET, PRESENCE_TOPIC, PRESENCE))
    payload[position % len(payload)] ^= flip
    read = wire.decode_presence((SECRET,), PRESENCE_TOPIC, bytes(payload))
    assert isinstance(read, Refused)


# ---- control messages ----

CONTROL_TOPIC = wire.Topics("home").control("pi1")
CONTROL = wire.Control(
    sender="pi3",
    incarnation="5f0e5f0e5f0e5f0e",
    seq=7,
    to="0123456789abcdef",
    command=wire.Command.PREPARE,
    vip="10.0.0.1",
    node="pi1",
    mac="0200000000ab",
    ms=10_000,
    epoch=1_795_410_002_345,
    detail="asked by an operator",
)


def _control(**changes: object) -> bytes:
    fields = json.loads(wire.encode_control(SECRET, CONTROL_TOPIC, CONTROL).partition(b".")[2])
    return _sign(json.dumps(fields | changes).encode(), CONTROL_TOPIC)


@pytest.mark.parametrize("command", wire.Command)
def test_a_control_message_comes_through_whole(command: wire.Command) -> None:
    sent = msgspec.structs.replace(CONTROL, command=command)
    payload = wire.encode_control(SECRET, CONTROL_TOPIC, sent)
    assert payload == _sign(payload.partition(b".")[2], CONTROL_TOPIC)
    assert wire.decode_control((b"x", SECRET), CONTROL_TOPIC, payload) == sent


def test_a_detail_that_is_too_long_is_cut_not_refused() -> None:
    sent = msgspec.structs.replace(CONTROL, detail="x" * 1000)
    read = wire.decode_control(
        (SECRET,), CONTROL_TOPIC, wire.encode_control(SECRET, CONTROL_TOPIC, sent)
    )
    assert isinstance(read, wire.Control)
    assert read.detail == "x" * wire.DETAIL_MAX


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"x" * (wire.MAX_SIZE + 1), Reason.TOO_LARGE),
        (_sign(b"{}", CONTROL_TOPIC, b"another"), Reason.BAD_SIGNATURE),
        (_sign(b"{}", CONTROL_TOPIC), Reason.MALFORMED),
        (_sign(b"[" * 60_000, CONTROL_TOPIC), Reason.MALFORMED),
        (_control(v=2), Reason.OTHER_VERSION),
        (_control(n=""), Reason.MALFORMED),
        (_control(to="pi1"), Reason.MALFORMED),
        (_control(command="reboot"), Reason.MALFORMED),
        (_control(mac="0200000000AB"), Reason.MALFORMED),
        (_control(ms=-1), Reason.MALFORMED),
        (_control(detail="x" * 201), Reason.MALFORMED),
        (_control(z=1), Reason.MALFORMED),
    ],
)
def test_what_is_wrong_with_a_control_message_is_named(payload: bytes, reason: Reason) -> None:
    assert wire.decode_control((SECRET,), CONTROL_TOPIC, payload) == Refused("pi1", reason)


def test_no_message_passes_for_one_of_another_kind_or_to_another_node() -> None:
    lease = wire.encode(SECRET, TOPIC, MESSAGE)
    control = wire.encode_control(SECRET, CONTROL_TOPIC, CONTROL)
    elsewhere = wire.Topics("home").control("pi2")
    for read in (
        wire.decode((SECRET,), TOPIC, control),
        wire.decode_control((SECRET,), CONTROL_TOPIC, lease),
        wire.decode_control((SECRET,), elsewhere, control),
    ):
        assert isinstance(read, Refused)
        assert read.reason is Reason.BAD_SIGNATURE


@given(st.binary(max_size=300), st.text(max_size=40))
def test_no_bytes_are_taken_for_a_control_message(payload: bytes, topic: str) -> None:
    assert isinstance(wire.decode_control((SECRET,), topic, payload), Refused)
