"""VIPs on this host: taken, kept and left in the order that keeps the LAN right.

A VIP is an address on the interface, there for no longer than its lease: the kernel removes it when
nobody renews it. A VIP that is a loopback address exists on every host; owning it means listening.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from piagent.agent.serving import Serving
from piagent.core.model import Announce, Config
from piagent.core.plan import is_loopback
from piagent.ports import AddressError, Addresses, Clock

AnnounceOnce = Callable[[str], Awaitable[None]]


class Announcer(Protocol):
    """Announces an address by a function that does it once, at once and again and again."""

    def start(self, address: str) -> None:
        """Begin, or begin again."""
        ...

    def stop(self, address: str) -> None:
        """Stay silent; unknown addresses are silent already."""
        ...


class Vips:
    """What this host has to do to be the owner of a VIP, and to be it no more."""

    def __init__(
        self,
        clock: Clock,
        addresses: Addresses,
        announcer: Callable[[AnnounceOnce], Announcer],
        serving: Serving,
        announced: Callable[[str], bool],
    ) -> None:
        """`announced`: whether the LAN is told of a VIP (its pool says)."""
        self._clock = clock
        self._addresses = addresses
        self._announcer = announcer(self._announce)
        self._serving = serving
        self._announced = announced
        self._until_ns: dict[str, int] = {}

    async def take(self, vip: str, until_ns: int) -> None:
        """Own the VIP until `until_ns`; raises OSError or AddressError when that cannot be."""
        if is_loopback(vip):
            self._serving.own(vip)
            return
        self._until_ns[vip] = until_ns
        if not self._is_over(until_ns):
            await self._addresses.add(vip, self._left_ms(until_ns))
        if self._announced(vip):
            self._announcer.start(vip)

    async def keep(self, until_ns: Mapping[str, int]) -> dict[str, Exception]:
        """Own these VIPs longer, each until its time; those that cannot be owned, and why."""
        real = {vip: at_ns for vip, at_ns in until_ns.items() if not is_loopback(vip)}
        self._until_ns.update(real)
        real = {vip: at_ns for vip, at_ns in real.items() if not self._is_over(at_ns)}
        if not real:
            return {}
        try:
            await self._addresses.renew(real, self._left_ms(min(real.values())))
        except (OSError, AddressError):
            return await self._keep_each(real)
        return {}

    async def _keep_each(self, until_ns: Mapping[str, int]) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        for vip, at_ns in until_ns.items():
            try:
                await self._addresses.add(vip, self._left_ms(at_ns))
            except (OSError, AddressError) as error:
                failed[vip] = error
        return failed

    async def leave(self, vip: str) -> bool:
        """Own the VIP no more; True when it is certain that this host does not answer for it."""
        if is_loopback(vip):
            self._serving.disown(vip)
            return True
        self._announcer.stop(vip)
        self._until_ns.pop(vip, None)
        return await self._addresses.remove(vip)

    async def _announce(self, vip: str) -> None:
        """Not after the lease, as when this process was stopped for a while: others own it then."""
        if self._clock.now_ns() < self._until_ns.get(vip, 0):
            await self._addresses.announce(vip)

    def _is_over(self, until_ns: int) -> bool:
        """Too late: the kernel keeps what it is told to configure for a second at least."""
        return until_ns <= self._clock.now_ns()

    def _left_ms(self, until_ns: int) -> int:
        return max(0, until_ns - self._clock.now_ns()) // 1_000_000


def announced(config: Config, vip: str) -> bool:
    """Whether the LAN is told of a VIP: its pool says."""
    return not any(
        pool.announce is Announce.NONE and span.holds(vip)
        for pool in config.pools
        for span in pool.addresses
    )
