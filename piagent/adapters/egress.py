"""Asks hosts on the LAN whether they are there, as `core.egress` wants it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from piagent.adapters.frames import (
    BROADCAST,
    Claim,
    arp_question_frame,
    neighbour_solicitation_frame,
)
from piagent.adapters.neighbours import Neighbour, Neighbours
from piagent.adapters.netlink_messages import AddressMessage, LinkMessage
from piagent.core.egress import EgressProof

CANDIDATES_MAX = 16
REFRESH_ROUNDS = 10
"""The kernel is asked this seldom for neighbours, unless nobody answers."""


class EgressAsker:
    """The questions of `proof`: one or two frames a second, each to one host.

    Asked is by ARP, from an address of this host that is no VIP, so that both sides' caches stay
    fresh; hosts with IPv6 only are asked by neighbour solicitation. A question that the interface
    does not even take, as its queue is full, counts as asked.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.proof = EgressProof()
        self._send = send
        self._neighbours = Neighbours()
        self._candidates: list[Neighbour] = []
        self._asked: dict[str, Neighbour] = {}
        self._rounds = 0

    @property
    def interest(self) -> Collection[str]:
        """Whose claims to hear."""
        return self._asked.keys()

    def reset(self, reason: str) -> None:
        """Forget everybody."""
        self.proof.reset(reason)
        self._asked, self._candidates, self._rounds = {}, [], 0

    def close(self) -> None:
        """Nothing is open afterwards."""
        self._neighbours.close()

    def choose(
        self, link: LinkMessage, vips: Collection[str], macs: Collection[bytes]
    ) -> list[Neighbour]:
        """End a round and begin the next; whom to ask. OSError when the kernel does not say.

        `vips` and `macs` are this host's own.
        """
        if self._rounds % REFRESH_ROUNDS == 0 or self.proof.doubtful:
            self._candidates = self._look(link.index, vips, macs)
        self._rounds += 1
        known = self._asked | {one.address: one for one in self._candidates}
        received = self._neighbours.received_packets(link.index)
        asked = self.proof.round(received, [one.address for one in self._candidates])
        self._asked = {who: known[who] for who in {*self.proof.witnesses, *asked}}
        return [known[who] for who in asked]

    def ask(
        self, link: LinkMessage, asked: Iterable[Neighbour], own: Collection[AddressMessage]
    ) -> None:
        """Send the questions, once `interest` is listened to; `own` are this host's addresses."""
        for neighbour in asked:
            frame = _question(link.mac, neighbour, own)
            if frame is not None:
                with contextlib.suppress(OSError):
                    self._send(frame)

    def heard(self, claim: Claim, mac: bytes) -> None:
        """Somebody else claims something; `mac` is ours."""
        if claim.address in self._asked:
            if claim.reply and claim.to == mac:
                self.proof.answered(claim.address)
            else:
                self.proof.spoke(claim.address)

    def _look(self, index: int, vips: Collection[str], macs: Collection[bytes]) -> list[Neighbour]:
        """Other hosts, each by one address, IPv4 if it has one; gateways first."""
        known = self._neighbours.recent(index)
        seen = {one.address for one in known}
        gateways = self._neighbours.gateways(index)
        # Nobody knows where the gateway is: ask everybody.
        lost = [Neighbour(a, BROADCAST) for a in gateways if a not in seen and ":" not in a]
        found: dict[bytes, Neighbour] = {}
        for one in sorted([*lost, *known], key=lambda one: ":" in one.address):
            if one.address not in vips and one.mac not in macs:
                found.setdefault(one.mac, one)
        return list(found.values())[:CANDIDATES_MAX]


def _question(mac: bytes, neighbour: Neighbour, own: Collection[AddressMessage]) -> bytes | None:
    """None when this host has no address to ask from."""
    target = ip_address(neighbour.address)
    if isinstance(target, IPv4Address):
        return arp_question_frame(mac, target, _source4(target, own), neighbour.mac)
    for one in own:
        source = ip_address(one.address)
        if isinstance(source, IPv6Address) and source.is_link_local:
            return neighbour_solicitation_frame(mac, target, source, neighbour.mac)
    return None


def _source4(target: IPv4Address, own: Collection[AddressMessage]) -> IPv4Address | None:
    """An address of ours in the target's network; without one the question is a probe.

    It is no VIP: these are /32.
    """
    for one in own:
        if ":" not in one.address:
            network = IPv4Network((one.address, one.prefix), strict=False)
            if target in network:
                return IPv4Address(one.address)
    return None
