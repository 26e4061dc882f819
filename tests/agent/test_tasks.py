"""What goes on beside the main parts."""

from __future__ import annotations

import asyncio

import pytest

from piagent.agent.tasks import Tasks
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
