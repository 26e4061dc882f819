"""The health loop with a prober that answers what it is told to."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from piagent.agent.bulletins import Bulletins
from piagent.agent.duty import Duty
from piagent.agent.health import JITTER, SLOT_S, HealthLoop, next_due
from piagent.agent.letters import Letters
from piagent.agent.registry import Publisher
from piagent.core.health import Status
from piagent.core.model import Config
from tests.agent.nodes import config, service
from tests.fakes import FakeProber
from tests.waiting import until

Down = frozenset[tuple[str, str]]


def never(*_: object) -> None:
    raise AssertionError("it said something, and is alone")


class Run:
    """A loop at work, and what it said."""

    def __init__(self, made: Config) -> None:
        self.prober = FakeProber()
        self.said: list[Down] = []
        self.duty = self._duty()
        self.loop = HealthLoop(self.prober, self.duty, lambda: (), self.said.append)
        self.loop.configure(made)

    def _duty(self) -> Duty:
        """Of a node that is alone."""
        letters = Letters(
            cluster="home", node="n1", incarnation="0" * 16, secrets=(b"",), started=0
        )
        return Duty(
            bulletins=Bulletins("home", letters),
            publisher=Publisher(to_all=never, to_all_once=never, to_one=never),
            incarnation=letters.incarnation,
            life=lambda _: None,
            has_company=lambda: False,
        )

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.loop.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_first_result_decides_at_once(tmp_path: Path) -> None:
    run = Run(config(tmp_path))
    run.prober.bad["10.0.0.1"] = "refused"
    async with run:
        await until(lambda: bool(run.said), "a change")
        assert run.said == [{("web", "10.0.0.1")}]


async def test_backend_falls_and_rises_again(tmp_path: Path) -> None:
    run = Run(config(tmp_path))
    async with run:
        await until(lambda: run.prober.count >= 4, "some checks")
        assert run.said == []
        run.prober.bad["10.0.0.2"] = "timeout"
        await until(lambda: bool(run.said), "a fall")
        assert run.said == [{("web", "10.0.0.2")}]
        del run.prober.bad["10.0.0.2"]
        await until(lambda: len(run.said) == 2, "a rise")
        assert run.said[1] == frozenset()


async def test_reload_keeps_what_is_known_and_forgets_what_is_gone(tmp_path: Path) -> None:
    made = config(tmp_path)
    run = Run(made)
    run.prober.bad["10.0.0.1"] = "refused"
    async with run:
        await until(lambda: bool(run.said), "a change")
        kept = run.loop.target("web", "10.0.0.1")
        run.loop.configure(replace(made, services=(service("web", None, "10.0.0.1"),)))
        assert run.loop.target("web", "10.0.0.1") is kept
        assert run.loop.target("web", "10.0.0.2") is None
        assert run.loop.down() == {("web", "10.0.0.1")}


async def test_answer_to_a_question_that_a_reload_withdrew_counts_for_nothing(
    tmp_path: Path,
) -> None:
    made = config(tmp_path, services=(service("web", None, "10.0.0.1"),))
    run = Run(made)
    run.prober.hold = asyncio.Event()
    run.prober.bad["10.0.0.1"] = "refused"
    async with run:
        await until(lambda: run.prober.count == 1, "the first check is under way")
        del run.prober.bad["10.0.0.1"]
        web = made.services[0]
        assert web.health is not None
        asks_elsewhere = replace(web, health=replace(web.health, port=9000))
        run.loop.configure(replace(made, services=(asks_elsewhere,)))
        await until(lambda: run.prober.count == 2, "the new question is under way")
        run.prober.hold.set()
        await until(lambda: run.prober.count >= 3, "a later check")
    assert run.said == []


async def test_service_without_a_check_is_never_asked(tmp_path: Path) -> None:
    run = Run(config(tmp_path, services=(service("web", None, "10.0.0.1", check=False),)))
    async with run:
        await asyncio.sleep(0.1)
    assert run.prober.count == 0


async def test_checks_added_by_a_reload_begin_at_once(tmp_path: Path) -> None:
    made = config(tmp_path)
    run = Run(replace(made, services=()))
    async with run:
        await asyncio.sleep(0.05)
        assert run.prober.count == 0
        run.loop.configure(made)
        await until(lambda: run.prober.count >= 2, "the first checks")


async def test_short_interval_does_not_turn_into_a_busy_loop(tmp_path: Path) -> None:
    run = Run(config(tmp_path))
    async with run:
        await asyncio.sleep(0.5)
    assert run.prober.count <= 2 * (0.5 / 0.04) + 2


async def test_check_that_could_not_be_made_changes_nothing(tmp_path: Path) -> None:
    run = Run(config(tmp_path))
    run.prober.own_trouble = True
    async with run:
        await until(lambda: run.prober.count >= 8, "some checks")
        target = run.loop.target("web", "10.0.0.1")
        assert target is not None
        assert target.health.status is Status.UNKNOWN
        assert target.health.detail == "not checked"
        run.prober.own_trouble = False
        await until(lambda: target.health.status is Status.UP, "a result")
    assert run.said == []


def test_checks_share_a_grid_of_a_second_and_those_of_short_intervals_a_finer_one() -> None:
    for interval_s, slot_s in ((60.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.3, 0.125), (0.01, 2**-8)):
        for first in (True, False):
            assert next_due(interval_s, first=first) % slot_s == 0


def test_interval_keeps_its_mean_with_jitter_on_the_grid() -> None:
    spans = [next_due(2.0, first=False) - time.monotonic() for _ in range(4000)]
    assert min(spans) > 2.0 * (1 - JITTER) - SLOT_S - 0.05
    assert max(spans) < 2.0 + SLOT_S
    # 4000 samples with a deviation of at most 0.5 s: the mean is within 0.05 s of 1.95 s.
    assert abs(sum(spans) / len(spans) - 2.0 * (1 - JITTER / 2)) < 0.05
