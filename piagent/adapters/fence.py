"""The kernel fence: what this host answers and says for VIPs, whether the agent runs or not."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Collection, Mapping
from ipaddress import ip_address

from msgspec import Struct

from piagent.adapters import fence_table, netlink_messages
from piagent.adapters.netlink_messages import RTM_GETADDR, read_address
from piagent.adapters.nftables import Batch, Nftables
from piagent.adapters.rtnetlink import Link, Rtnetlink

_MAC_SIZE = 6
_GROUP_BIT = 0x01

_log = logging.getLogger(__name__)


class KernelFence:
    """`ports.Fence` by one nftables table, `netdev piagent`.

    The table outlives the agent; only `remove` takes it away. A guarded address is silent unless
    its elements in the table live, and those end by themselves. The kernel counts them in
    CLOCK_MONOTONIC: a suspended host's elements live on for what they had left.

    A call returns when the transaction is committed: every packet that the kernel looks at from
    then on is judged by it, and no reading back could say more.

    Loopback addresses are left alone. Where there is no fence, opening and closing do nothing.
    """

    def __init__(self) -> None:
        # Opened once: closing an address must not fail because descriptors have run out.
        self._nftables: Nftables | None = None
        self._link: Link | None = None
        """What our table is on, if it stands."""
        self._askers: dict[bytes, bytes] = {}
        """IPv6 VIP -> the address of this host that asks in its place."""
        self._guarded: dict[str, bytes] = {}
        self._accepted: set[bytes] = set()
        self._until_ms: dict[str, dict[bytes, int]] = {"held": {}, "served": {}, "former": {}}
        """What is open, by the lease clock, in case that the table has to be built anew."""
        self._macs: dict[bytes, bytes] = {}
        self._why_not: str | None = "no address is guarded yet"
        self._no_hand_off: str | None = None
        self._renewal: _Renewal | None = None

    @property
    def why_not(self) -> str | None:
        """Why there is no fence here, cure included; None when it stands."""
        return self._why_not

    @property
    def no_hand_off(self) -> str | None:
        """Why `take_over` does not work here, cure included; None when it does."""
        return self._why_not or self._no_hand_off

    def guard(self, interface: str, vips: Collection[str], accepted: Collection[str] = ()) -> None:
        """Guard exactly these addresses on the interface from now on; what is open stays open.

        `accepted`: those that this host serves as a backend, whoever owns them: IP goes in and out,
        and that is all.

        To be called again when the interface has come back, before addresses are put on it. Raises
        nothing: `why_not` says how it went. After a failure the former table is still in force.
        """
        wanted = _packed(vips)
        serves = {wanted[vip] for vip in accepted if vip in wanted}
        try:
            if wanted:
                with Rtnetlink() as rtnetlink:
                    link = rtnetlink.link(interface)
                self._converge(link, _own6(link, wanted.values()), wanted, serves)
            else:
                self._remove_if_allowed()
        except OSError as error:
            self._why_not = why(error, interface)
        else:
            self._why_not = None

    def open(self, left_ms: Mapping[str, int]) -> None:
        """Open these for so many milliseconds from now, all in one transaction (grant or renew).

        The kernel counts from its own now: whoever was stopped on the way there has to say again
        how much is left. OSError when the kernel refuses, and then nothing has changed.
        """
        keys = {self._guarded[vip]: left for vip, left in left_ms.items() if vip in self._guarded}
        if self._link is None or not keys:
            return
        if min(keys.values()) < 1:
            self._put({"held": keys, "served": keys})
        else:
            self._renew(keys)

    def hide(self, vip: str, serve_ms: int) -> None:
        """Close for ARP, NDP and announcements; IP that still comes is served for `serve_ms`.

        OSError when the kernel refuses, and when the VIP is not guarded here: then it still
        answers, or may.
        """
        key = self._key(vip)
        if key is not None:
            self._put({"held": {key: 0}, "served": {key: serve_ms}})
        elif not ip_address(vip).is_loopback:
            raise OSError(errno.EOPNOTSUPP, f"fence: {self._why_not or f'{vip} is not guarded'}")

    def close(self, vip: str) -> None:
        """Close for everything; also ends `take_over`. OSError when the kernel refuses."""
        key = self._key(vip)
        if key is not None:
            names = ("held", "served") + (("former",) if self._no_hand_off is None else ())
            self._put({name: {key: 0} for name in names})

    def take_over(self, vip: str, mac: bytes, left_ms: int) -> None:
        """For so long pass packets of TCP flows that did not begin here on to their former owner.

        `mac` is the former owner's hardware address on the same network. Holds only while this
        host holds the VIP. OSError when that does not work here; then flows are not passed on, and
        nothing else is different.
        """
        key = self._key(vip)
        if self.no_hand_off is not None or key is None or self._link is None:
            reason = self.no_hand_off or f"{vip} is not guarded"
            raise OSError(errno.EOPNOTSUPP, f"flow hand-off: {reason}")
        if len(mac) != _MAC_SIZE or mac[0] & _GROUP_BIT or mac in {bytes(6), self._link.mac}:
            raise OSError(errno.EINVAL, f"flow hand-off: {mac.hex(':')} is no other host's address")
        self._macs[key] = mac
        self._put({"former": {key: left_ms}, "crowded": {key: 0}})

    def remove(self) -> None:
        """Take the whole table away, whoever made it; addresses still there begin to answer."""
        batch = Batch(fence_table.TABLE)
        batch.remove_table()
        self._kernel().commit(batch)
        self._forget()

    def shut(self) -> None:
        """Nothing can be asked afterwards; the table stays, and what is open ends by itself."""
        if self._nftables is not None:
            self._nftables.close()

    def _kernel(self) -> Nftables:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables

    def _renew(self, keys: Mapping[bytes, int]) -> None:
        if self._renewal is None or self._renewal.places.keys() != keys.keys():
            self._renewal = _Renewal(*fence_table.renewal(keys))
        for key, places in self._renewal.places.items():
            for place in places:
                self._renewal.batch.set_timeout(place, keys[key])
        self._commit(self._renewal.batch)
        self._remember("held", keys)
        self._remember("served", keys)

    def _key(self, vip: str) -> bytes | None:
        return self._guarded.get(vip) if self._link is not None else None

    def _converge(
        self, link: Link, own6: bytes | None, wanted: dict[str, bytes], serves: set[bytes]
    ) -> None:
        """Change the table that stands, so that flows it knows stay known, or build it anew."""
        askers = {vip: own6 for vip in wanted.values() if own6 and len(vip) == len(own6)}
        if self._same_place(link):
            ended = self._guarded.keys() - wanted.keys()
            batch = Batch(fence_table.TABLE)
            for family, keys in fence_table.by_size(list(wanted.values())):
                batch.add(f"guarded{family.version}", keys)
            for family, keys in fence_table.by_size([self._guarded[vip] for vip in ended]):
                batch.delete(f"guarded{family.version}", keys)
            for family, keys in fence_table.by_size(serves - self._accepted):
                batch.add(f"accepted{family.version}", keys)
            for family, keys in fence_table.by_size(self._accepted - serves):
                batch.delete(f"accepted{family.version}", keys)
            if self._no_hand_off is None:
                fence_table.change_asker(batch, self._askers, askers)
            try:
                for vip in ended:
                    self.close(vip)
                self._kernel().commit(batch)
            except OSError as error:
                _log.warning("fence: %s; building it anew", error)
            else:
                self._guarded, self._askers, self._accepted = wanted, askers, serves
                return
        self._askers, self._accepted = askers, serves
        self._build(link, wanted)

    def _same_place(self, link: Link) -> bool:
        then = self._link
        if then is None or (then.index, then.name, then.mac) != (link.index, link.name, link.mac):
            return False
        has = self._kernel().has_chain
        return all(has(fence_table.TABLE, name) for name in ("ingress", "egress"))

    def _build(self, link: Link, wanted: dict[str, bytes]) -> None:
        """Replace whatever is there in one transaction; what we opened stays open."""
        keys = set(wanted.values())
        batch = fence_table.fence(link.name, keys, accepted=self._accepted)
        for name in ("held", "served"):
            fence_table.put(batch, name, self._left_ms(name, keys))
        self._kernel().commit(batch)
        self._link, self._guarded, self._renewal = link, wanted, None
        self._no_hand_off = self._add_hand_off(link)

    def _add_hand_off(self, link: Link) -> str | None:
        if len(link.mac) != _MAC_SIZE:
            return f"{link.name} is not an Ethernet interface"
        batch = Batch(fence_table.TABLE)
        fence_table.add_hand_off(batch, link)
        fence_table.change_asker(batch, {}, self._askers)
        self._put_former(batch, self._left_ms("former", set(self._guarded.values())))
        try:
            self._kernel().commit(batch)
        except OSError as error:
            return why(error, link.name)
        return None

    def _put_former(self, batch: Batch, left_ms: Mapping[bytes, int]) -> None:
        for key, left in left_ms.items():
            fence_table.put(batch, "former", {key: left}, self._macs.get(key, bytes(_MAC_SIZE)))

    def _put(self, left_ms: dict[str, dict[bytes, int]]) -> None:
        batch = Batch(fence_table.TABLE)
        for name, keys in left_ms.items():
            if name == "former":
                self._put_former(batch, keys)
            else:
                fence_table.put(batch, name, keys)
        self._commit(batch)
        for name, keys in left_ms.items():
            self._remember(name, keys)

    def _commit(self, batch: Batch) -> None:
        """Once more if an element ended just then (kernels before 6.8), or the table was flushed.

        `nft flush ruleset`, which a restart of nftables.service runs, takes our table, too.
        """
        try:
            self._kernel().commit(batch)
        except OSError as error:
            if error.errno != errno.ENOENT or self._link is None:
                raise
            if not self._same_place(self._link):
                _log.warning("fence: somebody removed its table; building it anew")
                self._build(self._link, self._guarded)
            self._kernel().commit(batch)

    def _remember(self, name: str, left_ms: Mapping[bytes, int]) -> None:
        until_ms = self._until_ms.get(name)
        if until_ms is not None:
            now_ms = _now_ms()
            for key, left in left_ms.items():
                until_ms[key] = now_ms + left

    def _left_ms(self, name: str, keys: Collection[bytes]) -> dict[bytes, int]:
        now_ms = _now_ms()
        until_ms = self._until_ms[name]
        return {key: left for key in keys if (left := until_ms.get(key, 0) - now_ms) > 0}

    def _remove_if_allowed(self) -> None:
        """Without addresses there is nothing to guard: a table would be a leftover."""
        try:
            self.remove()
        except OSError as error:
            _log.debug("fence: no address to guard, and no table to remove: %s", error)
            self._forget()

    def _forget(self) -> None:
        self._link, self._guarded, self._renewal = None, {}, None
        self._accepted = set()
        for until_ms in self._until_ms.values():
            until_ms.clear()


class _Renewal(Struct):
    """The transaction that opens a group of addresses, encoded once."""

    batch: Batch
    places: dict[bytes, list[int]]


def probe_support(*, hand_off: bool = False) -> str | None:
    """Why the fence (or its flow hand-off) would not work here, cure included; None if it would.

    The kernel is given all of it, on `lo`, in a transaction that is never committed.
    """
    trial = f"{fence_table.TABLE}-trial"
    addresses = [bytes((192, 0, 2, 1)), bytes(16)]
    try:
        with Nftables() as kernel, Rtnetlink() as rtnetlink:
            batch = fence_table.fence("lo", addresses, trial)
            if hand_off:
                fence_table.add_hand_off(batch, rtnetlink.link("lo"))
            kernel.check(batch)
    except OSError as error:
        return why(error, "lo")
    return None


def why(error: OSError, interface: str) -> str:
    """What is missing for the fence, and the cure."""
    about = str(error.filename or "")
    if error.errno in {errno.EPERM, errno.EACCES}:
        return (
            "not allowed: the fence needs CAP_NET_ADMIN (AmbientCapabilities= in the unit) or root"
        )
    if error.errno == errno.ENODEV:
        return f"no interface {interface}: it has to exist (ip link)"
    if error.errno in {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT} or about == "nf_tables":
        return f"this kernel has no nf_tables ({error.strerror}): modprobe nf_tables"
    if about == "egress chain" and error.errno == errno.EOPNOTSUPP:
        return "this kernel has no egress hook: Linux 5.16 or newer with NETFILTER_EGRESS has it"
    if about == "ingress chain":
        return (
            f"nftables cannot see {interface} ({error.strerror}): the kernel needs NF_TABLES_NETDEV"
        )
    if about.startswith("rule of hand-off"):
        return f"{about}: {error.strerror}: modprobe nft_fwd_netdev (NFT_FWD_NETDEV, Linux 4.8)"
    return f"the kernel refused the {about or 'request'}: {error.strerror}"


def _own6(link: Link, guarded: Collection[bytes]) -> bytes | None:
    """An IPv6 address of the interface that is no VIP, the link-local one if there is one."""
    with netlink_messages.open_socket() as channel:
        dumped = netlink_messages.dump(channel, RTM_GETADDR, socket.AF_INET6)
    here = [one for body in dumped if (one := read_address(body)) and one.index == link.index]
    found = [ip_address(one.address) for one in here]
    own = [ip for ip in found if ip.version == 6 and ip.packed not in guarded]
    return min(own, key=lambda ip: not ip.is_link_local).packed if own else None


def _packed(vips: Collection[str]) -> dict[str, bytes]:
    parsed = {vip: ip_address(vip) for vip in vips}
    return {vip: ip.packed for vip, ip in parsed.items() if not ip.is_loopback}


def _now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
