"""The LAN, and what each host's kernel does on it whether the agent runs or not.

Here is judged what matters to everybody else on the network: whether two hosts answer ARP or
announce one VIP at the same time. It is judged by the kernels' tables alone, not by what the cores
believe.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.world import MS, S, World

ROUNDING_NS = 10
"""Between a node's clock and real time."""
GRACE_NS = 10 * MS
"""A host that was asleep answers again before its agent can look at the clock: the kernel's timers
stood still meanwhile."""
NOBODY = -1


class Lan:
    """Which host answers for which VIP until when."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._until: dict[str, dict[int, int]] = {}
        self._neighbour: dict[str, int] = {}
        self._mute: set[int] = set()
        self._grace: dict[int, int] = {}
        self._side: dict[int, int] = {}
        self._squatted: dict[str, int] = {}

    # ---- what kernels do ----

    def answer(self, place: int, vip: str, until: int) -> None:
        """The host answers from now on, until then."""
        hosts = self._until.setdefault(vip, {})
        hosts[place] = until
        if len(hosts) > 1:
            self._check(vip, place)

    def silence(self, place: int, vip: str) -> None:
        """The host answers no more."""
        self._until.get(vip, {}).pop(place, None)

    def answering(self, place: int, vip: str) -> bool:
        """Whether the host answers now, were it asked."""
        return self._until.get(vip, {}).get(place, 0) > self._world.now

    def announce(self, place: int, vip: str) -> None:
        """The host says that the VIP is here, if its fence lets it; clients believe the last."""
        if self.answering(place, vip) and place not in self._mute:
            self._check(vip, place)
            self._neighbour[vip] = place

    # ---- what hosts see ----

    def ask(self, place: int, vip: str) -> int | None:
        """An ARP probe: another host that answers, NOBODY for one outside the cluster, or None."""
        if self._squatted.get(vip, 0) > self._world.now:
            return NOBODY
        return next(
            (one for one in self.hosts(vip) if one != place and self._hear(one, place)), None
        )

    def hosts(self, vip: str) -> list[int]:
        """Those that answer and can be heard by somebody."""
        now = self._world.now
        known = self._until.get(vip, {})
        return [one for one, until in known.items() if until > now and one not in self._mute]

    def neighbour(self, vip: str) -> int | None:
        """The host that a client sends the VIP's packets to."""
        return self._neighbour.get(vip)

    def _hear(self, one: int, other: int) -> bool:
        if one in self._mute or other in self._mute:
            return False
        return self._side.get(one) == self._side.get(other)

    # ---- what happens to the LAN ----

    def mute(self, place: int) -> None:
        """Unplugged, asleep or without power: neither heard nor hearing."""
        self._mute.add(place)

    def unmute(self, place: int, grace_ns: int = 0) -> None:
        """Heard again, with everything that its kernel still has."""
        self._mute.discard(place)
        if grace_ns:
            self._world.disturb(grace_ns)
        self._grace[place] = self._world.now + grace_ns
        self._world.after(grace_ns, self._audit, place)

    def split(self, places: set[int], span_ns: int) -> None:
        """These hosts do not hear the others for a while."""
        self._world.log("the LAN splits:", sorted(places))
        self._side = dict.fromkeys(places, 1)
        self._world.after(span_ns, self.heal)

    def heal(self) -> None:
        """One LAN again."""
        self._side = {}

    def squat(self, vip: str, span_ns: int) -> None:
        """A host that knows nothing of us uses the address."""
        self._world.log("somebody uses", vip)
        self._squatted[vip] = self._world.now + span_ns

    # ---- the judge ----

    def _check(self, vip: str, place: int) -> None:
        now = self._world.now
        if now < self._grace.get(place, 0):
            return
        for other, until in list(self._until.get(vip, {}).items()):
            if other == place:
                continue
            if until <= now + ROUNDING_NS:
                del self._until[vip][other]
            elif now >= self._grace.get(other, 0) and self._hear(place, other):
                self._world.fail(
                    f"{vip} is answered for by hosts {place} and {other} "
                    f"until {until / S:.6f} s (LAN)"
                )

    def _audit(self, place: int) -> None:
        for vip, hosts in self._until.items():
            if hosts.get(place, 0) > self._world.now + ROUNDING_NS:
                self._check(vip, place)


class Kernel:
    """One host's addresses and fence: timers on the host's own clock, alive without any process."""

    def __init__(self, world: World, lan: Lan, place: int, real: Callable[[int], int]) -> None:
        """`real`: from a span on the host's clock to one of real time."""
        self._world = world
        self._lan = lan
        self._place = place
        self._real = real
        self._until: dict[str, int] = {}
        self._serving: dict[str, int] = {}

    def open(self, vip: str, left_ns: int) -> None:
        """Address and fence for so long: whole milliseconds; without a fence, whole seconds."""
        fenced = self._world.options.fenced
        left = left_ns // MS * MS if fenced else max(1, -(-left_ns // S)) * S
        if left > 0:
            self._until[vip] = self._world.now + self._real(left)
            self._lan.answer(self._place, vip, self._until[vip])

    def hide(self, vip: str, serve_ns: int) -> None:
        """Silent for ARP, NDP and announcements; IP that still comes is served for a while."""
        self.close(vip)
        self._serving[vip] = self._world.now + self._real(serve_ns)

    def close(self, vip: str) -> None:
        """Silent for everything."""
        self._until.pop(vip, None)
        self._serving.pop(vip, None)
        self._lan.silence(self._place, vip)

    def serves(self, vip: str) -> bool:
        """Whether an IP packet that comes for the VIP is taken."""
        until = max(self._until.get(vip, 0), self._serving.get(vip, 0))
        return until > self._world.now

    def answers(self, vip: str) -> bool:
        """Whether ARP for the VIP is answered."""
        return self._lan.answering(self._place, vip)

    def announce(self, vip: str) -> None:
        """A gratuitous ARP leaves, if the fence is open."""
        self._lan.announce(self._place, vip)

    def power_off(self) -> None:
        """Nothing is left."""
        for vip in list(self._until):
            self.close(vip)

    def sleep(self) -> None:
        """Suspended: no packets, and the timers stand still."""
        self._lan.mute(self._place)

    def wake(self, slept_ns: int) -> None:
        """What was left is left still."""
        began = self._world.now - slept_ns
        for vip, until in list(self._until.items()):
            if until > began:
                self._until[vip] = until + slept_ns
        self._lan.unmute(self._place, GRACE_NS)
        for vip, until in self._until.items():
            if until > self._world.now:
                self._lan.answer(self._place, vip, until)
