"""What a node knows of services, kept and put right, without a cluster around it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from piagent.agent import contents as contents_module
from piagent.agent import endpoints as endpoints_module
from piagent.agent import registry as registry_module
from piagent.agent.bulletins import Bulletin, Bulletins
from piagent.agent.endpoints import EndpointBook
from piagent.agent.letters import Letters
from piagent.agent.registry import Publisher, Registry, Saved
from piagent.core.assignments import Applied, Assignment, Assignments
from piagent.core.bulletin import Endpoint, Endpoints, Wants
from piagent.core.records import Kind, Record, digest
from piagent.ports import Received
from tests.agent.nodes import config

OWN, OTHER = "0" * 16, "1" * 16


class Node:
    """A registry and an endpoint book, and what they say."""

    def __init__(self, tmp_path: Path, saved: Saved | None = None) -> None:
        self.said: list[tuple[str, str]] = []
        """Broker ("": all), topic."""
        self.changes = self.saves = 0
        self.lives: dict[str, str] = {}
        """Of the nodes that are there."""
        letters = Letters(
            cluster="home", node="n1", incarnation=OWN, secrets=(b"x" * 16,), started=0
        )
        self.bulletins = bulletins = Bulletins("home", letters)
        publisher = Publisher(
            to_all=lambda topic, _payload: self.said.append(("", topic)),
            to_all_once=lambda _topic, _payload: None,
            to_one=lambda broker, topic, _payload: self.said.append((broker, topic)),
        )
        file = config(tmp_path, "n1")
        self.registry = Registry(
            brokers=("b1", "b2", "b3"),
            bulletins=bulletins,
            publisher=publisher,
            saved=saved or Saved(),
            save=self._saved,
            incarnation=OWN,
            file=lambda: file,
            changed=self._changed,
        )
        self.endpoints = EndpointBook(
            bulletins=bulletins,
            publisher=publisher,
            incarnation=OWN,
            life=self.lives.get,
            changed=self._changed,
        )

    def _saved(self, _: Saved) -> None:
        self.saves += 1

    def _changed(self) -> None:
        self.changes += 1

    def hear(self, message: Any, kind: Any = None, key: str = "n1", **how: Any) -> None:
        said = Bulletin(
            **{"broker": "b1", "key": key, "kind": kind or type(message), "message": message,
               "fresh": True, **how}
        )  # fmt: skip
        self.registry.hear(said)
        self.endpoints.hear(said)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    for module in (registry_module, endpoints_module):
        monkeypatch.setattr(module, "ANSWER_S", 0.05)
    return Node(tmp_path)


# ---- two hosts with one name -------------------------------------------------------------------


async def test_what_another_host_says_in_this_nodes_name_is_answered_once_in_a_while(
    node: Node,
) -> None:
    for at in range(20):  # the other one answers, too: without a pause that would never end
        node.hear(Wants(incarnation=OTHER, at=at))
        node.hear(Endpoints(incarnation=OTHER, at=at))
    assert node.said == []
    await asyncio.sleep(0.15)
    wants, endpoints = "piagent/home/wants/n1", "piagent/home/endpoints/n1"
    assert sorted(node.said) == [("", endpoints), ("", wants)]
    node.hear(Wants(incarnation=OTHER, at=30))
    await asyncio.sleep(0.15)
    assert node.said.count(("", wants)) == 2


# ---- wants that are cleared --------------------------------------------------------------------


async def test_a_node_whose_wants_were_cleared_says_them_again(node: Node) -> None:
    node.hear(None, kind=Wants)  # cannot be read: who wrote it may answer, too
    await asyncio.sleep(0.15)
    assert node.said == []
    node.hear(None, kind=Wants, cleared=True)
    await asyncio.sleep(0.15)
    assert node.said == [("", "piagent/home/wants/n1")]


def test_what_was_cleared_is_told_from_what_cannot_be_read(node: Node) -> None:
    for payload, cleared in ((b"", True), (b"{}", False), (b"\xff", False)):
        event = Received("b1", "c1", "piagent/home/wants/n2", payload, retain=False)
        said = node.bulletins.read(event)
        assert said is not None
        assert (said.message, said.cleared) == (None, cleared)


async def test_a_node_is_forgotten_when_no_broker_carries_its_wants(node: Node) -> None:
    for broker in ("b1", "b2", "b3"):
        node.hear(Wants(incarnation=OTHER, at=1), key="n2", broker=broker)
    assert list(node.registry.wants()) == ["n1", "n2"]
    node.registry.disconnected("b3")
    node.hear(None, kind=Wants, key="n2", broker="b1", cleared=True)
    node.hear(None, kind=Wants, key="n2", broker="b2")
    assert list(node.registry.wants()) == ["n1", "n2"], "another broker carries them"
    before = node.changes
    node.hear(None, kind=Wants, key="n2", broker="b2", cleared=True)
    assert list(node.registry.wants()) == ["n1"]
    assert node.changes == before + 1
    node.hear(None, kind=Wants, key="n3", broker="b2", cleared=True)
    assert node.changes == before + 1, "nobody knew it"
    node.hear(Wants(incarnation=OTHER, at=1), key="n2", broker="b2")
    assert list(node.registry.wants()) == ["n1", "n2"], "it is there after all"


# ---- contents ----------------------------------------------------------------------------------


async def test_what_came_last_is_not_forgotten_when_there_is_too_much(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents_module, "MAX_RECORDS", 10)
    records = [Record(kind=Kind.SERVICE, name="web", table={"v": v}) for v in range(30)]
    for record in records:
        node.hear(record, key=record.key)
        assert node.registry.contents.record(digest(record)), "it may be about to come into force"
    assert node.registry.contents.record(digest(records[0])) is None
    assert node.registry.contents.record(digest(records[-5])) is not None


async def test_what_is_heard_again_is_not_old(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_module, "MAX_RECORDS", 10)
    records = [Record(kind=Kind.SERVICE, name="web", table={"v": v}) for v in range(10)]
    for record in (*records[:9], records[0], records[9]):
        node.hear(record, key=record.key)
    assert node.registry.contents.record(digest(records[0])) is not None
    assert node.registry.contents.record(digest(records[1])) is None


# ---- endpoints ---------------------------------------------------------------------------------


def registered(incarnation: str = OTHER, at: int = 1, left_ms: int = 60_000) -> Endpoints:
    one = Endpoint(service="web", address="10.0.0.77", port=8081, left_ms=left_ms)
    return Endpoints(incarnation=incarnation, at=at, endpoints=(one,))


async def test_what_is_retained_of_a_life_that_is_over_does_not_count(node: Node) -> None:
    node.hear(registered(), key="n2", fresh=False)
    assert node.endpoints.backends() == {}, "its node is not there, for all we know"
    before = node.changes
    node.lives["n2"] = OTHER  # retained, too, and heard after it
    node.endpoints.subscribed("b1")
    assert node.changes == before + 1
    assert [one.id for one in node.endpoints.backends()["web"]] == ["10.0.0.77:8081"]
    node.lives["n2"] = OWN
    assert node.endpoints.backends() == {}


async def test_what_was_said_just_now_counts_whatever_brokers_know_of_its_node(node: Node) -> None:
    node.hear(registered(), key="n2", fresh=False)
    before = node.changes
    node.hear(registered(at=2), key="n2")
    assert node.changes == before + 1
    assert list(node.endpoints.backends()) == ["web"]
    node.endpoints.subscribed("b1")
    assert node.changes == before + 1, "there is no doubt about any"


async def test_what_is_retained_ends_with_its_time_in_doubt_or_not(node: Node) -> None:
    task = asyncio.create_task(node.endpoints.run())
    node.hear(registered(left_ms=50), key="n2", fresh=False)
    await asyncio.sleep(0.2)
    node.lives["n2"] = OTHER
    assert node.endpoints.backends() == {}
    task.cancel()


async def test_what_is_in_force_and_known_is_no_news_when_it_is_heard_again(tmp_path: Path) -> None:
    record = Record(kind=Kind.SERVICE, name="web", table={"name": "web"})
    given = {record.key: Assignment(applied=Applied(1, digest(record), (1, 1)))}
    said = Assignments(node="n2", epoch=1, number=1, given=given)
    lacking = Node(tmp_path, Saved(assignments=said))
    knowing = Node(tmp_path, Saved(assignments=said, records=(record,)))
    for one in (lacking, knowing):
        one.hear(record, key=record.key)
        one.hear(record, key=record.key)
    assert (lacking.changes, lacking.saves) == (1, 1)
    assert (knowing.changes, knowing.saves) == (0, 0), "a state file is not written for nothing"
