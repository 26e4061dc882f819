"""The tables `inet piagent-local` and `arp piagent-local`: who reaches service addresses on `lo`.

Linux answers for its addresses on every interface, whichever they are on. So what is on `lo` would
be anybody's on the LAN who asks for it by ARP, or just sends packets here. (By NDP nobody gets it:
IPv6 answers only on the interface that has the address.)

Sets: `inside4` and `inside6`, the addresses that only this host may reach; `silent4`, all of them,
none of which ARP may know.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from piagent.adapters import fence
from piagent.adapters.fence_table import FAMILIES, IPV4, IPV6, Family
from piagent.adapters.nftables import (
    ARP_OUT,
    DROP,
    META_IIFNAME,
    META_NFPROTO,
    META_OIFNAME,
    NETWORK,
    NFPROTO_ARP,
    NFPROTO_INET,
    POSTROUTING,
    PREROUTING,
    Batch,
    Nftables,
    counted,
    differs,
    equals,
    immediate,
    load,
    meta,
    verdict,
    within,
    write,
)

TABLE = "piagent-local"

_TABLES = (NFPROTO_INET, NFPROTO_ARP)
_RAW, _LAST = -300, 300
"""Priorities: before connection tracking and address translation, and after all of it."""
_CHAINS = (
    (NFPROTO_INET, "prerouting", PREROUTING, _RAW),
    (NFPROTO_INET, "postrouting", POSTROUTING, _LAST),
    (NFPROTO_ARP, "output", ARP_OUT, _RAW),
)
_SETS = (
    (NFPROTO_INET, "inside4", IPV4.size),
    (NFPROTO_INET, "inside6", IPV6.size),
    (NFPROTO_ARP, "silent4", IPV4.size),
)
_IFNAMSIZ = 16
_NFPROTO = {"4": b"\x02", "6": b"\x0a"}
_ARP_OPERATION, _ARP_SENDER = 6, 14
_ARP_REQUEST = b"\x00\x01"

Elements = dict[tuple[int, str], set[bytes]]
"""By the table's family and the set's name."""


class ClusterFence:
    """Keeps service addresses to this host, and out of ARP; the tables outlive the agent.

    What stands is asked of the kernel each time, never remembered: `nft flush ruleset` takes our
    tables, too. OSError when the kernel refuses, and then nothing has changed.
    """

    def __init__(self, interfaces: Collection[str] = ()) -> None:
        self._near = ["lo", *interfaces]
        self._nftables: Nftables | None = None
        self._built = False
        """By us, in this life: so we know the rules."""
        self._removed = False

    def guard(self, inside: Collection[bytes], silent: Collection[bytes]) -> None:
        """Have exactly these packed addresses in the sets, in one transaction."""
        if not inside and not silent:
            if not self._removed:
                self._removed = True  # or it cannot be done; either way once is enough
                self.remove()
            return
        now = self._standing()
        batch = Batch(TABLE)
        if now is None:
            build(batch, self._near)
        for (family, name), wanted in sorted_out(inside, silent).items():
            there = set() if now is None else now[family, name]
            batch.turn_to(family)
            batch.add(name, sorted(wanted - there))
            batch.delete(name, sorted(there - wanted))
        if len(batch.names) > 1:
            self._kernel().commit(batch)
            self._built, self._removed = True, False

    def kept(self, inside: Collection[bytes], silent: Collection[bytes]) -> set[bytes]:
        """Which of these the fence that stands keeps as they should be; none if that is unknown."""
        try:
            now = self._standing()
        except OSError:
            return set()
        if now is None:
            return set()
        wanted = sorted_out(inside, silent)
        missing = [keys - now[place] for place, keys in wanted.items()]
        return {*inside, *silent}.difference(*missing)

    def remove(self) -> None:
        """Take both tables away, whoever made them; addresses still there begin to answer."""
        batch = Batch(TABLE)
        for family in _TABLES:
            batch.turn_to(family)
            batch.remove_table()
        self._kernel().commit(batch)
        self._built, self._removed = False, True

    def close(self) -> None:
        """Nothing can be asked afterwards; the tables stay."""
        if self._nftables is not None:
            self._nftables.close()

    def _kernel(self) -> Nftables:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables

    def _standing(self) -> Elements | None:
        """What our tables have; None when they are not there, or another life's."""
        if not self._built:
            return None
        elements = self._kernel().elements
        try:
            return {(its, name): set(elements(TABLE, name, its)) for its, name, _ in _SETS}
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise


