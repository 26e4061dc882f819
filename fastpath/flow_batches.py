"""Flows of a VIP as one node hands them to another: batches of records, each complete in itself.

A batch is a header (version, size of a record, two zeros, the VIP as 16 bytes) and records
(packet/flow_record.pxd), those that were used last at the end.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator

VERSION = 1
RECORD_SIZE = 44
"""As in packet/flow_record.pxd."""

_HEADER = struct.Struct("!BBH16s")
_SILENT = slice(24, 28)
_STATE = 41
_DONE = 1


def batches(vip: bytes, records: bytes, most: int, each: int) -> list[bytes]:
    """At most `most` of these records of flows to that VIP, `each` in a batch at most.

    When there are more, connections that are over are left out first, then those silent longest.
    """
    order = heapq.nsmallest(most, _pieces(records), key=_silence)
    order.reverse()
    header = _HEADER.pack(VERSION, RECORD_SIZE, 0, vip)
    return [header + b"".join(order[at : at + each]) for at in range(0, len(order), each)]


def opened(vip: bytes, batch: bytes) -> bytes:
    """The records of a batch about that VIP; ValueError says what is wrong with it."""
    if len(batch) < _HEADER.size:
        raise ValueError(f"flows: {len(batch)} bytes are no batch")
    version, size, zero, whose = _HEADER.unpack_from(batch)
    records = batch[_HEADER.size :]
    if (version, size, zero) != (VERSION, RECORD_SIZE, 0):
        raise ValueError(
            f"flows: records of {size} bytes of version {version}, not of {RECORD_SIZE} bytes of"
            f" version {VERSION}: have both nodes run the same piagent"
        )
    if whose != vip:
        raise ValueError("flows: they are of another VIP")
    if len(records) % RECORD_SIZE:
        raise ValueError(f"flows: the last of {len(records) // RECORD_SIZE + 1} records is cut off")
    return records


def _pieces(records: bytes) -> Iterator[bytes]:
    for at in range(0, len(records), RECORD_SIZE):
        yield records[at : at + RECORD_SIZE]


def _silence(record: bytes) -> tuple[bool, bytes]:
    return record[_STATE] == _DONE, record[_SILENT]
