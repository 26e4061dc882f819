"""What this host sees of itself and its LAN, and what follows for the VIPs it may own."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import assert_never

from msgspec.structs import replace

from piagent import ports
from piagent.agent.vips import Vips
from piagent.core.eligibility import Standing, refusals
from piagent.core.lease_types import Reason
from piagent.core.model import Config, Conflict
from piagent.core.vitals import HealthScore, Vitals, step

log = logging.getLogger(__name__)

DEFEND_S = 10.0
"""RFC 5227 section 2.4 (DEFEND_INTERVAL): not more than one defence in this time."""
LEFT_S = {Reason.ADDRESS_IN_USE: (60.0,), Reason.ADDRESS_TAKEN_AWAY: (60.0,)}
LEFT_ELSE_S = (2.0, 5.0, 15.0, 60.0)
"""How long a VIP is left to others after this host failed to own it: first, second, … time."""
LOOK_EVERY_S = 5.0
RESTORED_MAX = 3
"""So often a minute an address is put back that somebody takes away."""


class Watch:
    """Keeps this host's standing; says when it has changed."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        vips: Vips,
        restore: Callable[[str], None],
        changed: Callable[[], None],
        guard: Callable[[], None],
        networks: Callable[[], tuple[str, ...]],
        vitals: Callable[[bool], Vitals],
        now_ns: Callable[[], int],
    ) -> None:
        """Each is asked or told when something has happened.

        `restore`: put an address back. `changed`: what `refusals` or `health` say may be new.
        `guard`: the interface is there (again). `vitals`: how the hardware is, given whether the
        interface is a wireless one.
        """
        self._config = config
        self._vips = vips
        self._restore = restore
        self._changed = changed
        self._guard = guard
        self._networks = networks
        self._vitals = vitals
        self._now_ns = now_ns
        self._score = HealthScore()
        self._left: dict[str, Reason] = {}
        self._failures: Counter[tuple[str, Reason]] = Counter()
        self._restored: Counter[str] = Counter()
        self._defended_s: dict[str, float] = {}
        self.standing = Standing()
        self.conflicts: Counter[str] = Counter()
        """VIP -> how often another host said that it is its own."""
        self.rivals: dict[str, str] = {}
        """VIP -> the hardware address of the last such host."""

    async def run(self) -> None:
        """Look at the hardware now and then, until cancelled."""
        while True:
            before = self._score
            self._score = step(before, self._vitals(self.standing.wireless), self._now_ns())
            if self._score.troubles != before.troubles:
                words = ", ".join(self._score.troubles) or "well again"
                log.warning("this node: %s, health %d %%", words, self._score.percent)
                self._changed()
            await asyncio.sleep(LOOK_EVERY_S)

    @property
    def health(self) -> int:
        """Percent: how fit this host is to own VIPs."""
        return self._score.percent

    def refusals(self) -> dict[str, Reason]:
        """VIP -> why this node must not own it now."""
        return refusals(self._config(), self.standing)

    def set(self, **changes: object) -> None:
        """Something about this host is otherwise now."""
        standing = replace(self.standing, **changes)
        if standing != self.standing:
            self.standing = standing
            self._changed()

    def leave_for_now(self, vip: str, reason: Reason) -> None:
        """Leave a VIP to others for a while."""
        pauses_s = LEFT_S.get(reason, LEFT_ELSE_S)
        pause_s = pauses_s[min(self._failures[vip, reason], len(pauses_s) - 1)]
        self._failures[vip, reason] += 1
        self._left[vip] = reason
        log.warning("vip %s: left to others for %.0f s, reason=%s", vip, pause_s, reason)
        asyncio.get_running_loop().call_later(pause_s, self._take_part_again, vip)
        self.set(left=dict(self._left))

    def works(self, vip: str) -> None:
        """This host owns the VIP: earlier failures count no more."""
        for key in [key for key in self._failures if key[0] == vip]:
            del self._failures[key]

    def deliver(self, event: ports.LanEvent) -> None:
        """Take an event of the LAN; called in the event loop."""
        match event:
            case ports.LinkState(up, reason, wireless):
                level = logging.INFO if up else logging.ERROR
                log.log(level, "interface %s: %s", self._config().node.interface, reason)
                if up:
                    self._guard()
                self.set(carrier=up, wireless=wireless, networks=self._networks())
            case ports.Egress(proven, reason):
                level = logging.INFO if proven else logging.ERROR
                log.log(level, "egress %s: %s", "proven" if proven else "lost", reason)
                self.set(egress=proven)
            case ports.AddressGone(vip):
                self._gone(vip)
            case ports.AddressConflict(vip, mac):
                self._conflict(vip, mac)
            case never:
                assert_never(never)

    def _take_part_again(self, vip: str) -> None:
        if self._left.pop(vip, None) is not None:
            self.set(left=dict(self._left))

    def _gone(self, vip: str) -> None:
        if self._vips.has_run_out(vip):
            return  # nobody took it away: its lifetime ended, because the lease is not renewed
        self._restored[vip] += 1
        if self._restored[vip] > RESTORED_MAX:
            self.leave_for_now(vip, Reason.ADDRESS_TAKEN_AWAY)
            return
        log.error("alarm: vip %s: somebody removed it; putting it back", vip)
        asyncio.get_running_loop().call_later(60.0, self._forget_restored, vip)
        self._restore(vip)

    def _forget_restored(self, vip: str) -> None:
        self._restored[vip] = max(0, self._restored[vip] - 1)

    def _conflict(self, vip: str, mac: str) -> None:
        self.conflicts[vip] += 1
        self.rivals[vip] = mac
        pool = self._config().pool_of(vip)
        policy = Conflict.YIELD if pool is None else pool.conflict
        if policy is Conflict.YIELD:
            log.error("alarm: vip %s: %s says it is its own; giving it up", vip, mac)
            self.leave_for_now(vip, Reason.ADDRESS_IN_USE)
            return
        now_s = asyncio.get_running_loop().time()
        if now_s - self._defended_s.get(vip, -DEFEND_S) >= DEFEND_S:
            self._defended_s[vip] = now_s
            log.error("alarm: vip %s: %s says it is its own; defending it", vip, mac)
            self._vips.defend(vip)
