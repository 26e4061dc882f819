"""Service addresses on this host's loopback interface, behind a fence of their own."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address

from piagent.adapters import cluster_fence, netlink_messages
from piagent.adapters.cluster_fence import ClusterFence
from piagent.adapters.dsr_backend import DsrBackend
from piagent.adapters.netlink import IFA_PROTO_PIAGENT
from piagent.adapters.netlink_messages import RTM_GETADDR, AddressMessage, read_address
from piagent.adapters.nftables import attribute
from piagent.adapters.rtnetlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RTM_DELADDR,
    RTM_NEWADDR,
    Rtnetlink,
)
from piagent.core.dsr import Accepted

INTERFACE = "lo"

_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_CACHEINFO = struct.Struct("=IIII")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_RT_SCOPE_UNIVERSE, _RT_SCOPE_HOST = 0, 254
_FOR_EVER = 0xFFFFFFFF

_log = logging.getLogger(__name__)


class LoopbackAddresses:
    """`ports.LocalAddresses` on `lo`.

    Addresses are /32 and /128, without an end: a dead agent's stay, and nobody outside learns of
    them or reaches them. They carry our mark; what has it, and no lifetime, is ours, from this
    life or a former one. (What has a lifetime is a VIP of an agent whose interface is `lo`.)

    IPv4 ones have the scope of 127.0.0.1, so that the kernel never takes one as the source of a
    packet that leaves. IPv6 ones are deprecated from the start: it takes one only if it has no
    other address of a scope that reaches the destination (RFC 6724 section 5, rules 2 and 3).

    The fence is there before an address is, and as long. Where it cannot be, no address is. VIPs
    that this host accepts as a backend are not fenced: instead of the fence, which would silence
    their owner, too, `DsrBackend` sees to it that `lo` gives them no voice.

    Everything happens in the calling thread, the event loop's: a few short system calls, two more
    for each address that comes or goes.
    """

    def __init__(self, interfaces: Collection[str] = (), dsr: DsrBackend | None = None) -> None:
        """`interfaces`: what comes in by these is as good as from this host itself."""
        self._fence = ClusterFence(interfaces)
        self._dsr = DsrBackend() if dsr is None else dsr
        self._accepted: set[bytes] = set()
        self._rtnetlink: Rtnetlink | None = None
        self._questions: socket.socket | None = None
        self._configured: set[bytes] = set()
        """By us, in this life: kernels before 5.18 do not keep the mark."""
        self._why_not: str | None = None
        self._tried = False

    @property
    def why_not(self) -> str | None:
        """Why nothing can be configured here, cure included; None when it can."""
        if not self._tried:
            self._why_not, self._tried = cluster_fence.probe_support(), True
        return self._why_not

    def own(self) -> frozenset[str]:
        """The addresses of this host that are none of ours; none when it cannot be asked."""
        try:
            _, others = self._here()
        except OSError:
            return frozenset()
        return frozenset(one.address for one in others.values() if not _is_ours(one))

    def configure(
        self,
        inside: Collection[str],
        routed: Collection[str],
        accepted: Collection[Accepted] = (),
    ) -> dict[str, str]:
        """Have exactly these; idempotent, and cheap when nothing changes.

        What a former life left goes, too, so the first call should come at the start, if only
        with no address at all. Gives why an address is not there, by address; raises nothing.
        """
        ready = {one.vip for one in accepted} - {*inside, *routed}
        unready = self._dsr.prepare([one for one in accepted if one.vip in ready])
        wanted, refused = _sorted_out((*inside, *routed, *(ready - unready.keys())))
        private = {wanted[address] for address in inside if address in wanted}
        open_ = {wanted[vip] for vip in ready if vip in wanted}
        try:
            self._converge(wanted, private, open_, refused)
        except OSError as error:
            self._why_not, self._tried = f"the kernel's addresses: {error.strerror or error}", True
            refused |= dict.fromkeys(wanted, self._why_not)
        else:
            self._dsr.settle([one for one in accepted if one.vip in ready])
        return unready | refused

    def remove_all(self) -> None:
        """Have none, whoever of us configured them, and no fence; raises nothing."""
        ours: set[bytes] = set()
        try:
            ours, _ = self._here()
            left = self._remove(ours)
            if not left:
                self._fence.remove()
                self._dsr.undo()
        except OSError as error:
            # An agent without rights never had one.
            level = logging.WARNING if ours else logging.DEBUG
            _log.log(level, "service addresses: %s", cluster_fence.why(error))

    def close(self) -> None:
        """Nothing can be asked afterwards; nothing is removed."""
        for opened in (self._fence, self._rtnetlink, self._questions):
            if opened is not None:
                opened.close()

    def _converge(
        self,
        wanted: dict[str, bytes],
        private: set[bytes],
        open_: set[bytes],
        refused: dict[str, str],
    ) -> None:
        """Move what cannot be had from `wanted` to `refused`, and make the rest true.

        `open_`: what is accepted, and so not fenced. Its owner may be this very host.
        """
        ours, others = self._here()
        for address in [address for address, key in wanted.items() if key in others]:
            found = others[wanted[address]]
            if wanted[address] not in open_ or not _is_ours(found):
                refused[address] = _taken(address, found)
                del wanted[address]
        fenced = {address: key for address, key in wanted.items() if key not in open_}
        refused |= self._fence_first(fenced, private, ours - open_ - self._accepted)
        for address in [one for one, key in wanted.items() if key not in open_]:
            if address not in fenced:
                del wanted[address]
        self._accepted |= open_
        keep = set(wanted.values())
        going = ours - keep
        left = self._remove(going)
        self._accepted &= open_ | left
        refused |= self._add({key: address for address, key in wanted.items() if key not in ours})
        if left != going:
            keep, left = keep - open_, left - self._accepted
            try:
                self._fence.guard((private & keep) | left, keep | left)
            except OSError as error:
                _log.warning("addresses that are gone stay guarded: %s", cluster_fence.why(error))

    def _fence_first(
        self, wanted: dict[str, bytes], private: set[bytes], ours: set[bytes]
    ) -> dict[str, str]:
        """Guard what is to be there, and what still is; why not, and then it is not wanted."""
        keep = set(wanted.values())
        going = ours - keep
        reason = None
        try:
            self._fence.guard((private & keep) | going, keep | going)
        except OSError as error:
            reason = cluster_fence.why(error)
        if keep or going:
            self._why_not, self._tried = reason, True
        refused: dict[str, str] = {}
        if reason is not None:
            kept = self._fence.kept(private & keep, keep)
            for address, key in list(wanted.items()):
                if key not in kept:
                    refused[address] = reason
                    del wanted[address]
        return refused

    def _here(self) -> tuple[set[bytes], dict[bytes, AddressMessage]]:
        """Which addresses on `lo` are ours, and all others of this host."""
        if self._questions is None:
            self._questions = netlink_messages.open_socket()
        ours: set[bytes] = set()
        others: dict[bytes, AddressMessage] = {}
        index = socket.if_nametoindex(INTERFACE)
        for body in netlink_messages.dump(self._questions, RTM_GETADDR):
            found = read_address(body)
            if found is None:
                continue
            key = _packed(found.address)
            marked = found.proto == IFA_PROTO_PIAGENT or key in self._configured
            if found.index == index and found.permanent and marked:
                ours.add(key)
            else:
                others[key] = found
        return ours, others

    def _add(self, missing: Mapping[bytes, str]) -> dict[str, str]:
        """Why not, for each that the kernel refuses."""
        refused: dict[str, str] = {}
        if not missing:
            return refused
        link = self._kernel().link(INTERFACE)
        if not link.up:
            return dict.fromkeys(missing.values(), "lo is down: 'ip link set lo up'")
        for key, address in missing.items():
            try:
                self._kernel().repeat(_request(RTM_NEWADDR, link.index, key))
                self._configured.add(key)
            except OSError as error:
                refused[address] = _why_not(address, error)
        return refused

    def _remove(self, addresses: Iterable[bytes]) -> set[bytes]:
        """What the kernel did not remove."""
        left: set[bytes] = set()
        for key in addresses:
            try:
                index = self._kernel().link(INTERFACE).index
                self._kernel().repeat(_request(RTM_DELADDR, index, key))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # somebody else removed it
                    _log.warning("%s stays on lo: %s", _text(key), error.strerror or error)
                    left.add(key)
                    continue
            self._configured.discard(key)
        return left

    def _kernel(self) -> Rtnetlink:
        if self._rtnetlink is None:
            self._rtnetlink = Rtnetlink()
        return self._rtnetlink


def _sorted_out(addresses: Iterable[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """What to configure, packed, and what no service can have, with the reason."""
    wanted: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    for address in addresses:
        try:
            ip = ip_address(address)
        except ValueError:
            refused[address] = f"{address} is no IP address"
            continue
        if ip.is_multicast or ip.is_unspecified or ip.is_link_local:
            refused[address] = f"{address} is no address that a service can have: give it another"
        elif not ip.is_loopback:
            wanted[address] = ip.packed
    return wanted, refused


def _request(kind: int, index: int, key: bytes) -> bytearray:
    """The message of rtnetlink(7) that adds or removes a host address, without sequence number."""
    ipv4 = len(key) == 4
    family = socket.AF_INET if ipv4 else socket.AF_INET6
    scope = _RT_SCOPE_HOST if ipv4 else _RT_SCOPE_UNIVERSE
    body = _IFADDRMSG.pack(family, 8 * len(key), 0, scope, index)
    body += attribute(_IFA_LOCAL, key) + attribute(_IFA_ADDRESS, key)
    flags = NLM_F_REQUEST | NLM_F_ACK
    if kind == RTM_NEWADDR:
        flags |= NLM_F_CREATE | NLM_F_EXCL
        preferred = _FOR_EVER if ipv4 else 0
        its = _IFA_F_NOPREFIXROUTE | (0 if ipv4 else _IFA_F_NODAD)
        body += attribute(_IFA_FLAGS, struct.pack("=I", its))
        body += attribute(_IFA_CACHEINFO, _CACHEINFO.pack(preferred, _FOR_EVER, 0, 0))
        body += attribute(_IFA_PROTO, bytes([IFA_PROTO_PIAGENT]))
    return bytearray(_HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)


def _is_ours(found: AddressMessage) -> bool:
    """Whether it is a VIP that this host owns: kernels before 5.18 do not keep the mark."""
    whole = found.prefix == (128 if ":" in found.address else 32)
    return found.proto == IFA_PROTO_PIAGENT or (whole and not found.permanent)


def _taken(address: str, found: AddressMessage) -> str:
    where = _interface(found.index)
    if found.proto == IFA_PROTO_PIAGENT:
        return f"{address} is a VIP on {where} still: it has to be released there first"
    there = f"{found.address}/{found.prefix}"
    return (
        f"{address} is already on {where} as {there}, and piagent did not put it there: remove it"
        f" ('ip address del {there} dev {where}', and from this host's network settings) or use"
        " another address"
    )


def _why_not(address: str, error: OSError) -> str:
    cure = ""
    if error.errno == errno.EPERM:
        cure = ": run piagent as root or with CAP_NET_ADMIN"
    elif error.errno == errno.EACCES and ":" in address:
        cure = ": IPv6 is off, 'sysctl net.ipv6.conf.lo.disable_ipv6=0'"
    return f"{address} on lo: {error.strerror}{cure}"


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"  # gone meanwhile


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _text(key: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(key) == 4 else socket.AF_INET6, key)
