"""The health loop with a prober that answers what it is told to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from piagent.agent.health import MAX_RUNNING, HealthLoop
from piagent.core.model import Config
from tests.agent.nodes import config, service
from tests.fakes import FakeProber
from tests.waiting import until

Down = frozenset[tuple[str, str]]


class Run:
    """A loop at work, and what it said."""

    def __init__(self, made: Config) -> None:
        self.prober = FakeProber()
        self.said: list[Down] = []
        self.loop = HealthLoop(self.prober, self.said.append)
        self.loop.configure(made)

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


async def test_only_so_many_checks_are_under_way_at_a_time(tmp_path: Path) -> None:
    backends = [f"10.0.1.{n}" for n in range(MAX_RUNNING + 36)]
    run = Run(config(tmp_path, services=(service("web", None, *backends),)))
    run.prober.hold = asyncio.Event()
    async with run:
        await until(lambda: run.prober.count >= MAX_RUNNING, "the first checks")
        for _ in range(10):
            await asyncio.sleep(0)
        assert run.prober.count == MAX_RUNNING
        run.prober.hold.set()
        await until(lambda: run.prober.count >= len(backends), "all of them")


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
