"""The MQTT reference says what goes over the wire."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from piagent.core import wire
from piagent.core.assignments import MAX_DELETED, Applied, Assignment, Assignments, Refused
from piagent.core.bulletin import MAX_ENDPOINTS, Endpoint, Endpoints, Wants
from piagent.core.checking import DETAIL_MAX, REFRESH_S, SILENCE, Question, Verdict
from piagent.core.lease_types import LeaseMessage
from piagent.core.model import HealthCheck
from piagent.core.records import Kind, Record, digest
from piagent.core.wants import Want, WantedPort

PAGE = Path(__file__).parents[2] / "docs/reference/mqtt.md"


def sections() -> dict[str, str]:
    _, *parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


def keys(section: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", sections()[section], flags=re.MULTILINE)


def example(section: str) -> list[str]:
    return re.findall(r"^ {4}(.+)$", sections()[section], flags=re.MULTILINE)


LEASE = "Lease messages: `l/<group>/<node>`"
PRESENCE = "Presence: `s/<node>`"
OWNERSHIP = "Ownership: `v/<vip>`"
CONTROL = "Control: `ctl/<node>`"
ASSIGNED = "Assignments: `assigned/services`"
DESIRED = "Applied tables: `desired/<kind>/<name>`"
WANTS = "Wants: `wants/<node>`"
ENDPOINTS = "Endpoints: `endpoints/<node>`"
HEALTH = "Verdicts: `health/<service>/<backend>`"
BULLETINS: list[tuple[str, type[Struct], tuple[type[Struct], ...]]] = [
    (ASSIGNED, Assignments, (Assignment,)),
    (DESIRED, Record, ()),
    (WANTS, Wants, (Want,)),
    (ENDPOINTS, Endpoints, (Endpoint,)),
    (HEALTH, Verdict, ()),
]
"""Section, what is in it, and what that has tables of."""


def secrets() -> tuple[bytes]:
    found = re.search(r"secret of the examples on this page is\s`(.+?)`", sections()["Signatures"])
    assert found is not None
    return (found[1].encode(),)


def test_the_table_has_every_topic() -> None:
    topics = wire.Topics("<cluster>")
    all_of_them = [
        topics.lease("<group>", "<node>"),
        topics.echo("<node>", "<connection>"),
        topics.presence("<node>"),
        topics.vip("<vip>"),
        topics.control("<node>"),
        topics.assigned(),
        topics.desired("<kind>/<name>"),
        topics.wants("<node>"),
        topics.endpoints("<node>"),
        topics.health("<service>", "<backend>"),
    ]
    assert re.findall(r"^\| `(piagent/\S+)` \|", PAGE.read_text(), re.MULTILINE) == all_of_them


def test_the_example_of_a_lease_message_is_a_valid_one() -> None:
    topic, payload = example(LEASE)
    read = wire.decode(secrets(), topic, payload.encode())
    assert isinstance(read, LeaseMessage), read
    assert read.asserts
    assert read.yields


def test_the_examples_of_presence_and_control_are_valid_ones() -> None:
    (payload,) = example(PRESENCE)
    read = wire.decode_presence(secrets(), "piagent/home/s/pi-3", payload.encode())
    assert isinstance(read, wire.Presence), read
    assert wire.encode_presence(*secrets(), "piagent/home/s/pi-3", read).decode() == payload
    topic, payload = example(CONTROL)
    asked = wire.decode_control(secrets(), topic, payload.encode())
    assert isinstance(asked, wire.Control), asked
    assert wire.encode_control(*secrets(), topic, asked).decode() == payload


@pytest.mark.parametrize(("section", "kind", "_"), BULLETINS)
def test_the_examples_of_what_is_retained_about_services_are_valid_ones(
    section: str, kind: type[Struct], _: object
) -> None:
    topic, payload = example(section)
    read = wire.decode_signed(secrets(), topic, payload.encode(), msgspec.json.Decoder(kind).decode)
    assert isinstance(read, kind), read
    assert wire.encode_signed(*secrets(), topic, read).decode() == payload


def test_the_example_of_assignments_has_the_digest_of_the_example_of_a_table() -> None:
    given = msgspec.json.decode(example(ASSIGNED)[1], type=Assignments).given["service/web"]
    record = msgspec.json.decode(example(DESIRED)[1], type=Record)
    assert given.applied is not None
    assert given.applied.digest == digest(record)
    assert wire.Topics("home").desired(record.key) == example(DESIRED)[0]


@pytest.mark.parametrize(("section", "kind", "inner"), BULLETINS)
def test_every_key_of_what_is_retained_about_services_is_explained_in_order(
    section: str, kind: type[Struct], inner: tuple[type[Struct], ...]
) -> None:
    kinds = (kind, *inner)
    assert keys(section) == [f.encode_name for of in kinds for f in msgspec.structs.fields(of)]


def test_the_keys_of_small_things_are_named() -> None:
    for section, kind in ((ASSIGNED, Applied), (ASSIGNED, Refused), (WANTS, WantedPort)):
        for field in msgspec.structs.fields(kind):
            assert f"`{field.encode_name}`" in sections()[section]
    assert all(f"`{kind}`" in sections()[DESIRED] for kind in Kind)
    assert f"at most {MAX_ENDPOINTS}" in sections()[ENDPOINTS]
    assert f"at most {MAX_DELETED}" in sections()[ASSIGNED]


def test_every_key_of_every_payload_is_explained_in_order() -> None:
    for section, kind in ((LEASE, LeaseMessage), (PRESENCE, wire.Presence)):
        assert keys(section) == [f.encode_name for f in msgspec.structs.fields(kind)]
    control = [f.encode_name for f in msgspec.structs.fields(wire.Control)]
    assert keys(CONTROL) == [*control, *wire.Command]
    assert keys(OWNERSHIP) == [f.encode_name for f in msgspec.structs.fields(wire.Ownership)]


def test_the_example_for_people_has_the_form_of_the_code() -> None:
    (text,) = example(OWNERSHIP)
    assert msgspec.json.encode(msgspec.json.decode(text, type=wire.Ownership)).decode() == text


def test_the_limit_of_a_message_is_the_codes() -> None:
    assert f"{wire.MAX_SIZE // 1024} KiB" in sections()[LEASE]


def test_the_example_of_a_verdict_answers_the_default_check_of_a_backend() -> None:
    topic, payload = example(HEALTH)
    backend = topic.rpartition("/")[2]
    asked = Question("web", backend, backend, 8080, HealthCheck())
    assert topic == wire.Topics("home").health("web", backend)
    assert msgspec.json.decode(payload, type=Verdict).question == asked.digest()
    assert f"at most {DETAIL_MAX} characters" in sections()[HEALTH]


def test_the_page_about_duty_has_the_times_of_the_code() -> None:
    page = (PAGE.parents[1] / "explanation/health.md").read_text()
    assert f"the {REFRESH_S:g} s after which it is said again" in page
    assert f"for at most {REFRESH_S * SILENCE:g} s" in page
    assert SILENCE == 2.5  # two and a half times
