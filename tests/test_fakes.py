"""The fakes keep the ports' promises."""

from __future__ import annotations

import asyncio

from piagent.ports import (
    Addresses,
    Bus,
    BusEvent,
    Clock,
    DataPlane,
    Disconnected,
    Prober,
    Received,
    Subscribed,
)
from tests.fakes import (
    FakeAddresses,
    FakeBroker,
    FakeBus,
    FakeClock,
    FakeDataPlane,
    FakeProber,
    topic_matches,
)


def test_the_fakes_have_the_ports_shapes() -> None:
    clock: Clock = FakeClock()
    bus: Bus = FakeBus([], [])
    addresses: Addresses = FakeAddresses()
    prober: Prober = FakeProber()
    plane: DataPlane = FakeDataPlane()
    assert clock
    assert bus
    assert addresses
    assert prober
    assert plane


def test_topics_match_as_in_mqtt() -> None:
    assert topic_matches("a/+/c", "a/b/c")
    assert topic_matches("a/#", "a/b/c")
    assert not topic_matches("a/+", "a/b/c")
    assert not topic_matches("a/b/c", "a/b")


def test_a_fake_broker_orders_forgets_and_separates_connections() -> None:
    async def work() -> None:
        broker = FakeBroker()
        seen: dict[str, list[BusEvent]] = {"a": [], "b": []}
        buses = {name: FakeBus([broker], ["t/+"]) for name in seen}
        tasks = [asyncio.create_task(buses[n].run(seen[n].append)) for n in seen]
        await asyncio.sleep(0.01)
        assert buses["a"].publish("b1", "t/1", b"x", retain=True)
        assert buses["b"].publish("b1", "t/2", b"y")
        await asyncio.sleep(0.01)
        for events in seen.values():
            assert [e.payload for e in events if isinstance(e, Received)] == [b"x", b"y"]
        buses["b"].publish("b1", "t/3", b"never seen by a")
        buses["a"].close("b1", "test")
        await asyncio.sleep(0.01)
        kinds = [type(e) for e in seen["a"][3:]]
        assert kinds == [Disconnected, Subscribed, Received]  # the retained one
        broker.stop()
        await asyncio.sleep(0.01)
        assert not buses["a"].publish("b1", "t/1", b"offline")
        broker.start()
        await asyncio.sleep(0.01)
        assert isinstance(seen["a"][-1], Subscribed)
        for task in tasks:
            task.cancel()

    asyncio.run(work())


def test_fake_addresses_expire() -> None:
    clock = FakeClock()
    addresses = FakeAddresses(clock)
    asyncio.run(addresses.add("10.0.0.9", 1000))
    assert addresses.present == {"10.0.0.9"}
    clock.advance_ms(1001)
    assert not addresses.present
