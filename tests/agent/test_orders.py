"""Orders that are asked for again, because nobody knows whether the first try was heard."""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import pytest

from piagent.agent.letters import Letters
from piagent.agent.members import Members
from piagent.agent.office import Office
from piagent.agent.orders import Orders
from piagent.core.applying import Change, Order, Outcome, Result, Verdict
from piagent.core.records import Kind
from piagent.core.wire import Command, Control

DELETE = Change(kind=Kind.SERVICE, name="web")
LOST = Verdict(done=False, error="the leader does not answer; try again")


class Answering:
    """An office that says one thing after the other."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)

    async def apply(self, order: Order) -> Verdict:
        verdict = self.verdicts.pop(0)
        if verdict.error == "a fault":
            raise RuntimeError(verdict.error)
        return verdict


def orders(*verdicts: Verdict) -> Orders:
    letters = Letters(
        cluster="home", node="n1", incarnation="0" * 16, secrets=(b"x" * 16,), started=0
    )
    return Orders(
        office=cast("Office", Answering(*verdicts)),
        letters=letters,
        members=Members("n1", "0" * 16),
        leader=lambda: "n1",
        publish=lambda _topic, _payload: None,
    )


def gone(result: Result = Result.NOT_FOUND) -> Outcome:
    return Outcome(kind=Kind.SERVICE, name="web", result=result)


async def test_what_is_gone_at_the_second_try_was_deleted_by_the_first() -> None:
    again = orders(LOST, Verdict(done=False, outcomes=(gone(),)))
    verdict = await again.submit(Order(changes=(DELETE,)))
    assert verdict == Verdict(done=True, outcomes=(gone(Result.DELETED),))


async def test_at_the_first_try_it_was_not_there() -> None:
    verdict = await orders(Verdict(done=False, outcomes=(gone(),))).submit(Order(changes=(DELETE,)))
    assert verdict == Verdict(done=False, outcomes=(gone(),))


@pytest.mark.parametrize(
    ("dry_run", "second"),
    [
        (True, Verdict(done=False, outcomes=(gone(),))),
        (True, Verdict(done=False, outcomes=(gone(Result.DELETED),))),
        (False, Verdict(done=False)),
        (False, Verdict(done=False, outcomes=(gone(Result.CONFLICT),))),
    ],
)
async def test_nothing_is_said_to_be_done_that_was_not(dry_run: bool, second: Verdict) -> None:
    order = Order(changes=(DELETE,), dry_run=dry_run)
    assert await orders(LOST, second).submit(order) == second


async def test_what_was_asked_for_again_is_done_once_unless_it_failed() -> None:
    done, left = Verdict(done=True), Verdict(done=False)
    leader = orders(Verdict(done=False, error="a fault"), LOST, done, left)
    office = cast("Answering", leader._office)
    body = msgspec.json.encode(Order(changes=(DELETE,))).decode()
    for seq, still in enumerate((3, 2, 1, 1, 1)):
        asked = Control(
            sender="n2",
            incarnation="1" * 16,
            seq=seq,
            to="0" * 16,
            command=Command.APPLY,
            detail="one order",
            body=body,
        )
        leader.hear(asked)
        leader.hear(asked)
        await asyncio.sleep(0.01)
        assert len(office.verdicts) == still
