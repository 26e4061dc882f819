"""The table `netdev piagent-forward`: what the forwarder takes is hidden from the IP stack.

VIPs are addresses of this host, so the kernel would answer each forwarded packet itself: that
nobody listens there. The table drops them when they have come in: packet sockets, by which the
forwarder hears them, are served before.

Later fragments have no port. All that come to a forwarded VIP with a protocol that has a forwarded
port there are taken. Of an address whose ports are forwarded by a range, which is this host's own,
none is: its other services get fragments, too. The kernel keeps what belongs to a first fragment
that it did not see, and forgets it without a word (RFC 792 has no answer to a fragment but the
first).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from piagent.adapters import fence, nftables
from piagent.adapters.fence_table import FAMILIES, Family
from piagent.adapters.forwarded import Forwarded
from piagent.adapters.nftables import (
    ACCEPT,
    DROP,
    FIRST_REGISTER,
    META_L4PROTO,
    META_PACKET_TYPE,
    META_PROTOCOL,
    NETWORK,
    TRANSPORT,
    Batch,
    Nftables,
    at_least,
    at_most,
    counted,
    differs,
    equals,
    extension,
    load,
    masked,
    meta,
    verdict,
    within,
)
from piagent.adapters.rtnetlink import Link, Rtnetlink

TABLE = "piagent-forward"

_CHAINS = {False: ("ingress", -310), True: ("ingress-by-flow", -290)}
"""By `Forwarded.by_flow`, names and priorities: before the fence and behind it. The fence passes
packets of flows that it does not know on to a VIP's former owner. By `dsr` they would get to their
backends twice; by `nat` either that node knows their flow or this one does."""
_CHAIN = _CHAINS[False][0]
_FOR_US = b"\0"
_PORT = 2
_FRAGMENT = 44
_WORD = 4
"""Of a register, in bytes; each part of a key begins with one."""


class ForwardFence:
    """Keeps what is forwarded from this host's IP stack: from each exactly what was said last.

    The table outlives the agent: while VIPs are still there, their packets must not be answered
    with resets, which end connections that another node could go on with. `remove` it when the
    VIPs are gone. OSError, cure included, when the kernel refuses; then nothing has changed.
    """

    def __init__(self) -> None:
        self._nftables: Nftables | None = None
        self._link: Link | None = None
        """What our table is on, if we have built one."""

    def take(self, interface: str, forwarded: Collection[Forwarded]) -> None:
        """Take exactly these that come in by the interface, all from one moment on.

        To be called again when the interface has come back.
        """
        try:
            with Rtnetlink() as rtnetlink:
                link = rtnetlink.link(interface)
            self._kernel().commit(build(link.name, forwarded))
        except OSError as error:
            raise OSError(error.errno, fence.why(error, interface)) from error
        self._link = link

    def stands(self) -> bool:
        """Whether the table is there.

        `nft flush ruleset` takes ours, too, and the end of the interface does. What is forwarded is
        answered by the kernel then, until `take`.
        """
        then = self._link
        if then is None or not self._kernel().has_chain(TABLE, _CHAIN):
            return False
        try:
            with Rtnetlink() as rtnetlink:
                return rtnetlink.link(then.name).index == then.index
        except OSError:
            return False

    def remove(self) -> None:
        """Take the table away, whoever made it."""
        batch = Batch(TABLE)
        batch.remove_table()
        self._kernel().commit(batch)
        self._link = None

    def close(self) -> None:
        """Nothing can be asked afterwards; the table stays."""
        if self._nftables is not None:
            self._nftables.close()

    def _kernel(self) -> Nftables:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables


def build(interface: str, forwarded: Collection[Forwarded], table: str = TABLE) -> Batch:
    """Have the table and nothing else of that name."""
    batch = Batch(table)
    batch.remove_table()
    batch.new_table()
    for by_flow, (chain, priority) in _CHAINS.items():
        batch.new_base_chain(chain, nftables.INGRESS, interface, priority)
        for family in FAMILIES:
            its = [
                one
                for one in forwarded
                if one.by_flow == by_flow and len(one.ip.packed) == family.size
            ]
            if its:
                _take(batch, chain, family, its)
    return batch


def _take(batch: Batch, chain: str, family: Family, its: list[Forwarded]) -> None:
    ports, fragments = (
        name + family.version + chain.removeprefix(_CHAIN) for name in ("ports", "protocols")
    )
    address_kind = (family.kind, nftables.TYPE_PROTOCOL)
    batch.new_set(ports, _key(*address_kind, nftables.TYPE_PORT, size=family.size + 2 * _WORD))
    batch.new_set(fragments, _key(*address_kind, size=family.size + _WORD))
    batch.add(ports, sorted({_to(one, one.first) for one in its if one.first == one.last}))
    batch.add(fragments, sorted({_to(one) for one in its if one.first == one.last}))
    behind = FIRST_REGISTER + family.size // _WORD
    ours = meta(META_PACKET_TYPE) + equals(_FOR_US)
    ours += meta(META_PROTOCOL) + equals(family.ethertype)
    address = load(NETWORK, family.destination, family.size) + meta(META_L4PROTO, behind)
    port = load(TRANSPORT, _PORT, 2, behind + 1)
    drop = counted() + verdict(DROP)
    later = _is_later_fragment(family)
    batch.rule(chain, ours, later, address, within(fragments), drop)
    # What the kernel takes for the ports of an IPv6 one lies in its flow label.
    batch.rule(chain, ours, later, verdict(ACCEPT))
    batch.rule(chain, ours, address, port, within(ports), drop)
    for one in sorted({one for one in its if one.first < one.last}, key=_order):
        is_it = address + equals(one.ip.packed) + equals(bytes([one.protocol]), behind)
        bounds = at_least(struct.pack("!H", one.first), behind + 1)
        bounds += at_most(struct.pack("!H", one.last), behind + 1)
        batch.rule(chain, ours, is_it, port, bounds, drop)


def _order(one: Forwarded) -> tuple[bytes, int, int, int]:
    return one.ip.packed, one.protocol, one.first, one.last


def _is_later_fragment(family: Family) -> bytes:
    if family.size == _WORD:
        return load(NETWORK, 6, 2) + masked(b"\x1f\xff") + differs(bytes(2))
    return extension(_FRAGMENT, 2, 2) + masked(b"\xff\xf8") + differs(bytes(2))


def _key(*kinds: int, size: int) -> tuple[int, int]:
    """Of a concatenation: its types packed as nft does it, six bits each, and its size."""
    packed = 0
    for kind in kinds:
        packed = packed << 6 | kind
    return packed, size


def _to(one: Forwarded, port: int | None = None) -> bytes:
    """A key: what comes there; each part fills whole registers."""
    key = one.ip.packed + bytes([one.protocol, 0, 0, 0])
    return key if port is None else key + struct.pack("!HH", port, 0)


def probe_support() -> str | None:
    """Why this would not work here, cure included; None if it would.

    The kernel is given all of it, on `lo`, in a transaction that is never committed.
    """
    trial = list(_samples())
    try:
        with Nftables() as kernel:
            kernel.check(build("lo", trial, f"{TABLE}-trial"))
    except OSError as error:
        return fence.why(error, "lo")
    return None


def _samples() -> Iterator[Forwarded]:
    for address in ("192.0.2.1", "2001:db8::1"):
        yield Forwarded(address, 6, 80, 80)
        yield Forwarded(address, 17, 20_000, 30_000, by_flow=True)
