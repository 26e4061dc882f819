"""What it takes on this host to be the owner of a VIP: from `Acquired` to a confirmed end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from piagent import ports
from piagent.adapters.clock import wall_ms
from piagent.agent.letters import Letters
from piagent.agent.vips import Former, Vips
from piagent.core import lease_types as lease
from piagent.core.plan import is_loopback
from piagent.ports import AddressError

log = logging.getLogger(__name__)

RETRY_REMOVAL_S = 1.0
LINGER_MIN_S = 1.5
"""A VIP that moved is served here at least so long: until clients have heard of it twice."""
PROBE_S = 0.15
"""How long a claim that was won waits for the LAN's answer."""
_POLL_S = 0.05


class Retry(Struct, frozen=True):
    """Try again to remove a VIP that is still there."""

    key: str
    epoch: int


class Surroundings(Struct, frozen=True):
    """What a tenure needs of the rest of the agent."""

    post: Callable[[lease.Event | Retry], None]
    tell: Callable[[tuple[str, bytes]], None]
    """Publish, retained, to every broker that is connected."""
    last_words: Callable[[Mapping[str, str | None]], Sequence[lease.Send]]
    former: Callable[[str], Former | None]
    successor: Callable[[str], str | None]
    leave_for_now: Callable[[str, lease.Reason], None]
    """This host must not own the VIP for a while, for that reason."""
    works: Callable[[str], None]
    """It owns the VIP: earlier failures count no more."""
    left: Callable[[str], None]
    """The VIP may be on this host no more."""
    drain_ms: Callable[[], int]
    is_member: Callable[[str | None], bool]
    """Whether a hardware address is that of another node of the cluster."""
    hand_flows: Callable[[str, str, int], None]
    """The VIP is hidden: its forwarded connections go to that node, the epoch was this."""
    holds: Callable[[], bool]
    """Whether owners without a quorum keep their VIPs."""