def sorted_out(inside: Collection[bytes], silent: Collection[bytes]) -> Elements:
    """Which addresses belong in which set."""
    given = {NFPROTO_INET: inside, NFPROTO_ARP: silent}
    return {
        (family, name): {key for key in given[family] if len(key) == size}
        for family, name, size in _SETS
    }


def build(batch: Batch, near: Collection[str]) -> None:
    """Have both tables anew and nothing else of their name, with no address in them."""
    for family in _TABLES:
        batch.turn_to(family)
        batch.remove_table()
        batch.new_table()
    batch.turn_to(NFPROTO_INET)
    for version in FAMILIES:
        batch.new_set(f"inside{version.version}", (version.kind, version.size))
    batch.turn_to(NFPROTO_ARP)
    batch.new_set("silent4", (IPV4.kind, IPV4.size))
    for family, name, hook, priority in _CHAINS:
        batch.turn_to(family)
        batch.new_base_chain(name, hook, None, priority)
    batch.turn_to(NFPROTO_INET)
    for version in FAMILIES:
        _keep_inside(batch, version, near)
    batch.turn_to(NFPROTO_ARP)
    _unknown_to_arp(batch)


def _keep_inside(batch: Batch, version: Family, near: Collection[str]) -> None:
    """Nothing from elsewhere comes to an inside address, and nothing from it gets elsewhere.

    Elsewhere is behind every interface but `near`.

    What comes in is judged first, by the address that it was sent to: before it costs anything,
    and before translation, so that answers to what left masqueraded come back. What leaves is
    judged last, by the source that translation gave it. What comes in from an inside address has
    left no host of ours: it is forged.
    """
    names = [name.encode().ljust(_IFNAMSIZ, b"\0") for name in near]
    source = load(NETWORK, version.source, version.size)
    destination = load(NETWORK, version.destination, version.size)
    for chain, address, interface in (
        ("prerouting", destination, META_IIFNAME),
        ("prerouting", source, META_IIFNAME),
        ("postrouting", source, META_OIFNAME),
    ):
        batch.rule(
            chain,
            meta(META_NFPROTO) + equals(_NFPROTO[version.version]),
            address + within(f"inside{version.version}"),
            *[meta(interface) + differs(name) for name in names],
            counted() + verdict(DROP),
        )


def _unknown_to_arp(batch: Batch) -> None:
    """No answer, no announcement: nothing that says where such an address is.

    The kernel asks for a neighbour's hardware address in the name of the address that it has
    something to send from, so whoever hears that learns whose it is. So the question comes from
    0.0.0.0, as an ARP probe does (RFC 5227 section 2.1.1): it is answered, and teaches nobody.
    """
    sender = load(NETWORK, _ARP_SENDER, IPV4.size) + within("silent4")
    request = load(NETWORK, _ARP_OPERATION, 2) + equals(_ARP_REQUEST)
    nobody = immediate(bytes(IPV4.size)) + write(NETWORK, _ARP_SENDER, IPV4.size)
    batch.rule("output", request, sender, nobody)
    batch.rule("output", sender, counted() + verdict(DROP))


def probe_support() -> str | None:
    """Why this fence would not work here, cure included; None if it would.

    The kernel is given all of it in a transaction that is never committed.
    """
    batch = Batch(f"{TABLE}-trial")
    build(batch, ["lo"])
    try:
        with Nftables() as kernel:
            kernel.check(batch)
    except OSError as error:
        return why(error)
    return None


def why(error: OSError) -> str:
    """What is missing for this fence, and the cure."""
    about = str(error.filename or "")
    missing = {errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT}
    if error.errno in missing and (about == "table" or about.endswith(" chain")):
        return (
            f"this kernel's nf_tables has no {about} of the families inet and arp: it needs"
            " NF_TABLES_INET and NF_TABLES_ARP"
        )
    return fence.why(error, "lo")
