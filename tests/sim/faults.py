"""What goes wrong, drawn from the world's seed."""

from __future__ import annotations

from collections.abc import Callable

from piagent.core.lease_types import HandOver, Rank, Reason, Want
from tests.sim.broker import SimBroker
from tests.sim.host import Host
from tests.sim.lan import Lan
from tests.sim.rogue import Rogue
from tests.sim.world import MS, S, World

_FAVOUR = 5
_RARE = {"suspend", "unplug", "squat", "split"}
"""Only in houses that name them: each needs something of its own."""


class Storm:
    """Faults at random times until the storm ends."""

    def __init__(self, world: World, hosts: list[Host], brokers: list[SimBroker], lan: Lan) -> None:
        self._world = world
        self._hosts = hosts
        self._brokers = brokers
        self._lan = lan
        faults: dict[str, tuple[int, Callable[[Host, SimBroker], None]]] = {
            "reset": (15, self._reset),
            "half-open": (10, self._half_open),
            "broker-crash": (6, self._crash_broker),
            "broker-stall": (4, self._stall_broker),
            "pause": (14, self._pause),
            "freeze": (6, self._freeze),
            "node-crash": (8, self._crash_node),
            "power": (4, self._cut_power),
            "hand-over": (10, self._hand_over),
            "drain": (3, self._drain),
            "partition": (6, self._partition),
            "one-way": (3, self._one_way),
            "clog": (6, self._clog),
            "rogue": (5, Rogue(world, brokers).strike),
            "want": (4, self._want),
            "reload": (4, self._reload),
            "suspend": (4, self._suspend),
            "unplug": (4, self._unplug),
            "squat": (4, self._squat),
            "split": (4, self._split),
        }
        options = world.options
        named = set(options.favourites) | set(options.only)
        chosen = options.only or [name for name in faults if name in named or name not in _RARE]
        self._faults = [faults[name][1] for name in chosen]
        self._weights = [
            faults[name][0] * (_FAVOUR if name in options.favourites else 1) for name in chosen
        ]
        if options.faults_per_s:
            self._schedule()

    def _schedule(self) -> None:
        mean = S / self._world.options.faults_per_s
        self._world.after(int(self._world.random.expovariate(1) * mean), self._strike)

    def _strike(self) -> None:
        world = self._world
        if world.over:
            return
        self._schedule()
        world.counts["faults"] += 1
        world.disturb(0)
        fault = world.random.choices(self._faults, self._weights)[0]
        fault(world.random.choice(self._hosts), world.random.choice(self._brokers))

    def end(self) -> None:
        """Everything works again, from now on."""
        self._world.calm = self._world.over = True
        self._world.log("the storm is over")
        self._lan.heal()
        for host in self._hosts:
            host.cut_off_until.clear()
            host.drained = False
            host.boot()
            if host.agent is not None:
                host.agent.hurry()
                host.agent.set_keys(host.setup.keys)
                host.agent.want_all(wanted=True)

    # ---- the network ----

    def _reset(self, host: Host, broker: SimBroker) -> None:
        if host.agent and (connection := host.agent.connections.get(broker.label)) is not None:
            connection.cut(0)

    def _half_open(self, host: Host, broker: SimBroker) -> None:
        if host.agent and (connection := host.agent.connections.get(broker.label)) is not None:
            connection.cut(self._world.random.randrange(100 * MS, 2500 * MS))

    def _partition(self, host: Host, _: SimBroker) -> None:
        """One node, and all or some of the brokers."""
        random = self._world.random
        span = random.randrange(200 * MS, 4 * S)
        self._world.log(host.setup.name, host.setup.place, "is cut off", span / S)
        for broker in self._brokers:
            if random.random() < 0.7:
                host.cut_off(broker.label, span)

    def _one_way(self, host: Host, _: SimBroker) -> None:
        """What the node sends is lost in time, or what it should hear; the other way is open."""
        random = self._world.random
        span, down = random.randrange(200 * MS, 3 * S), random.random() < 0.5
        self._world.log(host.setup.name, "hears" if down else "says", "nothing for", span / S)
        for connection in host.agent.connections.values() if host.agent else ():
            connection.clog(span, down=down)

    def _clog(self, host: Host, broker: SimBroker) -> None:
        random = self._world.random
        if host.agent and (connection := host.agent.connections.get(broker.label)) is not None:
            span = random.randrange(100 * MS, 3 * S)
            self._world.log("clogged:", connection.name, span / S)
            connection.clog(span, down=random.random() < 0.7)

    # ---- the LAN ----

    def _unplug(self, host: Host, _: SimBroker) -> None:
        host.unplug(int(self._world.random.choice((100, 1000, 3000)) * MS))

    def _split(self, _: Host, __: SimBroker) -> None:
        random = self._world.random
        places = {host.setup.place for host in self._hosts if random.random() < 0.5}
        self._world.disturb(span := random.randrange(S, 6 * S))
        self._lan.split(places, span)

    def _squat(self, host: Host, _: SimBroker) -> None:
        random = self._world.random
        self._world.disturb(span := random.randrange(S, 4 * S))
        self._lan.squat(random.choice(host.setup.keys), span)

    # ---- brokers and nodes ----

    def _crash_broker(self, _: Host, broker: SimBroker) -> None:
        random = self._world.random
        broker.crash(int(random.choice((50, 400, 2000)) * MS * random.uniform(0.5, 1.5)))

    def _stall_broker(self, _: Host, broker: SimBroker) -> None:
        broker.stall(int(self._world.random.choice((100, 600, 1500)) * MS))

    def _span(self) -> int:
        """Around everything that a lease's end depends on."""
        random = self._world.random
        return int(random.choice((50, 300, 900, 1000, 1500, 4000)) * random.uniform(0.8, 1.2) * MS)

    def _pause(self, host: Host, _: SimBroker) -> None:
        host.pause(self._span())

    def _freeze(self, host: Host, _: SimBroker) -> None:
        if host.agent is None or host.drowsy():
            return
        if self._world.random.random() < 0.5:
            host.agent.freeze(self._world.random.randrange(3), self._span())
        else:
            host.agent.freeze_in_call(self._span())

    def _suspend(self, host: Host, _: SimBroker) -> None:
        host.suspend(self._span())

    def _crash_node(self, host: Host, _: SimBroker) -> None:
        random = self._world.random
        host.crash(int(random.choice((50, 500, 3000)) * MS * random.random()))

    def _cut_power(self, host: Host, _: SimBroker) -> None:
        host.lose_power(self._world.random.randrange(500 * MS, 4 * S))

    # ---- people ----

    def _owner(self, key: str, otherwise: Host) -> Host:
        owners = (host for host in self._hosts if host.agent and host.agent.owns(key))
        return next(owners, otherwise)

    def _hand_over(self, host: Host, _: SimBroker) -> None:
        random = self._world.random
        key, other = random.choice(host.setup.keys), random.choice(self._hosts)
        if (agent := self._owner(key, host).agent) is not None:
            agent.step(HandOver(key, other.setup.name))

    def _drain(self, host: Host, _: SimBroker) -> None:
        """Every VIP to somebody else, and later back to normal."""
        random = self._world.random
        other = random.choice(self._hosts).setup.name
        host.drained = True
        for key in host.setup.keys:
            self._say(host, HandOver(key, other, Reason.DRAINED))
            self._say(host, Want(key, False, Reason.DRAINED))
        self._world.after(random.randrange(200 * MS, 4 * S), self._undrain, host)

    def _undrain(self, host: Host) -> None:
        host.drained = False
        if host.agent is not None:
            host.agent.want_all(wanted=True)

    def _want(self, host: Host, _: SimBroker) -> None:
        random = self._world.random
        key = random.choice(host.setup.keys)
        at = 0
        for wanted in (False, True, random.random() < 0.5, True):
            self._world.after(at, self._say, host, Want(key, wanted, Reason.STOPPING))
            at += int(random.choice((5 * MS, 200 * MS, 2 * S)) * random.random())
        self._world.disturb(at)
        self._world.after(at, self._say, host, Rank(key, random.randrange(4)))

    def _say(self, host: Host, event: Want | Rank) -> None:
        if host.agent is not None:
            host.agent.step(event)

    def _reload(self, host: Host, _: SimBroker) -> None:
        """A key goes from the node's file and comes back."""
        random = self._world.random
        gone = random.choice(host.setup.keys)
        if host.agent is not None:
            host.agent.set_keys(key for key in host.setup.keys if key != gone)
            self._world.after(random.randrange(5 * S), self._reload_all, host)

    def _reload_all(self, host: Host) -> None:
        if host.agent is not None:
            host.agent.set_keys(host.setup.keys)
