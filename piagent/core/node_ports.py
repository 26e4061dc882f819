"""Giving out node ports: who gets which number on every node, who gets none, and why.

In the spirit of core/allocation.py: a port that may be kept is kept, then come those that are asked
for by number, then each of the others gets the lowest number that is free. TCP and UDP are two
different sets of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from piagent.core.allocation_types import AllocationReason, Refusal
from piagent.core.exchange import movable
from piagent.core.model import Protocol

RANGE = range(30000, 32768)
"""The node ports of Kubernetes (--service-node-port-range)."""

PortKey = tuple[str, str]
"""Service and name of its port."""
_Unit = tuple[Protocol, int]
_TOLD = {
    AllocationReason.KEPT: "it had it before",
    AllocationReason.ASKED: "it asks for it",
    AllocationReason.ASSIGNED: "the lowest one that was free",
}


class PortRequest(Struct, frozen=True, kw_only=True):
    """A port of a service that wants a node port."""

    service: str
    name: str
    """Unique within the service."""
    protocol: Protocol = Protocol.TCP
    number: int | None = None
    """Asked for; None: any."""

    @property
    def key(self) -> PortKey:
        """What it goes by."""
        return self.service, self.name


class PortGrant(Struct, frozen=True):
    """The node port that a port has from now on."""

    number: int
    reason: AllocationReason
    detail: str


class NodePorts(Struct, frozen=True):
    """Which port has which node port, and which have none."""

    given: Mapping[PortKey, PortGrant]
    refused: Mapping[PortKey, Refusal]
    """A port may be in both: it keeps what it has until what it asks for can be given."""


def allocate_node_ports(
    requests: Sequence[PortRequest], held: Mapping[PortKey, int], ports: range = RANGE
) -> NodePorts:
    """Say which port of which service has which node port from now on.

    `held` is what each has now; a number outside of `ports` is not kept. A number outside that is
    asked for is refused, as Kubernetes does. Two ports never get one number of one protocol; where
    two ask for it or have it, it is the holder's, else that of the first one in `requests`. A
    second request of one key is overlooked.

    Called again with what it gave, it gives the same.
    """
    work = _Work(requests, held, ports)
    work.keep()
    work.give_asked()
    work.assign()
    return work.result()


class _Work:
    """One call of `allocate_node_ports`."""

    def __init__(
        self, requests: Sequence[PortRequest], held: Mapping[PortKey, int], ports: range
    ) -> None:
        by_key: dict[PortKey, PortRequest] = {}
        for one in requests:
            by_key.setdefault(one.key, one)
        self._requests = tuple(by_key.values())
        self._held = held
        self._ports = ports
        self._has: dict[PortKey, _Unit] = {}
        self._user: dict[_Unit, PortKey] = {}
        self._why: dict[PortKey, AllocationReason] = {}
        self._waiting: dict[PortKey, _Unit] = {}
        """What they ask for could be theirs if nobody else had it."""

    def keep(self) -> None:
        """Take down what everybody keeps; of several who have one number, who asks for it first."""
        holders = [one for one in self._requests if self._is_ours(self._held.get(one.key))]
        holders.sort(key=lambda one: (one.number != self._held[one.key], one.number is not None))
        for one in holders:
            unit = one.protocol, self._held[one.key]
            if unit not in self._user:
                self._take(one.key, unit, AllocationReason.KEPT)
        for one in self._requests:
            if one.number is not None and self._is_ours(one.number):
                wanted = one.protocol, one.number
                if self._has.get(one.key) != wanted:
                    self._waiting[one.key] = wanted

    def _is_ours(self, number: int | None) -> bool:
        # A range knows its integers at once; anything else it looks for among all of them.
        return isinstance(number, int) and number in self._ports

    def give_asked(self) -> None:
        """Give what is asked for by number to all that can have it."""
        blockers = {
            key: [self._user[unit]] if unit in self._user else []
            for key, unit in self._waiting.items()
        }
        claims: dict[_Unit, PortKey] = {}
        going = movable(
            blockers, blockers, lambda key: claims.setdefault(self._waiting[key], key) == key
        )
        for key in going:
            if key in self._has:
                del self._user[self._has.pop(key)]
        for key in going:
            self._take(key, self._waiting[key], AllocationReason.ASKED)

    def assign(self) -> None:
        """Give the lowest free numbers to all that ask for none."""
        free = {protocol: self._free(protocol) for protocol in Protocol}
        for one in self._requests:
            if one.number is not None or one.key in self._has:
                continue
            for unit in free[one.protocol]:
                had = one.key in self._held
                why = AllocationReason.REASSIGNED if had else AllocationReason.ASSIGNED
                self._take(one.key, unit, why)
                break

    def _free(self, protocol: Protocol) -> Iterator[_Unit]:
        """What is free, the lowest first, looked for once."""
        units = ((protocol, number) for number in self._ports)
        return (unit for unit in units if unit not in self._user)

    def _take(self, key: PortKey, unit: _Unit, why: AllocationReason) -> None:
        self._has[key], self._user[unit], self._why[key] = unit, key, why

    def result(self) -> NodePorts:
        """What came out."""
        given, refused = {}, {}
        for one in self._requests:
            has = self._has.get(one.key)
            if has is not None:
                why = self._why[one.key]
                given[one.key] = PortGrant(has[1], why, self._told(one, why))
            if has is None or one.number not in {None, has[1]}:
                refused[one.key] = self._refusal(one)
        return NodePorts(given, refused)

    def _told(self, one: PortRequest, why: AllocationReason) -> str:
        if why is AllocationReason.REASSIGNED:
            return f"instead of {self._held[one.key]}, which it cannot keep"
        return _TOLD[why]

    def _refusal(self, one: PortRequest) -> Refusal:
        first, last = self._ports.start, self._ports.stop - 1
        if one.number is None:
            what = f"all {one.protocol} ports from {first} to {last} are in use: free one"
            return Refusal(AllocationReason.EXHAUSTED, what)
        if one.number not in self._ports:
            what = f"{one.number} is not from {first} to {last}: ask for one that is, or for none"
            why = AllocationReason.OUT_OF_RANGE
        else:
            service, name = self._user[one.protocol, one.number]
            who = f"port {name} of service {service}"
            what = f"{one.number}/{one.protocol} is used by {who}: ask for another, or for none"
            why = AllocationReason.IN_USE
        if one.key in self._has:
            what += f"; until then it keeps {self._has[one.key][1]}"
        return Refusal(why, what)
