"""Bytes of queries and of answers; dnslib reads what was written."""

from __future__ import annotations

import struct

import dnslib
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from piagent.adapters.dns_wire import (
    OPT,
    RECORDS_MAX,
    TCP_MAX,
    UDP_MAX,
    UDP_PLAIN,
    Failure,
    length_at_least,
    respond,
    without_answer,
)
from piagent.core.model import Backend
from piagent.core.names import NEGATIVE_TTL_S, TTL_S, Answer, Question
from tests.zones import external, headless, service, zone

MANY = 60
"""More addresses than fit into 512 bytes, and fewer than into 1232."""
ZONE = zone(
    service("web", cluster_ips=("10.0.0.5", "fd00::5")),
    headless("few", Backend(address="192.168.1.21"), Backend(address="192.168.1.22", port=90)),
    headless("many", *(Backend(address=f"10.1.0.{n}") for n in range(MANY))),
    headless("crowd", *(Backend(address=f"10.2.{n // 250}.{n % 250}") for n in range(600))),
    external("wiki", "wiki.example.com"),
)


def answer(question: Question) -> Answer:
    return ZONE.answer(question)


def query(name: str, kind: str = "A", *, edns: int | None = None, **head: int) -> dnslib.DNSRecord:
    asked = dnslib.DNSRecord.question(name, kind)
    for key, value in head.items():
        setattr(asked.header, key, value)
    if edns is not None:
        asked.add_ar(dnslib.EDNS0(udp_len=edns))
    return asked


def ask(asked: dnslib.DNSRecord, *, udp: bool = True, turn: int = 0) -> dnslib.DNSRecord:
    reply = respond(bytes(asked.pack()), answer, udp=udp, turn=turn)
    assert reply is not None
    read = dnslib.DNSRecord.parse(reply)
    assert (read.header.id, read.header.qr, read.header.ra) == (asked.header.id, 1, 0)
    assert read.header.rd == asked.header.rd
    return read


def data(read: dnslib.DNSRecord) -> list[str]:
    return [str(record.rdata) for record in read.rr]


def code(read: dnslib.DNSRecord) -> str:
    return str(dnslib.RCODE[read.header.rcode])


# ---- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("web.home.piagent", "A", ["10.0.0.5"]),
        ("web.home.piagent", "AAAA", ["fd00::5"]),
        ("wiki.home.piagent", "A", ["wiki.example.com."]),
        ("_http._tcp.web.home.piagent", "SRV", ["0 0 80 web.home.piagent."]),
        ("5.0.0.10.in-addr.arpa", "PTR", ["web.home.piagent."]),
        ("home.piagent", "SOA", ["home.piagent. hostmaster.home.piagent. 1 1 1 1 1"]),
    ],
)
def test_every_type_of_record_reads_as_it_was_meant(
    name: str, kind: str, wanted: list[str]
) -> None:
    read = ask(query(name, kind))
    assert data(read) == wanted
    assert {record.ttl for record in read.rr} == {NEGATIVE_TTL_S if kind == "SOA" else TTL_S}
    assert (read.header.aa, read.header.tc, code(read)) == (1, 0, "NOERROR")
    assert read.questions == query(name, kind).questions


@pytest.mark.parametrize("wanted", [0, 1])
def test_that_recursion_was_wanted_comes_back_and_is_not_promised(wanted: int) -> None:
    header = ask(query("web.home.piagent", rd=wanted)).header
    assert (header.rd, header.ra) == (wanted, 0)


def test_srv_records_bring_the_addresses_of_their_targets() -> None:
    read = ask(query("_http._tcp.few.home.piagent", "SRV"))
    assert data(read) == [
        "0 1 8080 192-168-1-21.few.home.piagent.",
        "0 1 90 192-168-1-22.few.home.piagent.",
    ]
    assert [(str(one.rname), str(one.rdata)) for one in read.ar] == [
        ("192-168-1-21.few.home.piagent.", "192.168.1.21"),
        ("192-168-1-22.few.home.piagent.", "192.168.1.22"),
    ]


def test_the_spelling_of_the_question_comes_back() -> None:
    """Resolvers that mix cases at random to notice forged answers compare it."""
    asked = query("wEB.hoME.PIagent")
    reply = respond(bytes(asked.pack()), answer, udp=True)
    assert reply is not None
    assert dnslib.DNSRecord.parse(reply).q.qname.label == (b"wEB", b"hoME", b"PIagent")
    assert str(dnslib.DNSRecord.parse(reply).rr[0].rname) == "wEB.hoME.PIagent."


def test_another_address_is_the_first_one_each_time() -> None:
    first = [data(ask(query("few.home.piagent"), turn=turn))[0] for turn in range(3)]
    assert first == ["192.168.1.21", "192.168.1.22", "192.168.1.21"]


