"""The table `netdev piagent`: its sets, and what becomes of each packet.

Two kinds of name below end in 4 or 6, the IP version. `guarded`: every VIP of the file. `held`: may
answer ARP and NDP and be announced. `served`: IP goes in and out. `accepted`: the same, for VIPs
that this host is a backend of. `former`: the hardware address of
a VIP's former owner, during a flow hand-off. `flows`: TCP flows that live here, `crowded`: VIPs
with more of them than `flows` has room for. `asker6`: who asks for neighbours when a VIP must not.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping

from msgspec import Struct

from piagent.adapters import nftables
from piagent.adapters.nftables import (
    ACCEPT,
    DROP,
    JUMP,
    LINK,
    META_L4PROTO,
    META_PROTOCOL,
    NETWORK,
    TRANSPORT,
    Batch,
    equals,
    forward,
    immediate,
    load,
    mapped,
    masked,
    meta,
    not_within,
    remember,
    verdict,
    within,
    write,
)
from piagent.adapters.rtnetlink import Link

TABLE = "piagent"

_PRIORITY = -300
"""Before flow tables and other people's chains, which are at 0 by habit."""
_DEFAULT_TIMEOUT_MS = 1000
"""Of a timed element that is given none of its own: nothing here is open for ever."""
_FLOWS_SIZE = 65_535
_CROWDED_SIZE = 4096
_SYN_TIMEOUT_MS = 15_000
"""Longer than a client waits before it repeats a SYN; a flood of them is gone that soon."""
_FLOW_TIMEOUT_MS = 300_000
"""How long a flow may be idle during a hand-off and still be known."""
_CROWDED_TIMEOUT_MS = 60_000

_ARP, _ICMPV6, _TCP = b"\x08\x06", b"\x3a", b"\x06"
_ARP_OPERATION, _ARP_SENDER, _ARP_TARGET = 6, 14, 24
_ARP_REQUEST = b"\x00\x01"
_NDP_TARGET = 8
_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = b"\x87", b"\x88"
_TCP_FLAGS, _SYN, _SYN_ACK = 13, b"\x02", b"\x12"


class Family(Struct, frozen=True):
    """What differs between the two IP versions."""

    version: str
    """The last letter of the names."""
    ethertype: bytes
    kind: int
    size: int
    """Of an address, in bytes."""
    source: int
    destination: int
    """Where the header has them (RFC 791 section 3.1, RFC 8200 section 3)."""


IPV4 = Family("4", b"\x08\x00", nftables.TYPE_IPV4, 4, 12, 16)
IPV6 = Family("6", b"\x86\xdd", nftables.TYPE_IPV6, 16, 8, 24)
FAMILIES = (IPV4, IPV6)


def by_size(keys: Collection[bytes]) -> list[tuple[Family, list[bytes]]]:
    """The packed addresses of each version, if there are any."""
    sorted_out = [(f, [key for key in keys if len(key) == f.size]) for f in FAMILIES]
    return [(family, its) for family, its in sorted_out if its]


def fence(
    interface: str,
    guarded: Collection[bytes],
    table: str = TABLE,
    accepted: Collection[bytes] = (),
) -> Batch:
    """Have the table and nothing else of that name, with nothing open.

    `accepted`: those of the guarded that this host serves, whoever owns them; it says nothing of
    them.
    """
    batch = Batch(table)
    batch.remove_table()
    batch.new_table()
    for family in FAMILIES:
        key = (family.kind, family.size)
        for name in ("guarded", "accepted"):
            batch.new_set(f"{name}{family.version}", key)
        for name in ("held", "served"):
            batch.new_set(f"{name}{family.version}", key, timeout_ms=_DEFAULT_TIMEOUT_MS)
    for family, keys in by_size(guarded):
        batch.add(f"guarded{family.version}", keys)
    for family, keys in by_size(accepted):
        batch.add(f"accepted{family.version}", keys)
    batch.new_base_chain("ingress", nftables.INGRESS, interface, _PRIORITY)
    batch.new_base_chain("egress", nftables.EGRESS, interface, _PRIORITY)
    _answer_nothing(batch)
    _say_nothing(batch)
    return batch


