"""What somebody puts in the place of the assignments does not stay there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.test_office import ASSIGNED, assigned, bench, leads, retained, until_settled
from tests.agent.test_services import apply, stop, web
from tests.fakes import FakeBroker
from tests.waiting import until


@pytest.mark.parametrize("what", ["nothing", "garbage", "recorded"])
async def test_a_leader_says_again_what_a_broker_was_made_to_forget(
    tmp_path: Path, what: str
) -> None:
    broker = FakeBroker()
    first = bench(tmp_path, broker, "n1")
    await until_settled(first)
    await apply(first, web("old"))
    recorded = broker.retained[ASSIGNED]
    await apply(first, web())
    await until(lambda: leads(first) and "service/web" in assigned(first))
    latest = broker.retained[ASSIGNED]
    put = {"nothing": b"", "garbage": b'{"n":"n1"}', "recorded": recorded}[what]
    assert put != latest
    broker.publish(ASSIGNED, put, retain=True)
    await until(lambda: broker.retained.get(ASSIGNED) == latest, "the latest is there again")
    second = bench(tmp_path, broker, "n2")
    await until(lambda: "service/web" in assigned(second), "who comes now hears it")
    said = retained(broker)
    assert said is not None
    await stop([first, second])
