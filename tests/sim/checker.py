"""What must never happen, and what must have happened in the end.

A node acts for a key from `Acquired` until its address is removed or until the deadline that it
announced, whichever comes first: the kernel keeps the deadline also for a node that is paused or
dead. Two lives of one node are two senders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.world import World

Who = tuple[str, str]
_ROUNDING_NS = 10
"""Between a node's clock and real time."""


class Violation(AssertionError):
    """The protocol is broken."""


class Checker:
    """The LAN's view: who acts for which key until when."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._acting: dict[str, dict[Who, int]] = {}
        self._epochs: dict[str, int] = {}
        self.acquired = 0
        self.extended = 0

    def acquire(self, key: str, who: Who, until: int, epoch: int) -> None:
        """A node starts to act."""
        self.acquired += 1
        self._world.log("ACQUIRED", key, *who, "epoch", epoch, "until", until / 1e9)
        before = self._epochs.get(key, 0)
        if epoch <= before:
            self._fail(f"{who} acquires {key} with epoch {epoch} after epoch {before}")
        self._epochs[key] = epoch
        self._act(key, who, until)

    def extend(self, key: str, who: Who, until: int) -> None:
        """A node may act for longer."""
        self.extended += 1
        if self._acting.get(key, {}).get(who, 0) + _ROUNDING_NS < self._world.now:
            self._fail(f"{who} goes on with {key} after its deadline")
        self._act(key, who, until)

    def stop(self, key: str, who: Who) -> None:
        """The address is gone."""
        self._acting.get(key, {}).pop(who, None)

    def owners(self, key: str) -> list[Who]:
        """Who acts now."""
        now = self._world.now
        return [who for who, until in self._acting.get(key, {}).items() if until > now]

    def _act(self, key: str, who: Who, until: int) -> None:
        acting = self._acting.setdefault(key, {})
        for other, end in list(acting.items()):
            if end <= self._world.now + _ROUNDING_NS:
                del acting[other]
            elif other != who:
                self._fail(
                    f"{who} acts for {key} until {until / 1e9:.6f} s "
                    f"while {other} may act until {end / 1e9:.6f} s"
                )
        acting[who] = until

    def _fail(self, what: str) -> None:
        world = self._world
        raise Violation(f"PIAGENT_SEED={world.seed} at {world.now / 1e9:.6f} s: {what}")
