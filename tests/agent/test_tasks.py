"""What goes on beside the main parts."""

from __future__ import annotations

import asyncio

import pytest

from piagent.agent.tasks import Alarm, Tasks
from tests.waiting import until


async def test_failure_of_a_task_that_nobody_waits_for_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise RuntimeError("boom")

    Tasks().spawn(fail())
    await until(lambda: "boom" in caplog.text, "it is in the log")


async def test_task_that_nobody_holds_runs_to_its_end() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    Tasks().spawn(work())
    await asyncio.wait_for(done.wait(), 5)


async def test_an_alarm_goes_off_once_when_it_was_set_for_last() -> None:
    rung: list[float] = []
    loop = asyncio.get_running_loop()
    alarm = Alarm(lambda: rung.append(loop.time()))
    begin = loop.time()
    alarm.set(0.01)
    alarm.set(0.1)
    await until(lambda: rung, "it goes off")
    assert rung[0] - begin >= 0.1
    alarm.set(-1)
    await until(lambda: len(rung) == 2, "what is due goes off at once")
    alarm.set(0.01)
    alarm.set(None)
    await asyncio.sleep(0.1)
    assert len(rung) == 2
