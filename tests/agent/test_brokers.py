"""What is shown of the brokers."""

from __future__ import annotations

from piagent.agent.brokers import BrokerBook
from piagent.core.model import Broker

BROKERS = tuple(Broker(label=f"b{n}", host="fd00::1", port=1883) for n in (1, 2, 3))


def test_majority_is_a_quorum() -> None:
    book = BrokerBook(BROKERS)
    assert not book.quorum()
    book.up("b1", "c1", 0)
    assert not book.quorum()
    book.up("b3", "c3", 0)
    assert book.quorum()
    book.down("b1", "gone")
    assert not book.quorum()


def test_only_the_present_connection_is_current() -> None:
    book = BrokerBook(BROKERS)
    book.up("b1", "old", 0)
    book.up("b1", "new", 0)
    assert not book.is_current("b1", "old")
    assert book.is_current("b1", "new")
    book.down("b1", "gone")
    assert not book.is_current("b1", "new")


def test_time_is_that_of_the_change_while_the_reason_is_the_latest() -> None:
    book = BrokerBook(BROKERS)
    first = book.statuses()[0]
    book.down("b1", "refused")
    again = book.statuses()[0]
    assert (again.since, again.reason) == (first.since, "refused")
    assert again.address == "[fd00::1]:1883"


def test_majority_counts_from_when_it_was_there_on_the_same_connections() -> None:
    book = BrokerBook(BROKERS)
    book.up("b1", "c1", 100)
    book.up("b2", "c2", 200)
    assert not book.quorum_since(199)
    assert book.quorum_since(200)
    book.down("b2", "gone")
    book.up("b2", "c3", 300)
    assert not book.quorum_since(299)