@pytest.mark.parametrize(
    ("name", "kind", "wanted", "authority"),
    [
        ("nobody.home.piagent", "A", "NXDOMAIN", 1),
        ("_tcp.web.home.piagent", "A", "NOERROR", 1),
        ("web.home.piagent", "TXT", "NOERROR", 1),
        ("example.com", "A", "REFUSED", 0),
        (".", "NS", "REFUSED", 0),
        ("web.home.piagent", "AXFR", "REFUSED", 0),
        ("web.home.piagent", "IXFR", "REFUSED", 0),
    ],
)
def test_what_is_not_there_says_why(name: str, kind: str, wanted: str, authority: int) -> None:
    read = ask(query(name, kind, edns=1232))
    assert (code(read), len(read.rr), len(read.auth)) == (wanted, 0, authority)
    assert read.header.aa == (wanted != "REFUSED")


def test_only_class_in_has_names() -> None:
    for name in ("version.bind", "web.home.piagent"):
        asked = dnslib.DNSRecord(q=dnslib.DNSQuestion(name, dnslib.QTYPE.A, dnslib.CLASS.CH))
        assert code(ask(asked)) == "REFUSED"


def test_a_label_with_a_dot_in_it_is_none_of_ours() -> None:
    labels = dnslib.DNSLabel([b"web.home", b"piagent"])
    assert code(ask(dnslib.DNSRecord(q=dnslib.DNSQuestion(labels)))) == "REFUSED"


# ---- EDNS ---------------------------------------------------------------------------------------


def extended_errors(read: dnslib.DNSRecord) -> list[tuple[int, str]]:
    opt = next(one for one in read.ar if one.rtype == OPT)
    return [
        (struct.unpack("!H", one.data[:2])[0], one.data[2:].decode())
        for one in opt.rdata
        if one.code == 15
    ]


def test_edns_is_answered_with_edns_and_nothing_else_is() -> None:
    opt = ask(query("web.home.piagent", edns=4096)).ar[0]
    assert (opt.rtype, opt.edns_len, opt.edns_ver) == (OPT, UDP_MAX, 0)
    assert ask(query("web.home.piagent")).ar == []


def test_an_extended_error_says_what_is_behind_an_empty_answer() -> None:
    assert extended_errors(ask(query("example.com", edns=1232))) == [
        (20, "not a name in home.piagent")
    ]
    asked = bytes(query("web.home.piagent", edns=1232).pack())
    reply = respond(asked, zone(service("web")).answer, udp=True)
    assert extended_errors(dnslib.DNSRecord.parse(reply)) == [(0, "web has no address")]


def test_a_later_version_of_edns_is_not_spoken() -> None:
    asked = dnslib.DNSRecord.question("web.home.piagent")
    asked.add_ar(dnslib.EDNS0(udp_len=1232, version=1))
    read = ask(asked)
    assert (read.header.rcode, read.ar[0].edns_rcode, read.rr) == (0, 1, [])


def room(edns: int | None) -> int:
    return UDP_PLAIN if edns is None else max(UDP_PLAIN, min(edns, UDP_MAX))


@given(
    st.sampled_from(["web", "few", "many", "crowd", "_http._tcp.many", "_http._tcp.few", "none"]),
    st.sampled_from(["A", "SRV", "ANY"]),
    st.none() | st.integers(0, 65535),
)
def test_no_answer_by_udp_is_longer_than_the_client_takes(
    name: str, kind: str, edns: int | None
) -> None:
    asked = query(f"{name}.home.piagent", kind, edns=edns)
    reply = respond(bytes(asked.pack()), answer, udp=True)
    assert reply is not None
    assert len(reply) <= room(edns)
    read = dnslib.DNSRecord.parse(reply)
    whole = answer(Question(f"{name}.home.piagent", dnslib.QTYPE.reverse[kind])).records
    assert read.header.tc == (len(read.rr) < len(whole))
    assert read.header.tc == 0 or read.rr == []


def test_what_is_too_long_for_udp_comes_whole_by_tcp() -> None:
    short = ask(query("many.home.piagent"))
    assert (short.header.tc, short.header.aa, short.rr) == (1, 1, [])
    assert len(ask(query("many.home.piagent", edns=1232)).rr) == MANY
    whole = ask(query("many.home.piagent"), udp=False)
    assert (whole.header.tc, len(whole.rr)) == (0, MANY)


@pytest.mark.parametrize("kind", ["A", "AAAA", "SRV", "CNAME", "PTR", "SOA"])
@pytest.mark.parametrize("name", ["web", "many", "_http._tcp.many", "_http._tcp.web", "wiki"])
def test_the_length_is_never_thought_to_be_more_than_it_is(name: str, kind: str) -> None:
    asked = query(f"{name}.home.piagent", kind)
    said = answer(Question(f"{name}.home.piagent", asked.q.qtype))
    reply = respond(bytes(asked.pack()), answer, udp=False)
    assert reply is not None
    assert length_at_least(said) <= len(reply)


