"""One seed's history from boot to the calm after the storm, with all that is checked."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from tests.sim.broker import SimBroker
from tests.sim.checker import Checker
from tests.sim.faults import Storm
from tests.sim.host import Host, Setup
from tests.sim.lan import Lan
from tests.sim.world import Options, S, Violation, World

SECRET = b"the cluster's secret"
_STEADY_NS = 2 * S


class Result(Struct, frozen=True):
    """How a history went."""

    seed: int
    violation: str | None
    counts: Counter[str]
    trace: str = ""


class House:
    """One world with everything in it."""

    def __init__(self, seed: int, options: Options) -> None:
        self.world = World(seed, options)
        self.lan = Lan(self.world)
        self.checker = Checker(self.world, self.lan)
        self.brokers = [SimBroker(self.world, f"b{i + 1}") for i in range(options.brokers)]
        self.hosts = [
            Host(self.world, _setup(options, place), self.brokers, self.lan, self.checker)
            for place in range(options.nodes)
        ]
        for host in self.hosts:
            host.neighbours = {other.setup.name: other for other in self.hosts}
        self.storm = Storm(self.world, self.hosts, self.brokers, self.lan)

    def run(self, span: int) -> None:
        """Let time pass."""
        self.world.run(self.world.now + span)

    def owners(self) -> dict[str, int]:
        """Key -> the host of its one owner; a Violation if there is none or another number."""
        found = {}
        for key in _keys(self.world.options):
            owners = self.checker.owners(key)
            if len(owners) != 1:
                self.world.fail(f"after the storm {key} has {len(owners)} owners")
            found[key] = self.checker.place_of(owners[0])
        return found

    def check_reached(self, owners: dict[str, int]) -> None:
        """Raise a Violation unless every owner answers and clients send to it."""
        for key, place in owners.items():
            if self.lan.hosts(key) != [place]:
                self.world.fail(f"{key} is answered for by {self.lan.hosts(key)}, not {place}")
            if self.lan.neighbour(key) != place:
                self.world.fail(
                    f"clients send {key} to host {self.lan.neighbour(key)}, not {place}"
                )

    def check_shares(self, owners: dict[str, int]) -> None:
        """Raise a Violation if a host owns more than its share, rounded up."""
        share = -(-len(owners) // len(self.hosts))
        for place, load in Counter(owners.values()).items():
            if load > share:
                self.world.fail(f"host {place} owns {load} keys, at most {share} are its share")


def play(seed: int, options: Options, *, trace: bool = False) -> Result:
    """Run one history; the violation says how to see it again."""
    house = House(seed, options)
    violation = None
    try:
        _play(house)
    except Violation as error:
        violation = str(error)
    told = house.world.trace() if trace or violation is not None else ""
    return Result(seed=seed, violation=violation, counts=house.world.counts, trace=told)


def _play(house: House) -> None:
    options = house.world.options
    house.run(options.storm_ns)
    house.storm.end()
    house.run(options.settle_ns)
    owners = house.owners()
    house.run(_STEADY_NS)
    if (later := house.owners()) != owners:
        house.world.fail(f"owners change without a cause: {owners}, then {later}")
    house.check_reached(owners)
    if options.placed:
        house.check_shares(owners)


def _keys(options: Options) -> tuple[str, ...]:
    return tuple(f"10.0.0.{i + 1}" for i in range(options.keys))


def _setup(options: Options, place: int) -> Setup:
    odd = place == 0
    return Setup(
        name="n0" if options.twins else f"n{place}",
        place=place,
        rank=place if options.ranked else 0,
        secret=b"another secret" if odd and options.secrets else SECRET,
        timing=options.timing,
        config_hash="0ther" if odd and options.mixed else "c0ffee",
        keys=_keys(options),
    )
