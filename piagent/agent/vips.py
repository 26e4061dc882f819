"""VIPs on this host: taken, kept, hidden and left in the order that keeps the LAN right.

A VIP is an address on the interface, there for no longer than its lease: the kernel removes it when
nobody renews it, and the fence silences it to the millisecond. A VIP that is a loopback address
exists on every host; owning it means listening.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

from msgspec import Struct

from piagent.agent.serving import Serving
from piagent.core.model import Announce, Config
from piagent.core.plan import is_loopback
from piagent.ports import AddressError, Addresses, Clock, Fence

log = logging.getLogger(__name__)

S_NS = 1_000_000_000
LATE_NS = 10_000_000
"""Less is a busy machine's scheduler, and every profile's guard time allows for it."""
TIMER_SLACK_NS = 20_000_000
"""The kernel may end a lifetime so much before it is over by our clock."""

AnnounceOnce = Callable[[str], Awaitable[None]]


class Announcer(Protocol):
    """Announces an address by a function that does it once, at once and again and again."""

    def start(self, address: str) -> None:
        """Begin, or begin again."""
        ...

    def stop(self, address: str) -> None:
        """Stay silent; unknown addresses are silent already."""
        ...


class Former(Struct, frozen=True):
    """The owner before us, which goes on serving the connections it has."""

    mac: bytes
    """Its hardware address on the VIP's network."""
    drain_ms: int


