"""What happens to an interface and its addresses, as rtnetlink(7) tells it."""

from __future__ import annotations

from collections.abc import Iterator

from piagent.adapters import netlink_messages, wireless
from piagent.adapters.netlink_messages import (
    GROUP_IPV4_ADDRESS,
    GROUP_IPV6_ADDRESS,
    GROUP_LINK,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    AddressMessage,
    LinkMessage,
    read_address,
    read_link,
)
from piagent.ports import AddressGone, LinkState

_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x40, 0x10000

LinkEvent = LinkState | AddressGone


class LinkMonitor:
    """Follows one interface by its name, in the calling thread's namespace; errors are OSError.

    It may come later, go, or be renamed: whatever has the name now is the interface.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self.link: LinkMessage | None = None
        """The interface as it is now; None when there is none of that name."""
        self.addresses: dict[tuple[str, int], AddressMessage] = {}
        """(address, prefix length) of each address on it."""
        self.macs: dict[int, bytes] = {}
        """Hardware addresses of all interfaces of this host, by index."""
        self._state: LinkState | None = None
        self._lost_events = False
        self._events = netlink_messages.open_socket(
            GROUP_LINK | GROUP_IPV4_ADDRESS | GROUP_IPV6_ADDRESS
        )
        self._events.setblocking(False)
        self._questions = netlink_messages.open_socket()

    def fileno(self) -> int:
        """Readable when there is something for `read`."""
        return self._events.fileno()

    def close(self) -> None:
        """Nothing can be read afterwards."""
        self._events.close()
        self._questions.close()

    def look(self) -> list[LinkEvent]:
        """Ask how it is; what is other than known, and the state always the first time.

        Also for when the kernel had more events than the socket could hold (ENOBUFS).
        """
        links = {}
        for body in netlink_messages.dump(self._questions, RTM_GETLINK):
            link = read_link(body)
            if link is not None:
                links[link.index] = link
        self.macs = {index: link.mac for index, link in links.items()}
        mine = [link for link in links.values() if link.name == self._interface]
        link = mine[0] if mine else None
        same = link is not None and self.link is not None and link.index == self.link.index
        found = list(self._become(link))
        if link is not None and same:
            before, self.addresses = self.addresses, self._ask_addresses(link.index)
            left = {address for address, _ in self.addresses}
            lost = dict.fromkeys(address for address, _ in before if address not in left)
            found += [AddressGone(address) for address in lost]
        return found

    def read(self) -> list[LinkEvent]:
        """What has happened since; at most so much that the event loop is not held up."""
        found: list[LinkEvent] = []
        for event in netlink_messages.events(self._events):
            if event is None:
                self._lost_events = True
            else:
                found += self._take(*event)
        if self._lost_events:
            found += self.look()
            self._lost_events = False
        return found

    def _take(self, kind: int, body: bytes) -> Iterator[LinkEvent]:
        if kind in {RTM_NEWLINK, RTM_DELLINK}:
            link = read_link(body)
            if link is not None:
                yield from self._link_event(link, gone=kind == RTM_DELLINK)
        elif kind in {RTM_NEWADDR, RTM_DELADDR}:
            address = read_address(body)
            if address is not None and self.link and address.index == self.link.index:
                yield from self._address_event(address, gone=kind == RTM_DELADDR)

    def _link_event(self, link: LinkMessage, *, gone: bool) -> Iterator[LinkEvent]:
        mine = self.link is not None and self.link.index == link.index
        if gone:
            self.macs.pop(link.index, None)
            if mine:
                yield from self._become(None)
            return
        self.macs[link.index] = link.mac
        if link.name == self._interface:
            yield from self._become(link)
        elif mine:
            yield from self._become(None)

    def _address_event(self, address: AddressMessage, *, gone: bool) -> Iterator[LinkEvent]:
        key = address.address, address.prefix
        if not gone:
            self.addresses[key] = address
            return
        self.addresses.pop(key, None)
        if all(address.address != left for left, _ in self.addresses):
            yield AddressGone(address.address)

    def _become(self, link: LinkMessage | None) -> Iterator[LinkEvent]:
        """The interface is this one now; another one has other addresses."""
        before, self.link = self.link, link
        if (before and before.index) != (link and link.index):
            lost = dict.fromkeys(address for address, _ in self.addresses)
            self.addresses = {} if link is None else self._ask_addresses(link.index)
            yield from (AddressGone(address) for address in lost)
        state = _state(link)
        if state != self._state:
            self._state = state
            yield state

    def _ask_addresses(self, index: int) -> dict[tuple[str, int], AddressMessage]:
        bodies = netlink_messages.dump(self._questions, RTM_GETADDR)
        found = [address for address in map(read_address, bodies) if address is not None]
        return {(one.address, one.prefix): one for one in found if one.index == index}


def _state(link: LinkMessage | None) -> LinkState:
    """By the flags of netdevice(7); IFF_RUNNING is RFC 2863's operational state."""
    if link is None:
        return LinkState(up=False, reason="no such interface")
    is_wireless = wireless.is_wireless(link.name)
    if not link.flags & _IFF_UP:
        return LinkState(up=False, reason="switched off", wireless=is_wireless)
    if not link.flags & _IFF_LOWER_UP:
        return LinkState(up=False, reason="no carrier", wireless=is_wireless)
    if not link.flags & _IFF_RUNNING:
        # Wi-Fi before its keys are agreed, a port that waits for 802.1X.
        return LinkState(up=False, reason="not admitted to the network", wireless=is_wireless)
    return LinkState(up=True, reason="carrier", wireless=is_wireless)
