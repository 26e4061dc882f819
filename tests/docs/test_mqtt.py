"""The MQTT reference says what goes over the wire."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from piagent.core import wire
from piagent.core.lease_types import LeaseMessage

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


def test_the_table_has_every_topic() -> None:
    topics = wire.Topics("<cluster>")
    all_of_them = [
        topics.lease("<group>", "<node>"),
        topics.echo("<node>", "<connection>"),
        topics.presence("<node>"),
        topics.vip("<vip>"),
    ]
    assert re.findall(r"^\| `(piagent/\S+)` \|", PAGE.read_text(), re.MULTILINE) == all_of_them


def test_the_example_of_a_lease_message_is_a_valid_one() -> None:
    topic, payload = example(LEASE)
    secret = re.search(r"secret of the example is `(.+?)`", sections()[LEASE])
    assert secret is not None
    read = wire.decode(secret[1].encode(), topic, payload.encode())
    assert isinstance(read, LeaseMessage), read
    assert read.asserts
    assert read.yields


def test_every_key_of_every_payload_is_explained_in_order() -> None:
    for section, kind in ((LEASE, LeaseMessage), (PRESENCE, wire.Presence)):
        assert keys(section) == [f.encode_name for f in msgspec.structs.fields(kind)]
    assert keys(OWNERSHIP) == [f.encode_name for f in msgspec.structs.fields(wire.Ownership)]


def test_the_examples_for_people_have_the_form_of_the_code() -> None:
    for section, kind in ((PRESENCE, wire.Presence), (OWNERSHIP, wire.Ownership)):
        (text,) = example(section)
        assert msgspec.json.encode(msgspec.json.decode(text, type=kind)).decode() == text


def test_the_limit_of_a_message_is_the_codes() -> None:
    assert f"{wire.MAX_SIZE // 1024} KiB" in sections()[LEASE]
