"""Flows that are handed over, against a dictionary of who has which."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpath import flow_batches
from fastpath.flow_batches import RECORD_SIZE, batches, opened
from fastpath.forwards import Forward, Target, packed
from fastpath.packet.verdicts import ADOPTED
from piagent.adapters import netns
from tests.fastpath.packet.flow_model import TCP, UDP

BUILT = "built with PIAGENT_PROBE=1 only"
probe = pytest.importorskip("fastpath.packet._handover_probe", reason=BUILT)
hashing = pytest.importorskip("fastpath.hashing._probe", reason=BUILT)
REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

VIP, OTHER_VIP, VIP6 = "10.9.0.9", "10.9.0.8", "fd09::9"
OWN_MAC, CLIENT_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000099")
PORTS = 50000, 50003
CONFIRMED_MAX = 6
DONE, CLOSING, ESTABLISHED, STREAM = 1, 2, 3, 4
START_MS = 1_000_000


class Record(NamedTuple):
    """As in flow_record.pxd."""

    client: str = "10.9.0.100"
    backend: str = "b1"
    silent_ms: int = 0
    client_port: int = 40000
    vip_port: int = 80
    nat_port: int = 50000
    mac: bytes = CLIENT_MAC
    protocol: int = TCP
    state: int = ESTABLISHED
    fins: int = 0

    def packed(self) -> bytes:
        name = hashing.xxh64(self.backend.encode(), 0)
        ports = struct.pack("!IHHH", self.silent_ms, self.client_port, self.vip_port, self.nat_port)
        told = bytes([self.protocol, self.state, self.fins, 0])
        return packed(self.client) + struct.pack("!Q", name) + ports + self.mac + told

    @property
    def key(self) -> tuple[str, int, int, int]:
        return self.client, self.client_port, self.vip_port, self.protocol


def key_of(record: Record, vip: str = VIP) -> bytes:
    """The flow_key_t of packets from the client."""
    ports = struct.pack("!HH", record.client_port, record.vip_port)
    return packed(record.client) + packed(vip) + ports + bytes([record.protocol, 0, 0, 0])


def target(name: str, **more: object) -> Target:
    address = f"10.9.0.{10 + int(name[1:])}"
    made = Target(
        name=name, address=address, port=8080, weight=1, up=True, interface=1,
        mac=bytes.fromhex("020000000011"), own_mac=OWN_MAC, source=VIP,
    )  # fmt: skip
    return made._replace(**more)  # type: ignore[arg-type]


TARGETS = (
    target("b1"),
    target("b2"),
    target("b3", up=False),
    target("b4", interface=0, mac=b"", own_mac=b"", source=""),
    target("b5", source="10.9.0.1"),
)
ALLOWED = ("10.9.0.100/32",)
FORWARDS = (
    Forward("web", VIP, 80, False, "nat", TARGETS),
    Forward("dns", VIP, 80, True, "nat", TARGETS),
    Forward("few", VIP, 81, False, "nat", TARGETS, allowed=ALLOWED),
    Forward("direct", VIP, 82, False, "dsr", (target("b1", port=82),)),
    Forward("six", VIP6, 80, True, "nat", (target("b6", address="fd09::16", source=VIP6),)),
    Forward("other", OTHER_VIP, 80, False, "nat", (target("b1", source=OTHER_VIP),)),
)


def node(confirmed_max: int = CONFIRMED_MAX, ports: tuple[int, int] = PORTS) -> probe.Node:
    return probe.Node(FORWARDS, ports, confirmed_max, OWN_MAC)


class Model:
    """The flows of VIP, by the rules of handover.pxd."""

    def __init__(self) -> None:
        self.flows: dict[tuple[str, int, int, int], Record] = {}

    def adopt(self, record: Record) -> str:
        what = self._refusal(record)
        if what is None:
            self.flows[record.key] = record
        return what or "adopted"

    def _refusal(self, record: Record) -> str | None:
        fins = {DONE: (3,), CLOSING: (1, 2), ESTABLISHED: (0,)}.get(record.state, ())
        if record.protocol != TCP:
            fins = (0,) if (record.protocol, record.state) == (UDP, STREAM) else ()
        if record.fins not in fins or 0 in (record.client_port, record.vip_port, record.nat_port):
            return "malformed"
        if record.client in {VIP, VIP6, "0.0.0.0", "224.0.0.1", "127.0.0.1"}:
            return "malformed"
        if record.mac[0] & 1 or not any(record.mac):
            return "malformed"
        if record.vip_port == 82 or (record.vip_port, record.protocol) == (81, UDP):
            return "no-service"
        if record.client == OTHER_VIP and record.client_port == 80 and record.protocol == TCP:
            return "source-not-allowed"
        if record.mac == OWN_MAC or (record.vip_port == 81 and record.client != "10.9.0.100"):
            return "source-not-allowed"
        if record.backend not in {"b1", "b2"}:
            return "no-backend"
        if record.key in self.flows:
            return "known"
        same = [
            one
            for one in self.flows.values()
            if (one.backend, one.protocol) == (record.backend, record.protocol)
        ]
        taken = {one.nat_port for one in same}
        if not PORTS[0] <= record.nat_port <= PORTS[1] or record.nat_port in taken:
            return "no-port"
        return "full" if len(self.flows) >= CONFIRMED_MAX else None


def records(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[Record]:
    """Records of which only these fields differ."""
    same = {name: st.just(value) for name, value in Record()._asdict().items()}
    return st.builds(Record, **(same | fields))  # type: ignore[arg-type]


RECORDS = records(
    client=st.sampled_from(
        ["10.9.0.100", "10.9.0.200", "10.9.0.101", VIP, OTHER_VIP, VIP6, "224.0.0.1", "127.0.0.1"]
    ),
    backend=st.sampled_from(["b1", "b1", "b2", "b2", "b3", "b4", "b5", "b6"]),
    silent_ms=st.integers(0, 2**32 - 1),
    client_port=st.sampled_from([40000, 40001, 80, 0]),
    vip_port=st.sampled_from([80, 80, 80, 81, 82, 0]),
    nat_port=st.sampled_from([50000, 50001, 50002, 50003, 50004, 49999, 0]),
    mac=st.sampled_from([CLIENT_MAC] * 6 + [OWN_MAC, bytes(6), b"\xff" * 6]),
    protocol=st.sampled_from([TCP, TCP, TCP, UDP, 1, 0]),
    state=st.sampled_from([DONE, CLOSING, ESTABLISHED, STREAM, 0, 5, 255]),
    fins=st.sampled_from([0, 0, 1, 2, 3, 4, 255]),
)
SOUND = records(
    client=st.sampled_from(["10.9.0.100", "10.9.0.101"]),
    backend=st.sampled_from(["b1", "b2"]),
    client_port=st.sampled_from([40000, 40001]),
    vip_port=st.sampled_from([80, 81]),
    nat_port=st.integers(50000, 50003),
)


def sets_of(vip: str, records: bytes) -> set[bytes]:
    """The records without what time changes: how long they have been silent."""
    pieces = [records[at : at + RECORD_SIZE] for at in range(0, len(records), RECORD_SIZE)]
    return {piece[:24] + bytes(4) + piece[28:] for piece in pieces}


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.one_of(st.lists(st.one_of(RECORDS, SOUND, SOUND), max_size=8), st.just("end")),
        max_size=8,
    )
)
@example(steps=[[Record()], "end", [Record()]])
def test_flows_come_and_go_as_in_the_model(steps: list[list[Record] | str]) -> None:
    here, model, now_ms = node(), Model(), START_MS
    for step in steps:
        now_ms += 10
        if isinstance(step, str):
            assert here.end(packed(VIP), now_ms) == len(model.flows)
            model.flows.clear()
        else:
            expected = dict.fromkeys(ADOPTED, 0)
            for record in step:
                expected[model.adopt(record)] += 1
            told, _ = here.adopt(packed(VIP), b"".join(one.packed() for one in step), now_ms)
            assert dict(zip(ADOPTED, told, strict=True)) == expected
        exported, _ = here.export(packed(VIP), CONFIRMED_MAX, now_ms)
        wanted = b"".join(one._replace(silent_ms=0).packed() for one in model.flows.values())
        assert sets_of(VIP, exported) == sets_of(VIP, wanted)
        assert here.export(packed(OTHER_VIP), CONFIRMED_MAX, now_ms)[0] == b""


@settings(max_examples=500, deadline=None)
@given(data=st.binary(min_size=RECORD_SIZE, max_size=RECORD_SIZE), vip=st.sampled_from([VIP, VIP6]))
def test_a_record_of_random_bytes_is_refused_or_says_what_it_says(data: bytes, vip: str) -> None:
    assert probe.read_again(packed(vip), data) in {None, data}


@settings(max_examples=300, deadline=None)
@given(record=SOUND, at=st.integers(0, RECORD_SIZE - 1), bit=st.integers(0, 7))
def test_a_record_with_a_wrong_bit_is_refused_or_says_what_it_says(
    record: Record, at: int, bit: int
) -> None:
    sound = record.packed()
    assert probe.read_again(packed(VIP), sound) == sound
    spoilt = bytearray(sound)
    spoilt[at] ^= 1 << bit
    assert probe.read_again(packed(VIP), bytes(spoilt)) in {None, bytes(spoilt)}


def test_clients_of_one_ip_version_come_to_vips_of_the_same() -> None:
    six = Record(client="fd09::100").packed()
    assert probe.read_again(packed(VIP6), six) == six
    assert probe.read_again(packed(VIP), six) is None
    assert probe.read_again(packed(VIP6), Record().packed()) is None


def test_packets_of_an_adopted_flow_go_on_as_they_did() -> None:
    here = node()
    here.adopt(packed(VIP), Record(nat_port=50002).packed(), START_MS)
    port = [struct.pack("!H", number) for number in (50002, 8080, 80, 40000)]
    b1 = TARGETS[0]
    assert here.rewrites(key_of(Record())) == [
        (packed(VIP), packed(b1.address), (port[0], port[1]), OWN_MAC, b1.mac),
        (packed(VIP), packed("10.9.0.100"), (port[2], port[3]), OWN_MAC, CLIENT_MAC),
    ]


def test_flows_of_udp_and_of_ipv6_are_flows_like_any() -> None:
    here = node()
    six = Record("fd09::100", "b6", protocol=UDP, state=STREAM)
    assert here.adopt(packed(VIP6), six.packed(), START_MS)[0][0] == 1
    there, back = here.rewrites(key_of(six, VIP6))
    assert there[:2] == (packed(VIP6), packed("fd09::16"))
    assert back[:2] == (packed(VIP6), packed("fd09::100"))
    exported, _ = here.export(packed(VIP6), 9, START_MS)
    assert exported == six.packed()
    assert node().adopt(packed(VIP6), exported, START_MS)[0][0] == 1


def test_how_long_a_flow_has_been_silent_is_what_the_kernel_says_if_that_is_less() -> None:
    here = node()
    used, silent = Record(), Record(client_port=40001, nat_port=50001)
    here.adopt(packed(VIP), used.packed() + silent.packed(), START_MS)
    here.use(key_of(used), (START_MS + 700) * 1_000_000)
    exported, _ = here.export(packed(VIP), 2, START_MS + 1000)
    told = {exported[at : at + 44][28:30]: exported[at + 24 : at + 28] for at in (0, RECORD_SIZE)}
    assert told == {
        struct.pack("!H", 40000): struct.pack("!I", 300),
        struct.pack("!H", 40001): struct.pack("!I", 1000),
    }


def test_many_flows_take_many_turns_and_no_more_are_written_than_there_is_room_for() -> None:
    here = node(4096, (40000, 60000))
    sent = [Record(client_port=1 + i, nat_port=40000 + i) for i in range(3000)]
    told, turns = here.adopt(packed(VIP), b"".join(one.packed() for one in sent), START_MS)
    assert told[0] == 3000
    assert turns >= 3000 // 64
    exported, turns = here.export(packed(VIP), 4096, START_MS)
    assert sets_of(VIP, exported) == sets_of(VIP, b"".join(one.packed() for one in sent))
    assert turns >= 3000 // 512
    assert len(here.export(packed(VIP), 17, START_MS)[0]) == 17 * RECORD_SIZE
    assert here.end(packed(VIP), START_MS) == 3000


def test_a_flow_comes_back_with_its_port_before_that_has_rested() -> None:
    one, two = node(), node()
    one.adopt(packed(VIP), Record().packed(), START_MS)
    there, _ = one.export(packed(VIP), 9, START_MS)
    assert two.adopt(packed(VIP), there, START_MS)[0][0] == 1
    assert one.end(packed(VIP), START_MS) == 1
    back, _ = two.export(packed(VIP), 9, START_MS + 1000)
    assert one.adopt(packed(VIP), back, START_MS + 1000)[0][0] == 1


# ---- batches ----


def test_those_used_last_are_chosen_and_what_is_over_is_left_out_first() -> None:
    over = Record(client_port=1, state=DONE, fins=3, silent_ms=0)
    lately, before, long_ago = (Record(client_port=2 + i, silent_ms=10 * i) for i in range(3))
    records = b"".join(one.packed() for one in (before, over, long_ago, lately))
    (batch,) = batches(packed(VIP), records, 3, 10)
    assert opened(packed(VIP), batch) == b"".join(
        one.packed() for one in (long_ago, before, lately)
    )


def test_no_batch_is_longer_than_asked_for_and_together_they_have_all() -> None:
    records = b"".join(Record(client_port=1 + i).packed() for i in range(25))
    made = batches(packed(VIP), records, 16384, 10)
    sizes = [len(opened(packed(VIP), batch)) // RECORD_SIZE for batch in made]
    assert sizes == [10, 10, 5]
    assert batches(packed(VIP), b"", 16384, 10) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda batch: batch[:19], "no batch"),
        (lambda batch: b"", "no batch"),
        (lambda batch: batch[:-1], "cut off"),
        (lambda batch: b"\x02" + batch[1:], "version 2"),
        (lambda batch: batch[:1] + b"\x2d" + batch[2:], "45 bytes"),
        (lambda batch: batch[:2] + b"\x01" + batch[3:], "version 1"),
        (lambda batch: batch[:19] + b"\x08" + batch[20:], "another VIP"),
    ],
)
def test_what_is_no_batch_of_the_vip_is_refused_with_a_reason(
    spoil: Callable[[bytes], bytes], says: str
) -> None:
    (batch,) = batches(packed(VIP), Record().packed(), 1, 1)
    with pytest.raises(ValueError, match=says):
        opened(packed(VIP), spoil(batch))


def test_sizes_and_names_are_those_of_the_engine() -> None:
    assert flow_batches.RECORD_SIZE == probe.RECORD_SIZE == len(Record().packed())
    assert len(ADOPTED) == len(node().adopt(packed(VIP), b"", START_MS)[0])
