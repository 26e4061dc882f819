"""The network that the VIPs are on, as this host's interface sees it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address

from piagent.adapters.clock import until_beat_s
from piagent.adapters.egress import EgressAsker
from piagent.adapters.frame_tap import FrameTap
from piagent.adapters.frames import MAC_SIZE, Claim, mac_text, probe_frame
from piagent.adapters.link_monitor import LinkEvent, LinkMonitor
from piagent.adapters.netlink_messages import LinkMessage
from piagent.core.egress import Verdict
from piagent.ports import AddressConflict, Egress, LanEvent, LinkState

PROBES = 2
PROBE_WINDOW_S = 0.05
"""For each probe. RFC 5227 section 1.1 takes seconds; here the lease decides between claimers."""
CONFLICT_EVERY_S = 1.0
"""The same rival of the same VIP is not reported again before."""
CONFLICTS_MAX = 16
"""Reports in that time, whoever they are about: a flood of rivals is one trouble, not thousands."""

_log = logging.getLogger(__name__)


class KernelLan:
    """`ports.Lan` on one interface, by packet(7) and rtnetlink(7).

    `Egress` comes when somebody answers, when the proof is lost (`core.egress`), and when the loss
    means nothing any more because the link is another; not when there is nobody to prove anything.
    Addresses are as `ipaddress` writes them. Loopback ones are on no LAN: nothing is said of them.
    """

    def __init__(self, interface: str | None) -> None:
        self._interface = interface
        self._monitor: LinkMonitor | None = None
        self._deliver: Callable[[LanEvent], None] = lambda _: None
        self._watched: frozenset[str] = frozenset()
        self._probes: dict[str, list[asyncio.Future[str]]] = {}
        self._tap = FrameTap(self._heard)
        self._egress = EgressAsker(self._tap.send)
        self._verdict = Verdict.UNKNOWN
        self._up = False
        self._listening_soon = False
        self._conflicts: dict[tuple[str, bytes], float] = {}

    async def run(self, deliver: Callable[[LanEvent], None]) -> None:
        """Watch until cancelled; the first event is the `LinkState` that is found.

        Raises OSError when the kernel does not even say what interfaces there are.
        """
        self._deliver = deliver
        if self._interface is None:
            deliver(LinkState(up=False, reason="no interface for VIPs"))
            await asyncio.Event().wait()
            return
        loop = asyncio.get_running_loop()
        self._monitor = monitor = LinkMonitor(self._interface)
        loop.add_reader(monitor.fileno(), self._link_readable)
        try:
            self._report(monitor.look())
            while True:
                await asyncio.sleep(until_beat_s(self._egress.proof.pause_ms / 1000))
                self._prove()
        finally:
            loop.remove_reader(monitor.fileno())
            self._monitor = None
            self._tap.close()
            self._egress.close()
            monitor.close()

    def watch(self, vips: Collection[str]) -> None:
        """Report conflicts and removals of exactly these, the VIPs owned; egress only if any.

        What has happened to an address before this call counts by the set before: who takes a VIP
        out of it before he removes the address hears nothing of that.
        """
        if self._monitor is not None:
            asyncio.get_running_loop().call_soon(self._report, self._news(self._monitor))
        self._watched = frozenset(vip for vip in vips if not ip_address(vip).is_loopback)
        self._listen_soon()

    async def probe(self, vip: str) -> str | None:
        """Ask the LAN who has the VIP (RFC 5227 section 2.1.1, RFC 4862 5.4): a MAC or None.

        Another host that probes for it at the same time does not have it: which of the two gets it
        is the lease's business. None also when there is nobody to ask: no link, not yet running.
        """
        link = self._usable()
        if link is None or ip_address(vip).is_loopback:
            return None
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._probes.setdefault(vip, []).append(answer)
        try:
            self._listen_soon()
            await asyncio.sleep(0)  # now it listens, with one filter for all probes that began
            for _ in range(PROBES):
                self._tap.send(probe_frame(link.mac, vip))
                await asyncio.wait([answer], timeout=PROBE_WINDOW_S)
                self._tap.drain()
                if answer.done():
                    return answer.result()
        except OSError as error:
            _log.warning("vip %s: the LAN was not asked who has it: %s", vip, error)
        finally:
            self._probes[vip].remove(answer)
            if not self._probes[vip]:
                del self._probes[vip]
            self._listen_soon()
        return None

    def _usable(self) -> LinkMessage | None:
        """The interface, if frames can be sent through it."""
        link = self._monitor.link if self._monitor is not None else None
        return link if self._up and link is not None and len(link.mac) == MAC_SIZE else None

    def _listen_soon(self) -> None:
        """At the end of this turn of the event loop, once for all that changes in it."""
        if self._monitor is not None and not self._listening_soon:
            self._listening_soon = True
            asyncio.get_running_loop().call_soon(self._listen)

    def _listen(self) -> None:
        self._listening_soon = False
        link = self._usable()
        place = None if link is None else (link.name, link.index)
        try:
            self._tap.listen(place, {*self._watched, *self._probes, *self._egress.interest})
        except OSError as error:
            _log.warning("%s: conflicts and answers are not heard: %s", self._interface, error)

    def _link_readable(self) -> None:
        if self._monitor is not None:
            self._report(self._news(self._monitor))

    def _news(self, monitor: LinkMonitor) -> list[LinkEvent]:
        """What has happened, without removals of addresses that are not watched."""
        try:
            events = monitor.read()
        except OSError as error:
            _log.warning("%s: its state is not known: %s", self._interface, error)
            return []
        return [
            event for event in events if isinstance(event, LinkState) or event.vip in self._watched
        ]

    def _report(self, events: Iterable[LinkEvent]) -> None:
        for event in events:
            self._deliver(event)
            if isinstance(event, LinkState):
                self._up = event.up
                self._egress.reset(f"link: {event.reason}")
                self._judged()
        self._listen_soon()

    def _heard(self, claim: Claim) -> None:
        """Somebody claims an address; this host's own voice, through whatever interface, is none.

        Its other interface on the same LAN answers ARP for the VIP, too (arp_ignore, ip-sysctl).
        """
        link = self._usable()
        if link is None or self._monitor is None or claim.mac in self._monitor.macs.values():
            return
        for answer in self._probes.get(claim.address, ()):
            if not answer.done():
                answer.set_result(mac_text(claim.mac))
        if claim.address in self._watched and self._is_news(claim):
            self._deliver(AddressConflict(claim.address, mac_text(claim.mac)))
        self._egress.heard(claim, link.mac)
        self._judged()

    def _is_news(self, claim: Claim) -> bool:
        now = time.monotonic()
        self._conflicts = {
            key: at for key, at in self._conflicts.items() if now - at < CONFLICT_EVERY_S
        }
        key = claim.address, claim.mac
        if key in self._conflicts or len(self._conflicts) >= CONFLICTS_MAX:
            return False
        self._conflicts[key] = now
        return True

    def _prove(self) -> None:
        """One round of questions, as long as a VIP is owned or the proof is lost."""
        self._tap.drain()
        link, monitor = self._usable(), self._monitor
        if link is None or monitor is None:
            return
        if not self._watched and self._verdict is not Verdict.LOST:
            self._egress.reset("no VIP is owned")
            self._listen()
        else:
            try:
                asked = self._egress.choose(link, self._watched, monitor.macs.values())
            except OSError as error:
                _log.warning("%s: neighbours are not known: %s", self._interface, error)
                return
            self._listen()
            self._egress.ask(link, asked, monitor.addresses.values())
        self._judged()

    def _judged(self) -> None:
        proof, before = self._egress.proof, self._verdict
        if proof.verdict is before:
            return
        self._verdict = proof.verdict
        if proof.verdict is Verdict.UNKNOWN and before is not Verdict.LOST:
            _log.debug("%s: egress is not proven: %s", self._interface, proof.reason)
        else:
            self._deliver(Egress(proof.verdict is not Verdict.LOST, proof.reason))
