"""The guardian of a host: the agent's parent, which acts when the agent has died."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.broker import Message
from tests.sim.world import MS, S

if TYPE_CHECKING:
    from tests.sim.host import Host

Letter = tuple[str, Message, tuple[str, ...]]
"""The label of a broker, what to publish there, and the keys that it yields."""

_DIES_TOO = 0.15
_CANNOT_REMOVE = 0.05


class SimGuardian:
    """Removes the VIPs, sees that they are gone, and yields in the name of the dead."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._vips: tuple[str, ...] = ()
        self._letters: tuple[Letter, ...] = ()

    def entrust(self, vips: tuple[str, ...], letters: tuple[Letter, ...]) -> None:
        """The will, from now on."""
        self._vips, self._letters = vips, letters

    def forget(self) -> None:
        """A new life begins, with a new will."""
        self._vips, self._letters = (), ()

    def agent_died(self) -> None:
        """Act soon, unless killed as well."""
        random = self._host.world.random
        will = self._vips, self._letters
        self.forget()
        if will[0] and random.random() >= _DIES_TOO:
            self._host.when_up(random.randrange(MS, 50 * MS), self._act, *will)

    def _act(self, vips: tuple[str, ...], letters: tuple[Letter, ...]) -> None:
        world = self._host.world
        if world.random.random() < _CANNOT_REMOVE:
            return
        world.log("guardian of", self._host.setup.place, "removes", *vips)
        for vip in vips:
            self._host.kernel.close(vip)
            self._host.checker.silent(vip, self._host.setup.place)
        for label, message, keys in letters:
            self._send(label, message, keys)

    def _send(self, label: str, message: Message, keys: tuple[str, ...]) -> None:
        """Over connections of its own: late, lost or twice as the network likes."""
        world = self._host.world
        broker = self._host.brokers[label]
        fate = world.random.random()
        if fate < 0.1 and not world.calm:
            return
        self._host.checker.yielding(self._host.setup.place, keys)
        world.after(3 * world.latency(), broker.publish, None, message)
        if fate < 0.3 and not world.calm:
            world.after(world.random.randrange(3 * S), broker.publish, None, message)