def _answer_nothing(batch: Batch) -> None:
    """What comes in.

    ARP replies pass: nobody answers them, and gratuitous ones of the owner keep this host's own
    neighbour table right. So do neighbour advertisements.
    """
    request = load(NETWORK, _ARP_OPERATION, 2) + equals(_ARP_REQUEST)
    batch.rule(
        "ingress",
        _ethertype(_ARP) + request,
        _drop_unless("held", IPV4, load(NETWORK, _ARP_TARGET, IPV4.size)),
    )
    batch.rule(
        "ingress",
        _icmpv6(_NEIGHBOUR_SOLICITATION),
        _drop_unless("held", IPV6, load(TRANSPORT, _NDP_TARGET, IPV6.size)),
    )
    for family in FAMILIES:
        destination = load(NETWORK, family.destination, family.size)
        batch.rule("ingress", _ethertype(family.ethertype), _drop_unserved(family, destination))


def _say_nothing(batch: Batch) -> None:
    """What goes out, raw frames included.

    A neighbour solicitation *from* a VIP tells its receiver the VIP's hardware address (RFC 4861
    section 7.2.3), just as an ARP request does: both are announcements.
    """
    sender = load(NETWORK, _ARP_SENDER, IPV4.size)
    batch.rule("egress", _ethertype(_ARP), _drop_unless("held", IPV4, sender))
    for kind, address in (
        (_NEIGHBOUR_ADVERTISEMENT, load(TRANSPORT, _NDP_TARGET, IPV6.size)),
        (_NEIGHBOUR_SOLICITATION, load(NETWORK, IPV6.source, IPV6.size)),
    ):
        batch.rule("egress", _icmpv6(kind), _drop_unless("held", IPV6, address))
    for family in FAMILIES:
        source = load(NETWORK, family.source, family.size)
        batch.rule("egress", _ethertype(family.ethertype), _drop_unserved(family, source))


def add_hand_off(batch: Batch, link: Link) -> None:
    """Add the flow hand-off to a table that `fence` made.

    Only who holds the VIP passes packets on, so they never run in circles.
    """
    _ask_in_no_vip_s_name(batch)
    for family in FAMILIES:
        version, key = family.version, (family.kind, family.size)
        batch.new_set(
            f"former{version}",
            key,
            data=(nftables.TYPE_ETHER, 6),
            timeout_ms=_DEFAULT_TIMEOUT_MS,
        )
        batch.new_set(
            f"flows{version}",
            _flow_type(family),
            timeout_ms=_FLOW_TIMEOUT_MS,
            dynamic=True,
            size=_FLOWS_SIZE,
        )
        batch.new_set(
            f"crowded{version}",
            key,
            timeout_ms=_CROWDED_TIMEOUT_MS,
            dynamic=True,
            size=_CROWDED_SIZE,
        )
        batch.new_chain(f"hand-off{version}")
        _pass_on(batch, family, link)
        tcp = _ethertype(family.ethertype) + meta(META_L4PROTO) + equals(_TCP)
        destination = load(NETWORK, family.destination, family.size)
        batch.rule(
            "ingress",
            tcp + destination + within(f"held{version}"),
            mapped(f"former{version}"),
            verdict(JUMP, f"hand-off{version}"),
        )
        # What still comes to a hidden VIP lives here, and is to go on here if the VIP comes back.
        batch.rule(
            "ingress",
            tcp + destination + within(f"guarded{version}") + not_within(f"held{version}"),
            _flow(family) + remember(f"flows{version}", _FLOW_TIMEOUT_MS),
        )


def _ask_in_no_vip_s_name(batch: Batch) -> None:
    """Let who serves a VIP without holding it ask for its clients' hardware addresses.

    The kernel asks in the name of the address that it has something to send from. From a former
    owner that would be an announcement. So it asks as an ARP probe does, from 0.0.0.0 (RFC 5227
    section 2.1.1), from which nobody learns anything, and a neighbour solicitation comes from the
    address in `asker6`: one from nowhere must not say who wants to know (RFC 4861 section 7.1.1).
    """
    sender = load(NETWORK, _ARP_SENDER, IPV4.size)
    request = load(NETWORK, _ARP_OPERATION, 2) + equals(_ARP_REQUEST)
    nobody = immediate(bytes(IPV4.size)) + write(NETWORK, _ARP_SENDER, IPV4.size)
    batch.rule("egress", _ethertype(_ARP) + request, _only_serves(IPV4, sender), nobody, first=True)
    batch.new_set("asker6", (IPV6.kind, IPV6.size), data=(nftables.TYPE_IPV6, IPV6.size))
    source = load(NETWORK, IPV6.source, IPV6.size)
    us = mapped("asker6") + write(NETWORK, IPV6.source, IPV6.size, in_pseudo_header=True)
    batch.rule(
        "egress", _icmpv6(_NEIGHBOUR_SOLICITATION), _only_serves(IPV6, source), us, first=True
    )


