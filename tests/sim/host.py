"""A simulated host: its clock, its kernel, and the processes that live and die on it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from piagent.core.model import Timing
from tests.sim.agent import SimAgent
from tests.sim.broker import SimBroker
from tests.sim.checker import Checker
from tests.sim.guardian import SimGuardian
from tests.sim.lan import GRACE_NS, Kernel, Lan
from tests.sim.world import MS, World

_MILLION = 1_000_000


class Setup(Struct, frozen=True):
    """What a node's file says."""

    name: str
    place: int
    rank: int
    secret: bytes
    timing: Timing
    config_hash: str
    keys: tuple[str, ...]


class Host:
    """One host. Its agent may be paused, crash and start again as another incarnation."""

    def __init__(
        self, world: World, setup: Setup, brokers: list[SimBroker], lan: Lan, checker: Checker
    ) -> None:
        self.world = world
        self.setup = setup
        self.brokers = {broker.label: broker for broker in brokers}
        self.lan = lan
        self.checker = checker
        self._ppm = world.random.choice(world.options.rates_ppm)
        self._offset = world.random.randrange(1, 10**13)
        self.kernel = Kernel(world, lan, setup.place, self.real_span)
        self.guardian = SimGuardian(self)
        self.agent: SimAgent | None = None
        self.cut_off_until: dict[str, int] = {}
        """Broker -> until when no connection to it succeeds."""
        self.link_up = True
        self.drained = False
        self._paused_until = 0
        self._asleep_until = 0
        self._drowsy_until = 0
        self.neighbours: dict[str, Host] = {}
        self.boot()

    # ---- clocks ----

    def clock(self) -> int:
        """The lease clock: it goes on while the host sleeps."""
        return self._offset + self.world.now + self.world.now * self._ppm // _MILLION

    def real(self, local: int) -> int:
        """The moment of the world at which the lease clock shows this."""
        return self.real_span(local - self._offset)

    def real_span(self, span: int) -> int:
        """So much of the world's time passes while the host's clock goes on by the span."""
        return span * _MILLION // (_MILLION + self._ppm)

    # ---- life ----

    def boot(self) -> None:
        """Start the agent, if it does not run."""
        if self.agent is None:
            self.guardian.forget()
            self.kernel.power_off()  # what a former life has left is removed first
            self.checker.silent_host(self.setup.place)
            self.agent = SimAgent(self)

    def crash(self, down_ns: int) -> None:
        """The agent dies; the kernel keeps what it has, and the guardian acts."""
        if self._kill("is killed"):
            self.guardian.agent_died()
            self.world.after(down_ns, self.boot)

    def lose_power(self, down_ns: int) -> None:
        """Everything on the host is gone; nobody closes its connections."""
        if self._kill("loses power"):
            self.guardian.forget()
            self.kernel.power_off()
            self.checker.silent_host(self.setup.place)
            self.world.after(down_ns, self.boot)

    def _kill(self, how: str) -> bool:
        if self.agent is None or self.drowsy():
            return False
        self.world.log(self.setup.name, self.setup.place, how)
        self.agent.die()
        self.agent = None
        self._paused_until = 0
        return True

    def pause(self, span_ns: int) -> None:
        """Stop the agent for a while (SIGSTOP); the kernel goes on.

        Not while the host sleeps or wakes up, and not once more just after it was stopped in the
        call that opens the fence: an agent that is stopped then cannot undo what the kernel, whose
        timers stood still or were given too much, goes on with. Nothing else could.
        """
        if self.drowsy():
            return
        self.world.log(self.setup.name, self.setup.place, "pauses", span_ns / 1e9)
        self.world.disturb(span_ns)
        self._paused_until = max(self._paused_until, self.world.now + span_ns)
        self.world.after(self._paused_until - self.world.now, self._resume)

    def suspend(self, span_ns: int) -> None:
        """The whole host sleeps; the lease clock goes on, the kernel's timers do not."""
        if self.agent is None or not self.awake():
            return
        self.world.log(self.setup.name, self.setup.place, "sleeps", span_ns / 1e9)
        self.world.disturb(span_ns)
        self._asleep_until = self.world.now + span_ns
        self._drowsy_until = self._asleep_until + GRACE_NS
        self.kernel.sleep()
        self.world.after(span_ns, self._wake, span_ns)

    def _wake(self, slept_ns: int) -> None:
        self.kernel.wake(slept_ns)
        if self.agent is not None:
            self.agent.has_slept()
        self.world.after(self.world.random.randrange(5 * MS), self._resume)
        self._paused_until = max(self._paused_until, self.world.now)

    def _resume(self) -> None:
        if self.awake() and self.agent is not None:
            self.agent.resume()

    def awake(self) -> bool:
        """The agent, if there is one, is running now."""
        return self.world.now >= self._paused_until and not self.asleep()

    def asleep(self) -> bool:
        """Nothing runs on the host."""
        return self.world.now < self._asleep_until

    def drowsy(self) -> bool:
        """Asleep, or the kernel was told too long a time just now, and the agent must be quick."""
        return self.world.now < self._drowsy_until

    def hurry(self) -> None:
        """The kernel was told too long a time: nothing stops the agent until it tells it again."""
        self._drowsy_until = max(self._drowsy_until, self.world.now + GRACE_NS)
        if self.agent is not None:
            self.agent.hurry()

    def when_up(self, delay: int, call: Callable[..., None], *args: object) -> None:
        """Call later, and not while the host sleeps."""
        if self.asleep():
            delay = max(delay, self._asleep_until - self.world.now)
        self.world.after(delay, self._call_if_up, call, args)

    def _call_if_up(self, call: Callable[..., None], args: tuple[object, ...]) -> None:
        if self.asleep():
            self.when_up(0, call, *args)
        else:
            call(*args)

    def prepare(self, name: str) -> bool:
        """Whether a successor that is asked to get ready answers in time."""
        other = self.neighbours.get(name)
        return other is not None and other.agent is not None and other.awake()

    # ---- its link ----

    def unplug(self, span_ns: int) -> None:
        """No carrier for a while."""
        if not self.link_up or self.asleep():
            return
        world = self.world
        world.log(self.setup.name, self.setup.place, "is unplugged", span_ns / 1e9)
        self.link_up = False
        self.lan.mute(self.setup.place)
        for label in self.brokers:
            self.cut_off(label, span_ns)
        if self.agent is not None:
            self.agent.on_link()
        world.after(span_ns, self._plug)

    def _plug(self) -> None:
        if self.asleep():
            self.when_up(0, self._plug)
            return
        self.link_up = True
        self.lan.unmute(self.setup.place)
        if self.agent is not None:
            self.agent.on_link()

    def cut_off(self, label: str, span_ns: int) -> None:
        """No way to a broker for a while; the connection that is open notices late."""
        self.world.disturb(span_ns)
        self.cut_off_until[label] = self.world.now + span_ns
        if self.agent is not None and (connection := self.agent.connections.get(label)) is not None:
            connection.cut(self.world.random.randrange(100 * MS, 2500 * MS))