class Vips:
    """What this host has to do to be the owner of a VIP, and to be it no more."""

    def __init__(
        self,
        *,
        clock: Clock,
        addresses: Addresses,
        fence: Fence,
        announcer: Callable[[AnnounceOnce], Announcer],
        serving: Serving,
        announced: Callable[[str], bool],
    ) -> None:
        """`announced`: whether the LAN is told of a VIP (its pool says)."""
        self._clock = clock
        self._addresses = addresses
        self._fence = fence
        self._announcer = announcer(self._announce)
        self._serving = serving
        self._announced = announced
        self._until_ns: dict[str, int] = {}
        self._hidden_ns: dict[str, int] = {}  # until when others' VIPs are served here
        self._ends_ns: dict[str, int] = {}  # when the kernel ends an address that is not renewed

    def guard(
        self, interface: str | None, vips: Collection[str], accepted: Collection[str] = ()
    ) -> None:
        """From now on the kernel keeps these silent unless they are open; said when it does not.

        `accepted`: those of them that this host serves as a backend.
        """
        real = [vip for vip in vips if not is_loopback(vip)]
        if interface is None:
            return
        before = self._fence.why_not
        self._fence.guard(interface, real, accepted)
        why_not = self._fence.why_not
        if real and why_not is not None and why_not != before:
            log.error("fence: %s; only the second net holds: the addresses' lifetimes", why_not)

    async def take(self, vip: str, until_ns: int, former: Former | None = None) -> None:
        """Own the VIP until `until_ns`; raises OSError or AddressError when that cannot be.

        `former`: packets of its connections are passed on to it for a while.
        """
        if is_loopback(vip):
            self._serving.own(vip)
            return
        self._serving.require(vip)
        self._serving.own(vip)
        self._until_ns[vip] = until_ns
        self._hidden_ns.pop(vip, None)
        self._serving.undrain(vip)
        if not self._is_over(until_ns):
            if former is not None:
                self._pass_on(vip, former)
            await self._configure(vip, until_ns)
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
            self._open(real)
            self._note_lifetime(real, min(real.values()))
            await self._addresses.renew(real, self._left_ms(min(real.values())))
        except (OSError, AddressError):
            return await self._keep_each(real)
        return {}

    async def recount(self) -> dict[str, Exception]:
        """Tell the kernel again how much is left: its timers stood still while the host slept.

        Those VIPs that it may be silent for now, and why.
        """
        failed: dict[str, Exception] = {}
        for vip, at_ns in self._until_ns.items():
            if self._is_over(at_ns):
                try:
                    self._fence.close(vip)
                except OSError as error:
                    failed[vip] = error
        return failed | await self.keep(dict(self._until_ns))

    async def _keep_each(self, until_ns: Mapping[str, int]) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        for vip, at_ns in until_ns.items():
            try:
                await self._configure(vip, at_ns)
            except (OSError, AddressError) as error:
                failed[vip] = error
        return failed

    async def hide(self, vip: str, drain_ms: int) -> bool:
        """Own the VIP no more, but serve for `drain_ms` what still comes for it here.

        True when it is certain that this host neither answers for it (ARP, NDP) nor announces it.
        False: it cannot be hidden here, since there is no fence or the VIP is a loopback address;
        it has to be left. Raises OSError or AddressError, and then nothing is certain.
        """
        if is_loopback(vip) or self._fence.why_not is not None:
            return False
        self._announcer.stop(vip)
        self._until_ns.pop(vip, None)
        self._fence.hide(vip, drain_ms)
        self._hidden_ns[vip] = self._clock.now_ns() + drain_ms * 1_000_000
        self._hold()
        self._serving.drain(vip)
        await self._addresses.add(vip, drain_ms)
        return True

    async def leave(self, vip: str) -> bool:
        """Own the VIP no more; True when it is certain that this host does not answer for it."""
        if is_loopback(vip):
            self._serving.disown(vip)
            return True
        self._announcer.stop(vip)
        self._until_ns.pop(vip, None)
        self._hidden_ns.pop(vip, None)
        self._serving.cut(vip)  # while the fence lets the resets out
        try:
            self._serving.disown(vip)
        except (OSError, ValueError) as error:
            log.error("vip %s: its packets are forwarded still: %s", vip, error)
        try:
            self._fence.close(vip)
        except OSError as error:
            log.error("vip %s: the fence could not be closed: %s", vip, error)
        self._serving.undrain(vip)
        self._serving.left(vip)
        return await self._addresses.remove(vip)

    async def restore(self, vip: str) -> None:
        """Configure an owned VIP again; raises OSError or AddressError."""
        until_ns = self._until_ns.get(vip, 0)
        if not self._is_over(until_ns):
            await self._configure(vip, until_ns)
            if self._announced(vip):
                self._announcer.start(vip)

    def fell_silent(self, vip: str) -> bool:
        """Whether the kernel's answers have ended, as after a pause of this process."""
        return not is_loopback(vip) and self._is_over(self._until_ns.get(vip, 0))

    def has_run_out(self, vip: str) -> bool:
        """Whether the kernel ended the address by itself, since its lease was not renewed.

        The kernel counts whole seconds, so that comes up to one before the lease's end.
        """
        return self._clock.now_ns() >= self._ends_ns.get(vip, 0) - TIMER_SLACK_NS

    def defend(self, vip: str) -> None:
        """Say again whose it is."""
        if vip in self._until_ns and self._announced(vip):
            self._announcer.start(vip)

    def connections(self, vip: str) -> int:
        """How many connections clients have to the VIP here."""
        return self._serving.connections(vip)

    async def _configure(self, vip: str, until_ns: int) -> None:
        self._open({vip: until_ns})
        self._note_lifetime((vip,), until_ns)
        await self._addresses.add(vip, self._left_ms(until_ns))

    def _open(self, until_ns: Mapping[str, int]) -> None:
        """Have the kernel answer until then: it counts what is left from its own now.

        When this process was stopped on the way to the kernel, that was too much: say it again.
        """
        asked_ns = self._clock.now_ns()
        self._tell(until_ns)
        if self._clock.now_ns() - asked_ns > LATE_NS:
            self._tell(until_ns)

    def _tell(self, until_ns: Mapping[str, int]) -> None:
        self._fence.open({vip: self._left_ms(at_ns) for vip, at_ns in until_ns.items()})
        self._hold()

    def _hold(self) -> None:
        """Forwarding goes past the fence: it has the earliest of these ends as its own."""
        ends_ns = (*self._until_ns.values(), *self._hidden_ns.values())
        if ends_ns:
            self._serving.hold(self._left_ms(min(ends_ns)))

    def _pass_on(self, vip: str, former: Former) -> None:
        """Without it connections through the former owner break: no reason not to take the VIP."""
        if self._fence.why_not is None:
            try:
                self._fence.take_over(vip, former.mac, former.drain_ms)
            except OSError as error:
                log.warning("vip %s: connections of the former owner are cut: %s", vip, error)

    async def _announce(self, vip: str) -> None:
        """Not after the lease, as when this process was stopped for a while: others own it then."""
        if self._clock.now_ns() < self._until_ns.get(vip, 0):
            await self._addresses.announce(vip)

    def _note_lifetime(self, vips: Collection[str], until_ns: int) -> None:
        now_ns = self._clock.now_ns()
        lifetime_ns = max(S_NS, (until_ns - now_ns) // S_NS * S_NS)
        self._ends_ns.update(dict.fromkeys(vips, now_ns + lifetime_ns))

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