@pytest.mark.parametrize(("name", "kind"), [("crowd", "A"), ("_http._tcp.crowd", "SRV")])
def test_what_is_too_long_for_anything_comes_in_part(name: str, kind: str) -> None:
    asked = query(f"{name}.home.piagent", kind)
    reply = respond(bytes(asked.pack()), answer, udp=False)
    assert reply is not None
    read = dnslib.DNSRecord.parse(reply)
    assert len(reply) <= TCP_MAX
    assert (read.header.tc, read.auth) == (1, [])
    assert RECORDS_MAX / 2 <= len(read.rr) <= RECORDS_MAX


def test_addresses_that_have_no_room_beside_their_srv_records_are_left_out() -> None:
    names = zone(headless("db", *(Backend(address=f"10.1.0.{n}") for n in range(20))))
    asked = bytes(query("_http._tcp.db.home.piagent", "SRV", edns=1232).pack())
    reply = respond(asked, names.answer, udp=True)
    read = dnslib.DNSRecord.parse(reply)
    assert (read.header.tc, len(read.rr)) == (0, 20)
    assert [one.rtype for one in read.ar] == [OPT]


# ---- what is no query ---------------------------------------------------------------------------


def test_an_answer_is_never_answered() -> None:
    assert respond(bytes(query("web.home.piagent", qr=1).pack()), answer, udp=True) is None
    assert without_answer(bytes(query("web.home.piagent", qr=1).pack())) is None
    assert respond(b"\0" * 11, answer, udp=True) is None


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_only_queries_are_known(opcode: int) -> None:
    asked = bytes(query("web.home.piagent", opcode=opcode).pack())
    reply = respond(asked, answer, udp=True)
    assert reply is not None
    read = dnslib.DNSRecord.parse(reply)
    assert (read.header.opcode, code(read), read.header.id) == (
        opcode,
        "NOTIMP",
        struct.unpack("!H", asked[:2])[0],
    )


WEB = bytes(query("web.home.piagent", id=7, rd=0).pack())
WITH_EDNS = bytes(query("web.home.piagent", id=7, rd=0, edns=1232).pack())


@pytest.mark.parametrize(
    "asked",
    [
        WEB[:4] + b"\0\0" + WEB[6:],
        WEB[:4] + b"\0\2" + WEB[6:] + WEB[12:],
        WEB[:6] + b"\0\1" + WEB[8:],
        WEB[:8] + b"\0\1" + WEB[10:],
        WEB[:10] + b"\0\1" + WEB[12:],
        WEB[:10] + b"\xff\xff" + WEB[12:],
        WITH_EDNS[:10] + b"\0\2" + WITH_EDNS[12:] + WITH_EDNS[-11:],
        WEB[:-1],
        WEB + b"\0",
        WEB[:12],
        WEB[:12] + b"\xc0\x0c\0\1\0\1",
        WEB[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        WEB[:12] + b"\x3f" + b"a" * 20,
        WEB[:12] + (b"\x01a" * 127 + b"\x01b") + b"\0\0\1\0\1",
        WITH_EDNS[:-11] + b"\1" + WITH_EDNS[-10:],
        WITH_EDNS[:-10] + b"\0\xfa" + WITH_EDNS[-8:],
    ],
)
def test_what_cannot_be_understood_is_malformed(asked: bytes) -> None:
    reply = respond(asked, answer, udp=True)
    assert reply == struct.pack("!6H", 7, 0x8000 | Failure.FORMERR, 0, 0, 0, 0)


def test_a_name_of_all_the_length_that_there_is_can_be_asked() -> None:
    label = "a" * 63
    name = ".".join([label, label, label, "a" * (253 - 3 * 64 - len(".home.piagent"))])
    read = ask(query(f"{name}.home.piagent"))
    assert code(read) == "NXDOMAIN"


@given(
    st.sampled_from([WEB, WITH_EDNS, bytes(query("_http._tcp.many.home.piagent", "SRV").pack())]),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6),
    st.integers(0, 80),
    st.binary(max_size=20),
    st.booleans(),
)
@example(WEB, [], 0, b"", True)
def test_no_bytes_do_harm(
    start: bytes, changes: list[tuple[int, int]], cut: int, tail: bytes, udp: bool
) -> None:
    spoilt = bytearray(start[: len(start) - cut] + tail)
    for at, value in changes:
        if at < len(spoilt):
            spoilt[at] = value
    check(bytes(spoilt), udp=udp)


@given(st.binary(max_size=600), st.booleans())
def test_noise_does_no_harm(noise: bytes, udp: bool) -> None:
    check(noise, udp=udp)
    check(WEB[:12] + noise, udp=udp)


def check(asked: bytes, *, udp: bool) -> None:
    for reply in (respond(asked, answer, udp=udp), without_answer(asked)):
        if len(asked) < 12 or asked[2] & 0x80:
            assert reply is None
            continue
        assert reply is not None
        assert (reply[:2], reply[2] & 0x80) == (asked[:2], 0x80)
        assert len(reply) <= (UDP_MAX if udp else TCP_MAX)
        if asked[12:].isascii():  # dnslib reads no others
            dnslib.DNSRecord.parse(reply)
    if reply is not None:
        assert len(reply) <= len(asked)  # without_answer is no amplifier
