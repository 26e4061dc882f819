"""What must never happen, by what the cores say and do.

A node acts for a key from `Acquired` until its host is silent or until the deadline that it
announced, whichever comes first: the kernel keeps the deadline also for a node that is paused or
dead. Two lives of one node are two senders. What the LAN shows is judged in `lan`.
"""

from __future__ import annotations

from collections.abc import Iterable

from piagent.core.lease_types import LEADER, Reason, Released
from tests.sim.lan import Lan
from tests.sim.world import S, World

Who = tuple[str, str]
_ROUNDING_NS = 10
"""Between a node's clock and real time."""
_CAUSED_WITHIN_NS = 3 * S
"""A lease that runs out does so within this time after what made it."""


class Checker:
    """Who acts for which key until when, and why that changes."""

    def __init__(self, world: World, lan: Lan) -> None:
        self._world = world
        self._lan = lan
        self._acting: dict[str, dict[Who, int]] = {}
        self._place: dict[Who, int] = {}
        self._epochs: dict[str, int] = {}
        self._vips_sound = not (world.options.splits or world.options.hold)

    # ---- owners ----

    def acquire(self, key: str, who: Who, place: int, until: int, epoch: int) -> None:
        """A node starts to act."""
        self._world.counts["acquired"] += 1
        self._world.log("ACQUIRED", key, *who, "epoch", epoch, "until", until / S)
        before = self._epochs.get(key, 0)
        if epoch <= before:
            self._world.fail(f"{who} acquires {key} with epoch {epoch} after epoch {before}")
        self._epochs[key] = epoch
        self._act(key, who, place, until)

    def extend(self, key: str, who: Who, place: int, until: int) -> None:
        """A node may act for longer."""
        if self._acting.get(key, {}).get(who, 0) + _ROUNDING_NS < self._world.now:
            self._world.fail(f"{who} goes on with {key} after its deadline")
        self._act(key, who, place, until)

    def silent(self, key: str, place: int) -> None:
        """The host does not answer for the key any more."""
        acting = self._acting.get(key, {})
        for who in [who for who in acting if self._place[who] == place]:
            del acting[who]

    def silent_host(self, place: int) -> None:
        """Nor for any other."""
        for key in self._acting:
            self.silent(key, place)

    def owners(self, key: str) -> list[Who]:
        """Who acts now."""
        now = self._world.now
        return [who for who, until in self._acting.get(key, {}).items() if until > now]

    def place_of(self, who: Who) -> int:
        """The host that it lives on."""
        return self._place[who]

    def _act(self, key: str, who: Who, place: int, until: int) -> None:
        self._place[who] = place
        acting = self._acting.setdefault(key, {})
        acting[who] = until
        if len(acting) == 1:
            return
        for other, end in list(acting.items()):
            if other == who:
                continue
            if end <= self._world.now + _ROUNDING_NS:
                del acting[other]
            elif self._sound(key):
                self._world.fail(
                    f"{who} acts for {key} until {until / S:.6f} s "
                    f"while {other} may act until {end / S:.6f} s"
                )

    def _sound(self, key: str) -> bool:
        """Whether the lease alone must see to it: the leadership is never held without a quorum."""
        return self._vips_sound or key == LEADER

    # ---- words and causes ----

    def yielding(self, place: int, keys: Iterable[str]) -> None:
        """R6: nobody gives up what its host still answers for."""
        for key in keys:
            if self._lan.answering(place, key):
                self._world.fail(f"host {place} yields {key} and still answers for it")

    def release(self, effect: Released) -> None:
        """A key is given up: not by itself, and never because there were two."""
        if not self._sound(effect.key):
            return
        if effect.reason is Reason.ANOTHER_OWNER:
            self._world.fail(f"two owners of {effect.key} have heard of each other")
        late = self._world.now - self._world.disturbed_at
        if effect.reason is Reason.LEASE_RAN_OUT and late > _CAUSED_WITHIN_NS:
            self._world.fail(f"the lease of {effect.key} ran out without a cause")

    def alarm(self, reason: Reason, detail: str) -> None:
        """Somebody complains."""
        self._world.log("ALARM", reason, detail)
        self._world.counts[f"alarm: {reason}"] += 1
