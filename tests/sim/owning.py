"""What a simulated agent does on its host to own a VIP, and to own it no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.core.lease_types import (
    LEADER,
    Acquired,
    Extended,
    Occupied,
    Reason,
    Released,
    Send,
    Want,
    Withdrawn,
)
from tests.sim.lan import GRACE_NS
from tests.sim.world import MS, S

if TYPE_CHECKING:
    from tests.sim.agent import SimAgent

_PROBE_NS = 90 * MS
"""Two ARP probes, and the wait for an answer to the second."""
_ANNOUNCED_AFTER_NS = (1100 * MS, 1100 * MS, 1100 * MS, 1100 * MS)
_REFRESH_NS = 10 * S
_DRAIN_NS = 3 * S
_NO_ADDRESS = (LEADER,)
"""Keys that are owned without anything on the LAN."""


class Owning:
    """The VIPs of one life: kernel, announcements, probes, and the will for the guardian."""

    def __init__(self, agent: SimAgent) -> None:
        self._agent = agent
        self._host = agent.host
        self._world = agent.world
        self._until: dict[str, int] = {}
        """VIPs that this life acts for: until when, by the lease clock."""
        self._told: dict[str, int] = {}
        """Until when the kernel was told to answer, by the lease clock."""
        self._nth: dict[str, int] = {}
        """How often each was acquired."""
        self._probing: set[str] = set()
        self._waiting: dict[str, Acquired] = {}
        """Acquired, but the LAN has not answered yet."""

    def follow(self, effect: Acquired | Extended | Released) -> None:
        """Do what the core says."""
        match effect:
            case Acquired():
                self._acquired(effect)
            case Extended(key, until):
                self._extended(key, until)
            case Released():
                self._released(effect)

    # ---- before ----

    def probe(self, key: str) -> None:
        """Ask the LAN who has the address; the answer comes at once, silence takes longer."""
        self._probing.add(key)
        rival = self._host.lan.ask(self._host.setup.place, key)
        if rival is None:
            self._world.log(*self._agent.who, "hears nobody answer for", key)
            self._agent.later(_PROBE_NS, lambda: self._unanswered(key))
        else:
            self._world.log(*self._agent.who, "hears somebody answer for", key, rival)
            self._agent.later(self._world.random.randrange(3 * MS), lambda: self._occupied(key))

    def _unanswered(self, key: str) -> None:
        self._probing.discard(key)
        if (rival := self._host.lan.ask(self._host.setup.place, key)) is not None:
            self._world.log(*self._agent.who, "hears at last", key, rival)
            self._occupied(key)
        elif (waiting := self._waiting.pop(key, None)) is not None:
            self._act(waiting)

    def _occupied(self, key: str) -> None:
        self._probing.discard(key)
        self._agent.step(Occupied(key))
        if self._waiting.pop(key, None) is not None:
            self._avoid(key, Reason.ADDRESS_IN_USE)

    def _avoid(self, key: str, reason: Reason) -> None:
        """Leave it to whoever has it, for a while."""
        self._agent.step(Want(key, wanted=False, reason=reason))
        span = 2 * S + self._world.random.randrange(S)
        self._agent.later(span, lambda: self._agent.want_all(wanted=True))

    # ---- owning ----

    def _acquired(self, effect: Acquired) -> None:
        key = effect.key
        self._nth[key] = self._nth.get(key, 0) + 1
        self._until[key] = effect.until_ns
        self._world.counts[f"acquired: {effect.reason}"] += 1
        self._agent.ranking.stale()
        if self._world.options.hold and key in self._probing:
            self._waiting[key] = effect
        else:
            self._act(effect)

    def _act(self, effect: Acquired) -> None:
        key = effect.key
        if key in _NO_ADDRESS or key not in self._until:
            return
        self._entrust()
        self._open(key)
        self._announce(key, self._nth[key], 0)

    def _extended(self, key: str, until: int) -> None:
        self._until[key] = until
        if key not in _NO_ADDRESS and key not in self._waiting and not self._lapsed(key):
            self._open(key)

    def _lapsed(self, key: str) -> bool:
        """Without a quorum only the kernel's answers keep others away: a gap in them ends it."""
        if not self._world.options.hold or self._told.get(key, 0) > self._host.clock():
            return False
        self._agent.later(0, lambda: self._avoid(key, Reason.LEASE_RAN_OUT))
        return True

    def _open(self, key: str) -> None:
        left = self._until[key] - self._host.clock()
        if left <= 0:
            return
        told, self._told[key] = self._told.get(key, 0), self._until[key]
        if (span := self._agent.stop_in_call()) is None:
            self._host.kernel.open(key, left)
            return
        self._told[key] = told  # the time that is left was computed, and the kernel not yet told
        self._host.pause(span)
        self._world.after(span, self._open_late, key, left)

    def _open_late(self, key: str, left: int) -> None:
        if self._agent.alive and self._agent.host.awake():
            self._host.lan.unmute(self._host.setup.place, GRACE_NS)
            self._host.hurry()
            self._host.kernel.open(key, left)
            self._agent.later(MS, lambda: self._check_late(key))

    def _check_late(self, key: str) -> None:
        """The call took long: what the kernel was told is too much, so tell it again."""
        self._host.kernel.close(key)
        if key in self._until and not self._lapsed(key):
            self._open(key)

    def _announce(self, key: str, nth: int, times: int) -> None:
        if nth != self._nth.get(key) or key not in self._until:
            return
        if self._world.over or self._world.random.random() < 0.9:
            self._host.kernel.announce(key)
        rounds = _ANNOUNCED_AFTER_NS
        delay = rounds[times] if times < len(rounds) else _REFRESH_NS
        self._agent.later(delay, lambda: self._announce(key, nth, times + 1))

    def _entrust(self) -> None:
        vips = tuple(key for key in self._until if key not in _NO_ADDRESS)
        words = self._agent.core.last_words(dict.fromkeys(vips))
        letters = tuple(
            (each.broker, self._agent.sealed(each.message), tuple(each.message.yields))
            for each in words
            if isinstance(each, Send)
        )
        self._host.guardian.entrust(vips, letters)

    # ---- after ----

    def _released(self, effect: Released) -> None:
        key = effect.key
        self._world.log("RELEASED", key, *self._agent.who, effect.reason, effect.successor or "")
        self._world.counts[f"released: {effect.reason}"] += 1
        self._until.pop(key, None)
        self._waiting.pop(key, None)
        self._agent.ranking.stale()
        nth = self._nth.get(key, 0)
        random = self._world.random
        calm = self._world.calm or self._host.drowsy()
        if not calm and random.random() < 0.05:
            return  # the kernel cannot be asked: only the deadline ends it
        slow = self._world.options.slow_removal
        spans = (0, MS, 50 * MS, 400 * MS, 900 * MS)[4 * slow :]
        delay = MS if calm else int(random.choice(spans) * random.random())
        self._agent.later(delay, lambda: self._silence(effect, nth))

    def recount(self) -> None:
        """The kernel's timers stood still: tell it what is left, remove what should be gone."""
        for key in self._nth:
            if key not in self._waiting:
                self._host.kernel.close(key)
                if key in self._until and key not in _NO_ADDRESS:
                    self._open(key)

    def _silence(self, effect: Released, nth: int) -> None:
        """Hidden or removed, ARP is not answered any more: then, and only then, say so (R6)."""
        key, kernel = effect.key, self._host.kernel
        if nth == self._nth.get(key, 0):
            if effect.successor is None:
                kernel.close(key)
            else:
                kernel.hide(key, _DRAIN_NS)
            self._host.checker.silent(key, self._host.setup.place)
        if key not in self._until:
            self._entrust()
        self._agent.step(Withdrawn(key, effect.epoch))
