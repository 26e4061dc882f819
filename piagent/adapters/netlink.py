"""VIPs as real addresses on this host's interface, each with a lifetime that the kernel keeps."""

from __future__ import annotations

import errno
import functools
import logging
import socket
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any

from piagent.adapters import arp, netlink_messages
from piagent.adapters.neighbours import Neighbours
from piagent.adapters.netlink_messages import RTM_GETADDR, read_address
from piagent.adapters.rtnetlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    RTM_DELADDR,
    RTM_NEWADDR,
    Link,
    Rtnetlink,
    encoded,
    ifaddrmsg,
)
from piagent.core.plan import is_loopback
from piagent.ports import AddressError

IFA_PROTO_PIAGENT = 0x70
"""Written on every address of ours (kernel 5.18 and newer), so that leftovers can be told apart."""
UNICAST_ROUNDS = 2
"""So many announcements of an address that was just taken also go to each neighbour alone."""

_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_GONE = {errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO}

_log = logging.getLogger(__name__)


class KernelAddresses:
    """`ports.Addresses` on one interface.

    Addresses are host addresses (/32, /128) without routes of their own. IPv6 ones skip duplicate
    address detection (the lease decides who owns them, and a tentative address does not answer)
    and are deprecated from the start, so that the host never picks one as its own source address.

    Loopback addresses are left alone: every host has them; owning one means listening on it.

    Everything happens in the calling thread, the event loop's: a few short system calls. Somebody
    else may hold the kernel's routing lock for a while, but then the election has to wait for its
    address anyhow, and a thread would make every renewal cost several times as much.
    """

    def __init__(self, interface: str | None) -> None:
        self._interface = interface
        self._known: set[str] = set()
        # Opened once: removing an address must not fail because descriptors have run out.
        self._rtnetlink: Rtnetlink | None = None
        self._questions: socket.socket | None = None
        self._frames: socket.socket | None = None
        self._neighbours = Neighbours()
        self._rounds_left: dict[str, int] = {}
        """Of those announcements, by address."""

    async def add(self, address: str, valid_ms: int) -> None:
        """Configure or renew; the kernel removes it when `valid_ms` are over, or earlier.

        The kernel counts whole seconds, so this rounds down: the address is gone up to a second
        before `valid_ms` (but never less than about a second from now), so that it does not
        outlive the lease it stands for. The kernel's timer may add a quarter of a second.
        """
        if not is_loopback(address):
            self._add(address, valid_ms)

    async def renew(self, addresses: Collection[str], valid_ms: int) -> None:
        """`add` for addresses that are configured already, all of them in one go.

        Raises AddressError when one of them cannot be renewed; others may have been by then.
        """
        real = [address for address in addresses if not is_loopback(address)]
        if real:
            link = self._link()
            for address in real:
                self._configure(link.index, address, max(1, valid_ms // 1000))

    async def remove(self, address: str) -> bool:
        """Remove the address; True when the kernel's own list confirms that it is not there."""
        return is_loopback(address) or self._remove(address)

    async def announce(self, address: str) -> None:
        """Send one gratuitous ARP request and reply, or one unsolicited neighbour advertisement.

        After the address was taken it is also sent to each of the latest neighbours, the gateway
        first: on Wi-Fi a broadcast is sent once and may be lost.
        """
        if not is_loopback(address):
            self._announce(address)

    async def leftovers(self) -> tuple[str, ...]:
        """Addresses on the interface that carry our mark, from this life or a former one."""
        link = self._link()
        return tuple(a for a, _, ours in _configured(self._asking(), link.index) if ours)

    def mac(self) -> bytes:
        """The interface's hardware address now; empty when it has none, or is not there."""
        try:
            return self._link().mac
        except (AddressError, OSError):
            return b""

    def networks(self) -> tuple[str, ...]:
        """The host's own addresses on the interface, `address/prefix`; without the VIPs."""
        try:
            here = _configured(self._asking(), self._link().index)
        except (AddressError, OSError):
            return ()
        return tuple(f"{address}/{prefix}" for address, prefix, ours in here if not ours)

    def close(self) -> None:
        """Nothing can be asked afterwards; nothing is removed."""
        for opened in (self._rtnetlink, self._questions, self._frames, self._neighbours):
            if opened is not None:
                opened.close()

    def _add(self, address: str, valid_ms: int) -> None:
        link = self._link()
        if address not in self._known:
            self._refuse_foreign(link, address)
        self._configure(link.index, address, max(1, valid_ms // 1000))
        if address not in self._known:
            self._rounds_left[address] = UNICAST_ROUNDS
        self._known.add(address)

    def _configure(self, index: int, address: str, valid_s: int) -> None:
        try:
            self._kernel().repeat(_request(index, address, valid_s))
        except OSError as error:
            raise AddressError(self._why_not(address, error)) from error

    def _remove(self, address: str) -> bool:
        self._known.discard(address)
        self._rounds_left.pop(address, None)
        if self._interface is None:
            return True  # nothing was ever added
        try:
            index = self._kernel().link(self._interface).index
            self._kernel().change(_message(index, address, None), RTM_DELADDR)
        except OSError as error:
            if error.errno not in _GONE:
                _log.warning("address %s: %s", address, self._why_not(address, error))
        return self._confirmed_absent(self._interface, address)

    def _confirmed_absent(self, interface: str, address: str) -> bool:
        try:
            index = self._kernel().link(interface).index
            left = [entry for entry in _configured(self._asking(), index) if entry[0] == address]
        except OSError as error:
            if error.errno == errno.ENODEV:
                return True  # the interface is gone, and its addresses with it
            _log.warning("address %s: removal not confirmed: %s", address, error)
            return False
        for _, prefix, _ in left:
            _log.warning("address %s: still on %s as a /%d", address, interface, prefix)
        return not left

    def _announce(self, address: str) -> None:
        link = self._link()
        here = [entry[0] for entry in _configured(self._asking(), link.index)]
        if address not in here:
            # It expired while the agent was stopped: say nothing that is not true.
            msg = f"{address} is not on {link.name}"
            raise AddressError(msg)
        try:
            if self._frames is None:
                self._frames = arp.frame_socket()
            arp.announce(self._frames, link, address)
            if self._rounds_left.get(address, 0) > 0:
                self._rounds_left[address] -= 1
                arp.announce_each(self._frames, link, address, self._neighbours.recent(link.index))
        except OSError as error:
            cure = ": run piagent as root or with CAP_NET_RAW" if error.errno == errno.EPERM else ""
            msg = f"{address} not announced on {link.name}: {error.strerror}{cure}"
            raise AddressError(msg) from error

    def _kernel(self) -> Rtnetlink:
        if self._rtnetlink is None:
            self._rtnetlink = Rtnetlink()
        return self._rtnetlink

    def _asking(self) -> socket.socket:
        if self._questions is None:
            self._questions = netlink_messages.open_socket()
        return self._questions

    def _refuse_foreign(self, link: Link, address: str) -> None:
        for found, prefix, ours in _configured(self._asking(), link.index):
            if found == address and not ours:
                msg = (
                    f"{address} is already on {link.name} as {address}/{prefix}, and piagent did"
                    f" not put it there: remove it ('ip address del {address}/{prefix} dev"
                    f" {link.name}', and from this host's network settings) or use another address"
                )
                raise AddressError(msg)

    def _link(self) -> Link:
        """The interface, which has to be there and switched on."""
        name = self._interface
        if name is None:
            msg = "no interface for VIPs: there is no default route, so set [node] interface"
            raise AddressError(msg)
        try:
            link = self._kernel().link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise AddressError(self._why_not("addresses", error)) from error
            there = ", ".join(n for _, n in socket.if_nameindex() if n != "lo") or "none"
            msg = f"interface {name} does not exist (there are: {there}): correct [node] interface"
            raise AddressError(msg) from error
        if not link.up:
            msg = f"interface {name} is down: 'ip link set {name} up'"
            raise AddressError(msg)
        return link

    def _why_not(self, address: str, error: OSError) -> str:
        cure = ""
        if error.errno == errno.EPERM:
            cure = ": run piagent as root or with CAP_NET_ADMIN"
        elif error.errno == errno.EACCES and ":" in address:
            cure = f": IPv6 is off, 'sysctl net.ipv6.conf.{self._interface}.disable_ipv6=0'"
        return f"{address} on {self._interface}: {error.strerror}{cure}"


@functools.lru_cache(maxsize=256)
def _request(index: int, address: str, valid_s: int) -> bytearray:
    """What adds or renews an address: the same again and again, so it is encoded only once."""
    message = _message(index, address, valid_s)
    return encoded(message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK)


def _message(index: int, address: str, valid_s: int | None) -> Any:
    """The ifaddrmsg of rtnetlink(7) for a host address; without lifetime for a removal."""
    ip = ip_address(address)
    message = ifaddrmsg()
    message["family"] = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    message["prefixlen"] = ip.max_prefixlen
    message["index"] = index
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if valid_s is not None:
        flags = _IFA_F_NOPREFIXROUTE | (_IFA_F_NODAD if ip.version == 6 else 0)
        preferred_s = valid_s if ip.version == 4 else 0
        message["attrs"] += [
            ("IFA_FLAGS", flags),
            ("IFA_CACHEINFO", {"ifa_preferred": preferred_s, "ifa_valid": valid_s}),
            ("IFA_PROTO", IFA_PROTO_PIAGENT),
        ]
    return message


def _configured(channel: socket.socket, index: int) -> list[tuple[str, int, bool]]:
    """(address, prefix length, ours) of every address on an interface."""
    found = map(read_address, netlink_messages.dump(channel, RTM_GETADDR))
    return [
        (one.address, one.prefix, one.proto == IFA_PROTO_PIAGENT)
        for one in found
        if one is not None and one.index == index
    ]