def _pass_on(batch: Batch, family: Family, link: Link) -> None:
    """TCP to a VIP that has a former owner: what began here stays, the rest goes there.

    A rule ends where `remember` finds its set full, so accepting is said once more: then the VIP
    is crowded, and nothing is passed on any more. A flood of SYNs can end the hand-off, for flows
    of the former owner only.
    """
    chain, flows, crowded = (f"{name}{family.version}" for name in ("hand-off", "flows", "crowded"))
    destination = load(NETWORK, family.destination, family.size)
    begins = load(TRANSPORT, _TCP_FLAGS, 1) + masked(_SYN_ACK) + equals(_SYN)
    accept = verdict(ACCEPT)
    batch.rule(chain, begins, _flow(family), remember(flows, _SYN_TIMEOUT_MS), accept)
    batch.rule(chain, begins, destination, remember(crowded, _CROWDED_TIMEOUT_MS), accept)
    batch.rule(chain, _flow(family), within(flows), remember(flows, _FLOW_TIMEOUT_MS), accept)
    batch.rule(chain, destination, within(crowded), accept)
    batch.rule(
        chain,
        destination + mapped(f"former{family.version}") + write(LINK, 0, 6),
        immediate(link.mac) + write(LINK, 6, 6),
        immediate(struct.pack("=I", link.index)) + forward(),
    )


def change_asker(batch: Batch, then: Mapping[bytes, bytes], now: Mapping[bytes, bytes]) -> None:
    """In whose name neighbours of a hidden VIP are asked for: VIP -> an address of this host."""
    for vip, asker in then.items():
        batch.delete("asker6", [vip], asker)
    for vip, asker in now.items():
        batch.add("asker6", [vip], asker)


def renewal(keys: Collection[bytes]) -> tuple[Batch, dict[bytes, list[int]]]:
    """Open addresses; with the places of each one's timeouts for `Batch.set_timeout`."""
    batch = Batch(TABLE)
    places: dict[bytes, list[int]] = {key: [] for key in keys}
    for family, its in by_size(keys):
        for name in ("held", "served"):
            found = batch.replace(f"{name}{family.version}", dict.fromkeys(its, 1))
            for key, place in zip(its, found, strict=True):
                places[key].append(place)
    return batch, places


def put(batch: Batch, name: str, left_ms: Mapping[bytes, int], data: bytes | None = None) -> None:
    """Elements of a timed set: those with time left live that long, the others are deleted."""
    for family, keys in by_size(left_ms):
        ended = [key for key in keys if left_ms[key] < 1]
        living = {key: left_ms[key] for key in keys if left_ms[key] >= 1}
        if ended:
            batch.delete(f"{name}{family.version}", ended, data)
        if living:
            batch.replace(f"{name}{family.version}", living, data)


def _ethertype(value: bytes) -> bytes:
    return meta(META_PROTOCOL) + equals(value)


def _icmpv6(kind: bytes) -> bytes:
    next_header = meta(META_L4PROTO) + equals(_ICMPV6)  # also behind extension headers
    return _ethertype(IPV6.ethertype) + next_header + load(TRANSPORT, 0, 1) + equals(kind)


def _drop_unless(name: str, family: Family, address: bytes) -> bytes:
    """Drop packets of guarded addresses that are not in the set; `address` loads one."""
    guarded = within(f"guarded{family.version}")
    return address + guarded + not_within(f"{name}{family.version}") + verdict(DROP)


def _drop_unserved(family: Family, address: bytes) -> bytes:
    """Drop packets of guarded addresses that this host does not serve; `address` loads one."""
    version = family.version
    sets = not_within(f"served{version}") + not_within(f"accepted{version}")
    return address + within(f"guarded{version}") + sets + verdict(DROP)


def _only_serves(family: Family, address: bytes) -> bytes:
    """Go on for addresses that are served and not held; `address` loads one."""
    return address + within(f"served{family.version}") + not_within(f"held{family.version}")


def _flow(family: Family) -> bytes:
    """Source address and port, destination address and port, each beginning at a register."""
    first = nftables.FIRST_REGISTER
    words = family.size // 4
    return (
        load(NETWORK, family.source, family.size, first)
        + load(TRANSPORT, 0, 2, first + words)
        + load(NETWORK, family.destination, family.size, first + words + 1)
        + load(TRANSPORT, 2, 2, first + 2 * words + 1)
    )


def _flow_type(family: Family) -> tuple[int, int]:
    """The types of a concatenation, packed by nft into one number, six bits each."""
    kind = 0
    for each in (family.kind, nftables.TYPE_PORT, family.kind, nftables.TYPE_PORT):
        kind = kind << 6 | each
    return kind, 2 * (family.size + 4)
