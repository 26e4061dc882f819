"""One seed's history from boot to the calm after the storm, with all that is checked."""

from __future__ import annotations

from msgspec import Struct

from tests.sim.broker import SimBroker
from tests.sim.checker import Violation
from tests.sim.faults import Storm
from tests.sim.node import Setup, SimNode
from tests.sim.world import TIMING, Options, S, World

SECRET = b"the cluster's secret"
_STEADY_NS = 2 * S


class Result(Struct, frozen=True):
    """How a history went."""

    seed: int
    violation: str | None
    acquired: int
    steps: int
    dropped: int
    trace: str = ""


def play(seed: int, options: Options) -> Result:
    """Run one history; the violation says how to see it again."""
    world = World(seed, options)
    violation = None
    try:
        _play(world)
    except Violation as error:
        violation = str(error)
    return Result(
        seed=seed,
        violation=violation,
        acquired=world.checker.acquired,
        steps=world.steps,
        dropped=world.dropped,
        trace=world.trace(),
    )


def _play(world: World) -> None:
    options = world.options
    brokers = [SimBroker(world, f"b{i + 1}") for i in range(options.brokers)]
    nodes = [SimNode(world, _setup(options, i), brokers) for i in range(options.nodes)]
    storm = Storm(world, nodes, brokers)
    world.run(options.storm_ns)
    storm.end()
    world.run(options.storm_ns + options.settle_ns)
    owners = _owners(world)
    world.run(world.now + _STEADY_NS)
    for key, owner in owners.items():
        if len(owner) != 1:
            raise Violation(f"PIAGENT_SEED={world.seed} {key} has no owner after the storm")
        if world.checker.owners(key) != owner:
            raise Violation(f"PIAGENT_SEED={world.seed} {key} does not stay with {owner}")


def _owners(world: World) -> dict[str, list[tuple[str, str]]]:
    return {key: world.checker.owners(key) for key in _keys(world.options)}


def _keys(options: Options) -> tuple[str, ...]:
    return tuple(f"10.0.0.{i + 1}" for i in range(options.keys))


def _setup(options: Options, place: int) -> Setup:
    odd = place == 0
    return Setup(
        name="n0" if options.twins else f"n{place}",
        place=place,
        rank=place if options.ranked else 0,
        secret=b"another secret" if odd and options.secrets else SECRET,
        timing=TIMING,
        config_hash="0ther" if odd and options.mixed else "c0ffee",
        keys=_keys(options),
    )