class Tenure:
    """Does what the core decided about keys, one after the other."""

    def __init__(
        self,
        *,
        vips: Vips,
        letters: Letters,
        lan: ports.Lan,
        guardian: ports.Guardian | None,
        interface: str | None,
        around: Surroundings,
    ) -> None:
        """`guardian`: None when nobody watches over this process."""
        self._vips = vips
        self._letters = letters
        self._lan = lan
        self._guardian = guardian
        self._interface = interface
        self._around = around
        self._held: dict[str, int] = {}  # VIP that this host may answer for -> its epoch
        self._acquired: dict[str, tuple[lease.Acquired, int]] = {}  # owned now, since (unix ms)
        self._probes: dict[str, asyncio.Task[str | None]] = {}
        self._lingering: dict[str, asyncio.Task[None]] = {}
        self._will: ports.Will | None = None
        self.transitions: Counter[tuple[str, str]] = Counter()
        """(key, reason) of acquisitions and releases."""
        self.alarms: Counter[str] = Counter()

    def owned(self) -> tuple[str, ...]:
        """The keys owned now."""
        return tuple(self._acquired)

    def idle(self) -> bool:
        """This host answers for nothing."""
        return not self._held

    def here(self) -> set[str]:
        """VIPs that are on this host, owned or hidden."""
        return {*self._held, *self._lingering}

    # ---- effects ------------------------------------------------------------------------------

    def probe(self, key: str) -> None:
        """Ask the LAN who has the address, while the claim goes on."""
        if key != lease.LEADER and not is_loopback(key):
            task = asyncio.ensure_future(self._lan.probe(key))
            task.add_done_callback(lambda done: self._probed(key, done))
            self._probes[key] = task

    async def take(self, effect: lease.Acquired) -> Sequence[lease.Event]:
        """Own the key, or say that this host cannot."""
        key = effect.key
        if key != lease.LEADER:
            await self._end_lingering(key)
            self._held[key] = effect.epoch
            self.entrust()
            if await self._occupied(effect):
                return ()
            try:
                await self._vips.take(key, effect.until_ns, self._around.former(key))
            except (OSError, AddressError) as error:
                self._fail(key, error)
                return ()
            self._around.works(key)
        self._acquired[key] = effect, wall_ms()
        self._lan.watch(self._watched())
        self.transitions[key, effect.reason] += 1
        log.info("%s: acquired, epoch %d, reason=%s", _named(key), effect.epoch, effect.reason)
        self._around.tell(self.note(key))
        return ()

    async def keep(self, until_ns: Mapping[str, int]) -> Sequence[lease.Event]:
        """Own these longer."""
        real = {
            key: at for key, at in until_ns.items() if key != lease.LEADER and key in self._acquired
        }
        if self._around.holds():
            # Without a quorum only our answers keep others away: after a gap they may have come.
            for key in [key for key in real if self._vips.fell_silent(key)]:
                del real[key]
                self._around.leave_for_now(key, lease.Reason.LEASE_RAN_OUT)
        for key, error in (await self._vips.keep(real)).items():
            self._fail(key, error)
        return ()

    async def recount(self) -> Sequence[lease.Event]:
        """The host has slept: what the kernel counts is too long now; what is over ends at once."""
        for key, error in (await self._vips.recount()).items():
            self._fail(key, error)
        events: list[lease.Event] = []
        for key, epoch in list(self._held.items()):
            if key not in self._acquired and key not in self._lingering:
                events += await self.withdraw(key, epoch)
        return events

    async def leave(self, effect: lease.Released) -> Sequence[lease.Event]:
        """Own the key no more; what comes back tells others that they may."""
        key = effect.key
        if self._acquired.pop(key, None) is not None:
            self._lan.watch(self._watched())
            self.transitions[key, effect.reason] += 1
            what = "%s: released, epoch %d, reason=%s%s"
            to = f", to {effect.successor}" if effect.successor else ""
            log.warning(what, _named(key), effect.epoch, effect.reason, to)
            payload = self._letters.vip(
                key, owner=None, epoch=effect.epoch, since_ms=wall_ms(), reason=effect.reason
            )
            self._around.tell(payload)
        if key == lease.LEADER:
            return (lease.Withdrawn(key, effect.epoch),)
        if effect.successor is not None and await self._hidden(key):
            self._around.hand_flows(key, effect.successor, effect.epoch)
            return (self._confirmed(key, effect.epoch),)
        return await self.withdraw(key, effect.epoch)

    async def withdraw(self, key: str, epoch: int) -> Sequence[lease.Event]:
        """Make sure that this host does not answer for the VIP; only then others are told (R6)."""
        try:
            gone = await self._vips.leave(key)
        except (OSError, AddressError) as error:
            log.error("vip %s: %s", key, error)
            gone = False
        if gone:
            return (self._confirmed(key, epoch),)
        reason = lease.Reason.REMOVAL_FAILED
        log.error("alarm: vip %s could not be removed; trying again, reason=%s", key, reason)
        self.alarms[reason] += 1
        asyncio.get_running_loop().call_later(RETRY_REMOVAL_S, self._around.post, Retry(key, epoch))
        return ()

    async def restore(self, vip: str) -> None:
        """Put back an owned address that somebody took away; raises OSError or AddressError."""
        if vip in self._acquired:
            await self._vips.restore(vip)

    async def end(self) -> None:
        """Wait until every drain is over."""
        while self._lingering:  # noqa: ASYNC110 -- they end one by one, by time
            await asyncio.sleep(_POLL_S)

    # ---- inside -------------------------------------------------------------------------------

    def _confirmed(self, key: str, epoch: int) -> lease.Event:
        self._held.pop(key, None)
        self.entrust()
        self._around.left(key)
        return lease.Withdrawn(key, epoch)

    def _probed(self, key: str, done: asyncio.Task[str | None]) -> None:
        if self._probes.get(key) is done:
            del self._probes[key]
        if done.cancelled() or done.exception() is not None or done.result() is None:
            return
        mac, reason = done.result(), lease.Reason.ADDRESS_IN_USE
        if not self._around.is_member(mac):
            self.alarms[reason] += 1
            log.error("alarm: vip %s: %s answers for it, reason=%s", key, mac, reason)
        elif not self._around.holds():
            return  # who of us owns it is for the lease to say: this one was quicker
        self._around.post(lease.Occupied(key))

    async def _occupied(self, effect: lease.Acquired) -> bool:
        """Whether a stranger has the address of a key that nobody gave to us."""
        task = self._probes.get(effect.key)
        if task is None or effect.reason is not lease.Reason.SILENCE:
            return False
        await asyncio.wait((task,), timeout=PROBE_S)
        if not task.done() or task.cancelled() or task.exception() or task.result() is None:
            return False
        if self._around.is_member(task.result()) and not self._around.holds():
            return False
        self._around.leave_for_now(effect.key, lease.Reason.ADDRESS_IN_USE)
        return True

    def _fail(self, key: str, error: Exception) -> None:
        log.error("vip %s: %s; others may own it", key, error)
        self._around.leave_for_now(key, lease.Reason.ADDRESS_FAILED)

    async def _hidden(self, key: str) -> bool:
        drain_ms = self._around.drain_ms()
        try:
            if not await self._vips.hide(key, drain_ms):
                return False
        except (OSError, AddressError) as error:
            log.error("vip %s: not hidden but removed: %s", key, error)
            return False
        self._lingering[key] = asyncio.create_task(self._linger(key, drain_ms / 1000))
        return True

    async def _linger(self, key: str, drain_s: float) -> None:
        """Serve what is left until it ends, or the time is over."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while (passed := loop.time() - begun) < drain_s:
            if passed >= LINGER_MIN_S and not self._vips.connections(key):
                break
            await asyncio.sleep(_POLL_S)
        self._lingering.pop(key, None)
        if key in self._held:
            return
        try:
            cut = self._vips.connections(key)
            await self._vips.leave(key)
        except (OSError, AddressError) as error:
            log.error("vip %s: its drain ended, and it could not be removed: %s", key, error)
        else:
            log.info("vip %s: drained, %d connections cut", key, cut)
        self.entrust()
        self._around.left(key)

    async def _end_lingering(self, key: str) -> None:
        """It is ours again: go on as before."""
        task = self._lingering.pop(key, None)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _watched(self) -> list[str]:
        return [key for key in self._acquired if key != lease.LEADER and not is_loopback(key)]

    def entrust(self) -> None:
        """Tell the guardian what to do if this process dies now."""
        if self._guardian is None:
            return
        here = self.here()
        yields = {key: self._around.successor(key) for key in self._held}
        words = self._around.last_words(yields)
        will = ports.Will(
            interface=self._interface,
            vips=tuple(sorted(vip for vip in here if not is_loopback(vip))),
            letters=tuple(
                ports.Letter(word.broker, *self._letters.lease_message(word.message))
                for word in words
            ),
        )
        if will == self._will:
            return
        try:
            self._guardian.entrust(will)
            self._will = will
        except OSError as error:
            log.error("guardian: %s; after a crash of this agent only the lease ends", error)

    # ---- for people ---------------------------------------------------------------------------

    def note(self, key: str) -> tuple[str, bytes]:
        """Topic and payload that tell people of an owned key."""
        effect, since_ms = self._acquired[key]
        return self._letters.vip(
            key,
            owner=self._letters.node,
            epoch=effect.epoch,
            since_ms=since_ms,
            reason=effect.reason,
        )


def _named(key: str) -> str:
    return "leadership" if key == lease.LEADER else f"vip {key}"
