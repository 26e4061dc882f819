"""How frames get to backends, as the kernel's routes and neighbours say, followed as they change.

The kernel resolves and keeps what it knows; here it is only asked, heard, and told that a neighbour
is needed, which packets that go past its IP stack do not tell it. Nothing is written into its
tables for good.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Iterable

from piagent.adapters import netlink_messages
from piagent.adapters.frames import MAC_SIZE
from piagent.adapters.netlink_messages import (
    GROUP_IPV4_ADDRESS,
    GROUP_IPV4_ROUTE,
    GROUP_IPV6_ADDRESS,
    GROUP_IPV6_ROUTE,
    GROUP_LINK,
    GROUP_NEIGHBOUR,
    RTM_DELNEIGH,
    RTM_GETLINK,
    RTM_NEWNEIGH,
    RTN_LOCAL,
    RTN_UNICAST,
    LinkMessage,
    NextHopMessage,
    RouteMessage,
    read_link,
    read_next_hop,
)
from piagent.core.paths import Path, PathReason

AGAIN_S = 1.0
"""How often who does not answer, or has not been heard for long, is asked for again."""
LOOK_EVERY = 10
"""In so many of these rounds all routes are looked up once: rules and next-hop groups, which change
where packets go, say nothing here."""
LOOK_PAUSE_S = 0.1
"""Between two look-ups of all routes when they change in large numbers."""

_INCOMPLETE, _REACHABLE, _STALE, _DELAY, _PROBE = 0x01, 0x02, 0x04, 0x08, 0x10
_FAILED, _PERMANENT = 0x20, 0x80
_KNOWN = _REACHABLE | _STALE | _DELAY | _PROBE | _PERMANENT
_AT_WORK = _INCOMPLETE | _DELAY | _PROBE | _REACHABLE | _PERMANENT
"""The kernel does all there is to do by itself."""

Hop = tuple[int, str]
"""Index of an interface, address of a neighbour on it."""

_log = logging.getLogger(__name__)


class BackendPaths:
    """Follows the ways to backends, in the calling thread's namespace.

    Everything happens in the event loop: two or three system calls for each backend when routes
    change, one for each event about a neighbour that leads to a backend.
    """

    def __init__(self, deliver: Callable[[Path], None]) -> None:
        """`deliver` is given each path when it is first known, and whenever it is another one.

        OSError: there is no netlink socket to be had.
        """
        self._deliver = deliver
        self.paths: dict[str, Path] = {}
        """By the backend's address, exactly those that are followed."""
        self._routes: dict[str, RouteMessage | None] = {}
        self._hops: dict[Hop, NextHopMessage | None] = {}
        self._links: dict[int, LinkMessage] = {}
        self._why_not: str | None = None
        self._lost_events = False
        self._looking_soon: asyncio.TimerHandle | None = None
        self._questions = netlink_messages.open_socket()
        self._events = netlink_messages.open_socket(
            GROUP_LINK
            | GROUP_NEIGHBOUR
            | GROUP_IPV4_ADDRESS
            | GROUP_IPV6_ADDRESS
            | GROUP_IPV4_ROUTE
            | GROUP_IPV6_ROUTE
        )
        self._events.setblocking(False)

    @property
    def why_not(self) -> str | None:
        """Why the kernel cannot be made to look for neighbours, cure included; None when it can."""
        return self._why_not

    def follow(self, backends: Collection[str]) -> None:
        """Follow exactly these addresses; the new ones are looked for at once."""
        for gone in [address for address in self.paths if address not in backends]:
            del self.paths[gone], self._routes[gone]
        new = [address for address in backends if address not in self.paths]
        if new and not self._links:
            self._ask_links()
        for address in new:
            self._routes[address] = self._route(address)
        self._settle(new)

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._events.fileno(), self._read)
        try:
            self._look()
            rounds = 0
            while True:
                await asyncio.sleep(AGAIN_S)
                rounds += 1
                if rounds % LOOK_EVERY == 0:
                    self._look()
                for hop, known in self._hops.items():
                    if known is None or not known.state & _AT_WORK:
                        self._use(hop)
        finally:
            loop.remove_reader(self._events.fileno())
            if self._looking_soon is not None:
                self._looking_soon.cancel()

    def close(self) -> None:
        """Nothing can be followed afterwards."""
        self._events.close()
        self._questions.close()

    # ---- what the kernel says by itself ----

    def _read(self) -> None:
        """At most so much that the event loop is not held up; the rest makes it readable again."""
        look = False
        try:
            for event in netlink_messages.events(self._events):
                if event is None:
                    self._lost_events = look = True
                elif event[0] in {RTM_NEWNEIGH, RTM_DELNEIGH}:
                    self._heard(event[1], gone=event[0] == RTM_DELNEIGH)
                else:
                    look = True
        except OSError as error:
            _log.warning("backends: the kernel's events are not heard: %s", error)
        if look:
            self._look_soon()

    def _heard(self, body: bytes, *, gone: bool) -> None:
        found = read_next_hop(body)
        if found is None:
            return
        hop = found.index, found.address
        if hop not in self._hops:
            return
        self._hops[hop] = None if gone else found
        if gone or not found.state & _AT_WORK:
            self._use(hop)
        self._tell(address for address in self.paths if self._hop(address) == hop)

    def _look_soon(self) -> None:
        if self._looking_soon is None:
            loop = asyncio.get_running_loop()
            self._looking_soon = loop.call_later(LOOK_PAUSE_S, self._look)

    # ---- what it is asked ----

    def _look(self) -> None:
        """Ask for all routes again, and after lost events for all that was said of neighbours."""
        self._looking_soon = None
        if self._lost_events:
            self._lost_events = False
            self._hops.clear()
        self._ask_links()
        for address in self._routes:
            self._routes[address] = self._route(address)
        self._settle(list(self._routes))

    def _settle(self, addresses: Collection[str]) -> None:
        """Routes to these may be others: know the neighbours that they lead to, and no more."""
        wanted = {hop for hop in map(self._hop, self._routes) if hop is not None}
        for hop in self._hops.keys() - wanted:
            del self._hops[hop]
        for hop in wanted - self._hops.keys():
            self._hops[hop] = self._neighbour(hop)
            known = self._hops[hop]
            if known is None or not known.state & _AT_WORK:
                self._use(hop)
        self._tell(addresses)

    def _hop(self, address: str) -> Hop | None:
        route = self._routes.get(address)
        if route is None or route.kind != RTN_UNICAST or not self._is_ethernet(route.index):
            return None
        return route.index, route.gateway or address

    def _is_ethernet(self, index: int) -> bool:
        link = self._links.get(index)
        return link is not None and len(link.mac) == MAC_SIZE and any(link.mac)

    def _ask_links(self) -> None:
        try:
            bodies = netlink_messages.dump(self._questions, RTM_GETLINK)
        except OSError as error:
            _log.warning("backends: the interfaces are not known: %s", error)
            return
        links = [link for link in map(read_link, bodies) if link is not None]
        self._links = {link.index: link for link in links}

    def _route(self, address: str) -> RouteMessage | None:
        try:
            return netlink_messages.route_to(self._questions, address)
        except OSError:
            return None  # unreachable, prohibited, a black hole: there is none

    def _neighbour(self, hop: Hop) -> NextHopMessage | None:
        try:
            return netlink_messages.next_hop(self._questions, *hop)
        except OSError as error:
            _log.warning("backends: neighbour %s is not known: %s", hop[1], error)
            return None

    def _use(self, hop: Hop) -> None:
        try:
            netlink_messages.use_neighbour(self._questions, *hop)
        except OSError as error:
            cure = ": run piagent as root or with CAP_NET_ADMIN"
            what = f"{hop[1]} cannot be looked for: {error.strerror or error}"
            reason = what + (cure if error.errno == errno.EPERM else "")
            if self._why_not is None:
                _log.warning("backends: %s", reason)
            self._why_not = reason
        else:
            self._why_not = None

    # ---- what comes of it ----

    def _tell(self, addresses: Iterable[str]) -> None:
        for address in list(addresses):
            path = self._path(address)
            if self.paths.get(address) != path:
                self.paths[address] = path
                self._deliver(path)

    def _path(self, address: str) -> Path:
        route = self._routes.get(address)
        if route is None or route.kind not in {RTN_UNICAST, RTN_LOCAL}:
            return Path(backend=address, reason=PathReason.NO_ROUTE)
        if route.kind == RTN_LOCAL:
            return Path(backend=address, reason=PathReason.HERE, source=address)
        link = self._links.get(route.index)
        hop = self._hop(address)
        if link is None or hop is None:
            return Path(backend=address, reason=PathReason.NOT_ETHERNET, interface=route.index)
        known = self._hops.get(hop)
        resolved = known is not None and known.state & _KNOWN and len(known.mac) == MAC_SIZE
        return Path(
            backend=address,
            reason=PathReason.RESOLVED if resolved else self._unresolved(known),
            interface=route.index,
            gateway=route.gateway,
            mac=known.mac if known is not None and resolved else b"",
            own_mac=link.mac,
            source=route.source,
            mtu=route.mtu or link.mtu,
        )

    def _unresolved(self, known: NextHopMessage | None) -> PathReason:
        if known is not None and known.state & _FAILED:
            return PathReason.FAILED
        return PathReason.UNRESOLVED if self._why_not is not None else PathReason.RESOLVING
