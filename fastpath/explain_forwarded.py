"""What becomes of a flow that is forwarded, and why: a frame of its client goes through a trial.

The frame is real, the tables are compiled as the live forwarder's are, and the code is the same;
the live one's flows are not looked at. So this is what a flow gets that begins now.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from fastpath.explain_carried import Conversation, carried_alike
from fastpath.forwards import Forward, Target, packed
from fastpath.packet.conversation import Ends, Headers, frame, headers, told_mtu
from fastpath.packet.flow_cache import FlowCache
from fastpath.prefixes import merged
from fastpath.trial import Taken, Trial

CLIENT_MAC = bytes.fromhex("020000000001")
"""Nobody's: which router or client a frame comes from changes nothing but where answers go."""


class Node(NamedTuple):
    """The forwarder that a flow comes to."""

    hash_key: bytes
    interface: int
    """Index of the one that clients come by."""
    mac: bytes
    mtu: int
    ports: tuple[int, int] = (49152, 57343)
    cache: FlowCache | None = None
    """Of the kernel's, which may carry such a flow already."""


def explain(
    forward: Forward,
    others: Iterable[Forward],
    node: Node,
    ends: Ends,
    *,
    size: int = 0,
    bpf: bool = False,
) -> dict[str, Any]:
    """What becomes of a packet from a client, to that forward's address and port, with a new flow.

    `others`: those beside it. `size`: of the packet, in bytes; 0: the smallest. `bpf`: let the
    kernel's programs have packets of such a flow, too. Raises ValueError for what is no packet, and
    OSError when the kernel refuses its programs (flow_cache.Unavailable) or they cannot be run.
    """
    # Nothing of this packet's is in the others' Maglev tables, which take their time to be built.
    tables = forward, *(each._replace(targets=()) for each in others)
    sent = frame(ends, (node.mac, CLIENT_MAC), size=size)
    taken = _trial(tables, node).take(sent)
    told = _told(forward, node, ends, sent, taken)
    told["carried"] = _carried(forward, node, taken)
    if bpf:
        cache = FlowCache(flows=64, uses=1024)
        talk = Conversation(_trial(tables, node, cache), ends, (node.mac, CLIENT_MAC))
        told["bpf"] = carried_alike(
            talk, cache, node.interface, size=size, nat=forward.how == "nat"
        )
    return told


def passed_over(forward: Forward, target: Target, source: str) -> str:
    """Why nothing new from that client gets to a backend; empty: it may."""
    if not target.up:
        return "down"
    if target.weight == 0:
        return "weight"
    if not target.is_reachable:
        return "unreachable"
    if forward.how != "nat" and packed(target.address) == packed(source):
        return "client"
    return ""


def _allowed(forward: Forward, source: str) -> bool:
    number = int.from_bytes(packed(source))
    ranges = merged(forward.allowed)
    return not ranges or any(first <= number <= last for first, last in ranges)


def _trial(tables: tuple[Forward, ...], node: Node, cache: FlowCache | None = None) -> Trial:
    return Trial(
        tables,
        hash_key=node.hash_key,
        interface=node.interface,
        mtu=node.mtu,
        ports=node.ports,
        cache=cache,
    )


def _told(forward: Forward, node: Node, ends: Ends, sent: bytes, taken: Taken) -> dict[str, Any]:
    went = taken.out[0].frame if taken.verdict == "sent" else b""
    answer = taken.out[0].frame if taken.out and not went else b""
    target = next((each for each in forward.targets if each.name == taken.backend), None)
    return {
        "service": forward.name,
        "how": forward.how,
        "verdict": taken.verdict,
        "kind": taken.kind,
        "allowed": _allowed(forward, ends.source),
        "affinity": forward.affinity_ms is not None,
        "remembers_ms": forward.affinity_ms or 0,
        "hash": f"{taken.hash:016x}",
        "entry": taken.entry,
        "table": taken.table,
        "chosen": taken.backend,
        "interface": target.interface if target else 0,
        "mac": target.mac if target else b"",
        "mtu": taken.mtu,
        "changes": list(changes(headers(sent), headers(went))) if went else [],
        "frame_in": sent,
        "frame_out": went,
        "answer": answer,
        "answer_mtu": told_mtu(answer) if answer else None,
        "backends": [
            {
                "name": each.name,
                "weight": each.weight,
                "up": each.up,
                "passed_over": passed_over(forward, each, ends.source),
            }
            for each in sorted(forward.targets, key=lambda target: target.name)
        ],
        "cache_mode": node.cache.mode if node.cache else "none",
        "cache_reason": node.cache.reason if node.cache else "there is none",
        "carried": None,
        "bpf": None,
    }


def changes(before: Headers, after: Headers) -> Iterator[tuple[str, str, str]]:
    """What is another one, as (field, before, after); an outer header has nothing before."""
    if after.outer is not None:
        yield "outer source", "", after.outer[0]
        yield "outer destination", "", after.outer[1]
    for name, old, new in (
        ("source", before.ends.source, after.ends.source),
        ("source port", before.ends.source_port, after.ends.source_port),
        ("destination", before.ends.destination, after.ends.destination),
        ("destination port", before.ends.destination_port, after.ends.destination_port),
        ("ttl", before.ttl, after.ttl),
        ("source MAC", before.source_mac.hex(":"), after.source_mac.hex(":")),
        ("destination MAC", before.destination_mac.hex(":"), after.destination_mac.hex(":")),
    ):
        if old != new:
            yield name, str(old), str(new)


def _carried(forward: Forward, node: Node, taken: Taken) -> dict[str, Any] | None:
    """What the kernel does with this very flow by now."""
    found = node.cache.find(taken.key) if node.cache is not None else None
    if found is None:
        return None
    backend = next(
        (
            each.name
            for each in forward.targets
            if packed(each.address) == found.address
            or (not any(found.address) and each.mac == found.mac)
        ),
        None,
    )
    idle_ns = time.monotonic_ns() - found.use.last_ns
    return {
        "backend": backend,
        "packets": found.use.packets,
        "bytes": found.use.bytes,
        "idle_ms": idle_ns // 1_000_000 if found.use.last_ns else None,
    }
