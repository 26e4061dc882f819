"""What is in force: majorities, late messages, one leader after the other, and two at once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from piagent.core.agreement import Agreement
from piagent.core.assignments import Assignment, Assignments, compose
from piagent.core.model import AddressRange, Pool
from piagent.core.wants import Want, WantedPort

POOL = Pool(name="lan", addresses=(AddressRange(first="10.0.0.1", last="10.0.0.200"),))
BROKERS = ("b1", "b2", "b3")
NOTHING = Assignments(node="", epoch=0, number=0)
SEEDS = 300


def said(epoch: int, number: int, **given: str) -> Assignments:
    vips = {f"service/{name}": Assignment(vips=(vip,)) for name, vip in given.items()}
    return Assignments(node=f"n{epoch}", epoch=epoch, number=number, given=vips)


def test_what_a_majority_carries_is_in_force() -> None:
    agreement = Agreement(BROKERS)
    assert not agreement.heard("b1", said(1, 1, web="10.0.0.1"))
    assert not agreement.heard("b1", said(1, 1, web="10.0.0.1"))
    assert agreement.in_force is None
    assert agreement.heard("b2", said(1, 1, web="10.0.0.1"))
    assert not agreement.heard("b3", said(1, 1, web="10.0.0.1"))
    assert agreement.in_force == said(1, 1, web="10.0.0.1")


def test_one_broker_is_its_own_majority() -> None:
    assert Agreement(["b1"]).heard("b1", said(1, 1))


def test_two_contents_of_one_stamp_do_not_add_up() -> None:
    agreement = Agreement(BROKERS)
    agreement.heard("b1", said(1, 1, web="10.0.0.1"))
    assert not agreement.heard("b2", said(1, 1, web="10.0.0.2"))


def test_a_node_never_goes_back() -> None:
    agreement = Agreement(BROKERS, said(2, 5))
    for broker in BROKERS:
        assert not agreement.heard(broker, said(2, 4))
        agreement.forget(broker)
    assert agreement.in_force == said(2, 5)


def test_older_words_behind_a_prepare_are_void() -> None:
    agreement = Agreement(BROKERS)
    for broker in BROKERS:
        assert not agreement.heard(broker, said(2, 0))
        assert not agreement.heard(broker, said(1, 9, web="10.0.0.1"))
    assert agreement.in_force is None
    assert agreement.newest is None, "what is void is nothing to begin with"


def test_a_prepare_is_never_in_force_and_never_the_newest() -> None:
    agreement = Agreement(BROKERS)
    for message in (said(1, 3), said(2, 0)):
        for broker in BROKERS:
            agreement.heard(broker, message)
    assert agreement.in_force == agreement.newest == said(1, 3)
    assert agreement.is_carried(said(2, 0))


def test_what_a_prepare_repeats_is_as_new_as_when_it_was_said() -> None:
    repeated = replace(said(3, 0, web="10.0.0.1"), known=(1, 7))
    agreement = Agreement(BROKERS, said(1, 6))
    agreement.heard("b1", replace(said(4, 0), known=(1, 5)))
    assert agreement.newest == said(1, 6)
    agreement.heard("b2", repeated)
    assert agreement.newest == repeated
    agreement.heard("b3", said(1, 8))
    assert agreement.newest == said(1, 8)
    assert agreement.in_force == said(1, 6)


def test_a_connection_that_ended_counts_no_more() -> None:
    agreement = Agreement(BROKERS)
    agreement.heard("b1", said(1, 1))
    agreement.forget("b1")
    assert agreement.carries("b1") is None
    assert not agreement.heard("b2", said(1, 1))


# ---- leaders, in sequence and at once, with every delay ----------------------------------------


class Broken(AssertionError):
    pass


class World:
    """Brokers that keep order, messages on their way for as long as chance likes, listeners."""

    def __init__(self, chance: random.Random, brokers: int) -> None:
        self.chance = chance
        self.logs: dict[str, list[Assignments]] = {f"b{i}": [] for i in range(brokers)}
        self.had: dict[str, tuple[str, ...]] = {}
        self.holder: dict[str, str] = {}

    def in_force(self, one: Assignments) -> None:
        for key, has in one.given.items():
            if self.had.setdefault(key, has.vips) != has.vips:
                raise Broken(f"{key} had {self.had[key]}, has {has.vips} in {one.stamp}")
            for vip in has.vips:
                if self.holder.setdefault(vip, key) != key:
                    raise Broken(f"{vip} is {self.holder[vip]}'s, and {key}'s in {one.stamp}")


class Listener:
    def __init__(self, world: World, agreement: Callable[[list[str]], Agreement]) -> None:
        self.world = world
        self.agreement = agreement(list(world.logs))
        self.read = dict.fromkeys(world.logs, 0)

    def hear(self) -> None:
        broker = self.world.chance.choice(list(self.world.logs))
        log = self.world.logs[broker]
        if self.read[broker] < len(log):
            message = log[self.read[broker]]
            self.read[broker] += 1
            if self.agreement.heard(broker, message) and self.agreement.in_force is not None:
                self.world.in_force(self.agreement.in_force)


class Leader(Listener):
    """Goes on for ever, whoever leads after it: as if leases did not count."""

    prepares = True

    def __init__(
        self, world: World, epoch: int, agreement: Callable[[list[str]], Agreement]
    ) -> None:
        super().__init__(world, agreement)
        self.epoch = epoch
        self.sent: dict[str, list[Assignments]] = {broker: [] for broker in world.logs}
        self.current: Assignments | None = None
        self.confirmed = False

    def act(self) -> None:
        self.hear()
        if self.current is None:
            if self.prepares:
                known = self.agreement.newest or NOTHING
                self.say(
                    replace(
                        known, node=f"n{self.epoch}", epoch=self.epoch, number=0, known=known.told
                    )
                )
            else:
                self.accept()
        elif self.current.number == 0:
            if self.agreement.is_carried(self.current):
                self.accept()
        elif self.world.chance.random() < 0.3:
            self.give()

    def accept(self) -> None:
        known = self.agreement.newest or NOTHING
        self.say(replace(known, node=f"n{self.epoch}", epoch=self.epoch, number=1, known=(0, 0)))

    def give(self) -> None:
        current = self.current
        assert current is not None
        name = f"service/{self.world.chance.randrange(6)}"
        wants = dict.fromkeys((*current.given, name), Want(vip=True, ports=(WantedPort("p", 80),)))
        given = compose((POOL,), wants, current.given).given
        if given != current.given:
            self.say(replace(current, number=current.number + 1, given=given))

    def say(self, message: Assignments) -> None:
        self.current = message
        for queue in self.sent.values():
            queue.append(message)

    def arrive(self) -> None:
        broker = self.world.chance.choice(list(self.sent))
        if self.sent[broker]:
            self.world.logs[broker].append(self.sent[broker].pop(0))


def play(
    seed: int,
    leader: type[Leader] = Leader,
    agreement: Callable[[list[str]], Agreement] = Agreement,
) -> World:
    chance = random.Random(seed)
    world = World(chance, chance.choice((1, 3, 3, 5)))
    nodes = [Listener(world, agreement) for _ in range(2)]
    leaders: list[Leader] = []
    for _ in range(400):
        step = chance.random()
        if not leaders or (step < 0.02 and len(leaders) < 6):
            leaders.append(leader(world, len(leaders) + 1, agreement))
        elif step < 0.4:
            chance.choice(nodes).hear()
        elif step < 0.7:
            chance.choice(leaders).act()
        else:
            chance.choice(leaders).arrive()
    return world


def play_all(
    seeds: range, leader: type[Leader], agreement: Callable[[list[str]], Agreement]
) -> None:
    for seed in seeds:
        play(seed, leader, agreement)


def test_leaders_never_give_one_address_to_two_services_nor_change_one() -> None:
    given = [len(play(seed).had) for seed in range(SEEDS)]
    assert sum(given) > SEEDS, "hardly anything came into force: the test shows nothing"


class LeaderWithoutPrepare(Leader):
    prepares = False


class AnyBroker(Agreement):
    """One broker counts as a majority."""

    def __init__(self, brokers: list[str]) -> None:
        super().__init__(brokers)
        self._majority = 1


class NoOrder(Agreement):
    """What is older counts, too, wherever it comes."""

    def heard(self, broker: str, said: Assignments) -> bool:
        self.forget(broker)
        return super().heard(broker, said)


@pytest.mark.parametrize(
    ("leader", "agreement"),
    [(LeaderWithoutPrepare, Agreement), (Leader, AnyBroker), (Leader, NoOrder)],
)
def test_each_rule_is_needed(
    leader: type[Leader], agreement: Callable[[list[str]], Agreement]
) -> None:
    with pytest.raises(Broken):
        play_all(range(20 * SEEDS), leader, agreement)
