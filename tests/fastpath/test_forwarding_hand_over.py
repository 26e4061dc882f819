"""A VIP moves from one forwarder to another, and connections through it go on."""

from __future__ import annotations

import socket

import pytest

from fastpath.forwarding import Forwarder
from fastpath.packet.flow_cache import FlowCache, Unavailable
from piagent.adapters import netns
from tests.fastpath.forwarding_lab import KEY
from tests.fastpath.hand_over_lab import VIP, MovingLab, Talk
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def move(lab: MovingLab, *, adopts: bool) -> None:
    """As agents do it: hidden, taken over, handed over, and in the end forgotten by the first."""
    lab.one.hide()
    batches = lab.one.forwarder.export(VIP, each=20)
    lab.two.take_over(lab.one)
    lab.goes_to(lab.two)
    if adopts:
        told = [lab.two.forwarder.adopt(VIP, batch) for batch in batches]
        assert {what for one in told for what in one} == {"adopted"}
        lab.one.forwarder.end(VIP)


def caches(cached: bool) -> list[FlowCache | None]:
    try:
        return [FlowCache(1 << 10, 1 << 18) if cached else None for _ in range(2)]
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.mark.parametrize("cached", [False, True])
def test_established_nat_streams_go_on_through_the_next_owner_alone(cached: bool) -> None:
    made = caches(cached)
    with (
        netns.Network("pa-move") as network,
        MovingLab(network, "nat", caches=made) as lab,
        lab.serving(),
        Talk(lab, 50) as talk,
    ):
        talk.goes_on("before the move")
        move(lab, adopts=True)
        talk.goes_on("both nodes are there")
        assert lab.one.forwarder.stats()["flows"]["confirmed"] == 0
        lab.one.leave()
        for _ in range(3):
            talk.goes_on("only the next owner is there")
        assert lab.two.forwarder.stats()["flows"]["from_others"]["adopted"] == 50
        assert lab.two.forwarder.stats()["flows"]["confirmed"] == 50
        assert [cache.stats().flows for cache in made if cache] == [0, 100][: 2 * cached]


def test_nat_streams_go_on_through_the_former_owner_until_the_next_has_their_flows() -> None:
    with (
        netns.Network("pa-move") as network,
        MovingLab(network, "nat") as lab,
        lab.serving(),
        Talk(lab, 20) as talk,
    ):
        talk.goes_on("before the move")
        move(lab, adopts=False)
        for _ in range(3):
            talk.goes_on("passed on to the former owner")
        assert lab.two.stats().keys() <= {"no-flow"}
        lab.one.leave()
        with pytest.raises(AssertionError, match="within"):
            talk.goes_on("nobody knows the flows any more", 2)


def test_200_long_dsr_streams_live_through_a_move_to_a_node_that_knows_nothing_of_them() -> None:
    with (
        netns.Network("pa-move") as network,
        MovingLab(network, "dsr", 4) as lab,
        lab.serving(),
        Talk(lab, 200) as talk,
    ):
        talk.goes_on("before the move")
        before = talk.heard()
        move(lab, adopts=False)
        lab.one.leave()
        for _ in range(5):
            talk.goes_on("only the next owner is there")
        assert talk.broken() == {}
        assert all(now > then for now, then in zip(talk.heard(), before, strict=True))
        assert lab.two.stats().keys() == {"sent"}


def test_a_forwarder_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    with netns.Network("pa-move") as network:
        host = network.add_host("n", "10.9.0.1/24")
        with host.entered():
            forwarder = Forwarder(socket.if_nametoindex(netns.INTERFACE), 1500, hash_key=KEY)
        with pytest.raises(TimeoutError, match="does not answer"):
            forwarder.export(VIP)
        with pytest.raises(TimeoutError, match="busy"):
            forwarder.end(VIP)
        forwarder.start()
        wait_until(lambda: answers(forwarder), "it answers when it runs")
        assert forwarder.export(VIP) == []
        with pytest.raises(ValueError, match="no batch"):
            forwarder.adopt(VIP, b"\x01")
        forwarder.stop()
        with pytest.raises(TimeoutError):
            forwarder.end(VIP)


def answers(forwarder: Forwarder) -> bool:
    try:
        forwarder.end(VIP)
    except TimeoutError:
        return False
    return True
