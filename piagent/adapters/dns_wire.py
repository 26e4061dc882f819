"""DNS messages: the bytes of a query -> the bytes of its answer (RFC 1035, 6891, 8914).

dnslib writes the answer. The query, which may come from anybody, is read here: it needs no
compression, and dnslib's names may lead in a circle until Python's stack is full.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from ipaddress import ip_address
from typing import Any, Final

import dnslib
from msgspec import Struct
from msgspec.structs import replace

from piagent.core.names import Answer, Code, Question, Record, Soa, Srv, Type

UDP_MAX: Final = 1232
"""Of what an answer by UDP may have: no IPv6 packet with it is in fragments (RFC 9715)."""
UDP_PLAIN: Final = 512
"""The same for who does not speak EDNS (RFC 1035 section 4.2.1)."""
TCP_MAX: Final = 0x3FFF
"""Of an answer by TCP: how far a compressed name can point back."""
HEAD: Final = struct.Struct("!6H")
RECORDS_MAX: Final = 256
"""Of one answer: writing more would keep the agent from its leases for too long."""
RECORD_HEAD: Final = 12
"""Bytes of a record without its data: a pointer to a name, type, class, TTL, length."""

QR, AA, TC, RD = 0x8000, 0x0400, 0x0200, 0x0100
OPCODE: Final = 0x7800
CODE: Final = 0x000F
IN: Final = 1
OPT: Final = 41
IXFR, AXFR = 251, 252
EDE: Final = 15
"""The option with an extended error (RFC 8914)."""
EDE_OTHER, EDE_NOT_AUTHORITATIVE = 0, 20

Answerer = Callable[[Question], Answer]


class Failure(IntEnum):
    """Response codes beside those of an `Answer`."""

    FORMERR = 1
    SERVFAIL = 2
    NOTIMP = 4
    BADVERS = 16
    """RFC 6891 section 6.1.3."""


class Edns(Struct, frozen=True):
    """What a client says of itself (RFC 6891)."""

    size: int
    version: int


class Query(Struct, frozen=True):
    """A query that can be understood."""

    id: int
    flags: int
    labels: tuple[bytes, ...]
    type: int
    klass: int
    edns: Edns | None


class MalformedError(Exception):
    """A query that cannot be understood."""


def respond(data: bytes, answer: Answerer, *, udp: bool, turn: int = 0) -> bytes | None:
    """Return the message that answers one, or None when there is none to be given.

    `turn` says which of several records of one kind comes first. Raises what `answer` raises.
    """
    query = _understood(data)
    if not isinstance(query, Query):
        return query
    if query.edns is not None and query.edns.version != 0:
        return _pack(query, Failure.BADVERS, Answer())
    if query.klass != IN or query.type in {AXFR, IXFR}:
        said = Answer(code=Code.REFUSED, why="only class IN, and no transfers")
    else:
        said = answer(Question(_text(query.labels), query.type))
    return _fitting(query, said, udp=udp, turn=turn)


def without_answer(data: bytes) -> bytes | None:
    """Return what sends a client to TCP; it is no longer than the query."""
    query = _understood(data)
    return _pack(query, Code.NOERROR, Answer(), TC) if isinstance(query, Query) else query


def failure(data: bytes, code: Failure) -> bytes:
    """Return the head of a message, at least that long, that says only what went wrong."""
    number, flags, *_ = HEAD.unpack_from(data)
    return HEAD.pack(number, QR | flags & (OPCODE | RD) | code, 0, 0, 0, 0)


def _understood(data: bytes) -> Query | bytes | None:
    """Return the query, or what to answer to something else: nothing to an answer."""
    if len(data) < HEAD.size:
        return None
    flags = HEAD.unpack_from(data)[1]
    if flags & QR:
        return None
    if flags & OPCODE:
        return failure(data, Failure.NOTIMP)
    try:
        return read(data)
    except MalformedError:
        return failure(data, Failure.FORMERR)


def read(data: bytes) -> Query:
    """Read a query of one question and at most an OPT record; MalformedError for all else."""
    try:
        number, flags, questions, answers, authority, additional = HEAD.unpack_from(data)
        if (questions, answers, authority) != (1, 0, 0) or additional > 1:
            raise MalformedError("not one question")
        labels, at = _labels(data, HEAD.size)
        kind, klass = struct.unpack_from("!HH", data, at)
        at += 4
        edns = None
        if additional:
            root, opt, size, _, version, _, length = struct.unpack_from("!BHHBBHH", data, at)
            if root or opt != OPT:
                raise MalformedError("not an OPT record")
            at += 11 + length
            edns = Edns(size, version)
    except (struct.error, IndexError) as error:
        raise MalformedError("it ends too early") from error
    if at != len(data):
        raise MalformedError("it ends elsewhere")
    return Query(number, flags, labels, kind, klass, edns)


def _labels(data: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    """Read a name that is written out, and where it ends (RFC 1035 section 3.1)."""
    start, labels = at, []
    while length := data[at]:
        if length > 63 or at + 1 + length - start > 254:
            raise MalformedError("too long a label or name, or a pointer")
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return tuple(labels), at + 1


def _text(labels: tuple[bytes, ...]) -> str:
    """Return the presentation of a name (RFC 1035 section 5.1); its only dots divide labels."""
    return ".".join("".join(map(_character, label)) for label in labels)


def _character(octet: int) -> str:
    plain = 0x21 <= octet <= 0x7E and octet not in b".\\"
    return chr(octet) if plain else f"\\{octet:03}"


def _fitting(query: Query, said: Answer, *, udp: bool, turn: int) -> bytes:
    """Return the message with all that there is room for."""
    limit = _udp_limit(query) if udp else TCP_MAX
    authority = AA if said.code in {Code.NOERROR, Code.NXDOMAIN} else 0
    said = replace(said, records=_rotated(said.records, turn))
    for less, flags in _less_and_less(said, udp=udp):
        if length_at_least(less) <= limit:
            message = _pack(query, said.code, less, authority | flags)
            if len(message) <= limit:
                return message
    raise ValueError(f"no room for the question in {limit} bytes")


def _udp_limit(query: Query) -> int:
    if query.edns is None:
        return UDP_PLAIN
    return max(UDP_PLAIN, min(query.edns.size, UDP_MAX))


def _less_and_less(said: Answer, *, udp: bool) -> Iterator[tuple[Answer, int]]:
    """Yield an answer, and what to leave out when it is too long, with the flag that says so.

    By UDP that is all of it: the client asks again by TCP. By TCP as much as must be.
    """
    if len(said.records) <= RECORDS_MAX:
        yield said, 0
        yield replace(said, additional=(), why=""), 0
    count = 0 if udp else RECORDS_MAX
    while count:
        yield Answer(code=said.code, records=said.records[:count]), TC
        count //= 2
    yield Answer(code=said.code), TC


def length_at_least(said: Answer) -> int:
    """Tell about how long a message will be, never too much: writing one takes time."""
    long = {Type.A: 4, Type.AAAA: 16}
    records = (*said.records, *said.additional)
    return HEAD.size + sum(
        RECORD_HEAD + (len(r.data.target) if isinstance(r.data, Srv) else long.get(r.type, 2))
        for r in records
    )


def _rotated(records: tuple[Record, ...], turn: int) -> tuple[Record, ...]:
    """Begin with another one each turn, unless their order means something (RFC 1794)."""
    if len({record.type for record in records}) != 1:
        return records
    first = turn % len(records)
    return records[first:] + records[:first]


def _pack(query: Query, code: int, said: Answer, flags: int = 0) -> bytes:
    head = dnslib.DNSHeader(id=query.id, bitmap=QR | flags | query.flags & RD | code & CODE)
    question = dnslib.DNSQuestion(dnslib.DNSLabel(query.labels), query.type, query.klass)
    message = dnslib.DNSRecord(
        head,
        questions=[question],
        rr=[_record(one) for one in said.records],
        auth=[_record(one) for one in said.authority],
        ar=[_record(one) for one in said.additional],
    )
    if query.edns is not None:
        options = [_extended_error(code, said.why)] if said.why else []
        message.add_ar(dnslib.EDNS0(udp_len=UDP_MAX, ext_rcode=code >> 4, opts=options))
    return bytes(message.pack())


def _extended_error(code: int, why: str) -> Any:
    number = EDE_NOT_AUTHORITATIVE if code == Code.REFUSED else EDE_OTHER
    return dnslib.EDNSOption(EDE, struct.pack("!H", number) + why.encode())


def _record(record: Record) -> Any:
    name = _name(record.name)
    return dnslib.RR(name, int(record.type), IN, record.ttl_s, _data(record))


def _data(record: Record) -> Any:
    data = record.data
    if isinstance(data, Srv):
        return dnslib.SRV(0, data.weight, data.port, _name(data.target))
    if isinstance(data, Soa):
        times = (1, data.minimum_s, data.minimum_s, data.minimum_s, data.minimum_s)
        return dnslib.SOA(_name(data.mname), _name(data.rname), times)
    if record.type in {Type.A, Type.AAAA}:
        kind = dnslib.A if record.type is Type.A else dnslib.AAAA
        return kind(tuple(ip_address(data).packed))
    kind = dnslib.CNAME if record.type is Type.CNAME else dnslib.PTR
    return kind(_name(data))


def _name(text: str) -> Any:
    """Return a name as dnslib has it; from bytes, since from text it would import IDNA's tables."""
    return dnslib.DNSLabel(text.encode("ascii"))
