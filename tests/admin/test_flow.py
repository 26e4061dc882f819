"""What the admin API is asked about flows, and how the engine's words become its answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from piagent.admin.answer import Refused
from piagent.admin.flow import asked, flow_status
from piagent.admin.status import FlowStatus
from piagent.core.flow import FlowQuestion, flow_of
from piagent.core.plan import Plan, PlannedBackend, PlannedListener, PlannedService
from piagent.core.proxying import Balance, Proxying
from piagent.ports import DataPlane
from tests.net import free_port

PATH = "/api/v1/flow"
FLOW = "?src=10.0.0.9:1&dst=10.0.0.1:80&proto=tcp"


def test_the_query_is_a_flow() -> None:
    target = f"{PATH}?src=10.0.0.9%3A51234&dst=10.0.0.1:80&proto=udp"
    flow = flow_of("10.0.0.9:51234", "10.0.0.1:80", "udp")
    assert asked(target) == FlowQuestion(flow=flow)
    assert not asked(target).about_packets


def test_of_what_is_forwarded_it_may_ask_for_a_size_and_the_kernels_programs() -> None:
    target = f"{PATH}?src=10.0.0.9:1&dst=10.0.0.1:80&proto=tcp"
    assert (asked(f"{target}&size=1400").size, asked(f"{target}&bpf=1").bpf) == (1400, True)
    assert asked(f"{target}&size=1").about_packets
    assert asked(f"{target}&bpf=1").about_packets
    assert not asked(f"{target}&bpf=0").about_packets


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("", "the query is src="),
        ("?", "the query is src="),
        ("?src=10.0.0.9:1&dst=10.0.0.1:80", "the query is src="),
        ("?src=10.0.0.9:1&dst=10.0.0.1:80&proto=tcp&x=1", "the query is src="),
        ("?src=10.0.0.9:1&src=10.0.0.9:1&dst=10.0.0.1:80&proto=tcp", "each once"),
        ("?src=10.0.0.9&dst=10.0.0.1:80&proto=tcp", "is not address:port"),
        ("?src=10.0.0.9:1&dst=10.0.0.1:80&proto=TCP", "is not one of tcp, udp"),
        ("?src=&dst=&proto=", "is not one of tcp, udp"),
        (f"{FLOW}&size=0", "size=0: bytes"),
        (f"{FLOW}&size=", "size=: bytes"),
        (f"{FLOW}&size=65536", "size=65536: bytes"),
        (f"{FLOW}&size=-1", "size=-1: bytes"),
        (f"{FLOW}&size=\u0663", "size=\u0663: bytes"),
        (f"{FLOW}&bpf=yes", "bpf=yes: 0 or 1"),
        (f"{FLOW}&bpf=1&bpf=1", "each once"),
        ("?" + "&".join(f"k{n}=1" for n in range(99)), "not a query"),
    ],
)
def test_what_is_no_flow_is_refused(query: str, what: str) -> None:
    with pytest.raises(Refused) as caught:
        asked(PATH + query)
    assert caught.value.answer.status == 400
    assert what in caught.value.answer.body.decode()


# ---- the engine's answers -----------------------------------------------------------------------

PORT = free_port()


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    made = pytest.importorskip("piagent.dataplane").EngineDataPlane(2, b"secret")
    yield made
    made.stop()


def serve(plane: DataPlane, how: Proxying, *weights: int) -> None:
    backends = tuple(
        PlannedBackend(f"b{i}", "127.0.0.1", 1 + i, weight, up=True)
        for i, weight in enumerate(weights)
    )
    plane.apply(
        Plan(
            (PlannedListener("127.0.0.1", PORT, "s:1", http=False),),
            (PlannedService("s:1", backends, how),),
            (),
        )
    )


def explained(plane: DataPlane, dst: int = PORT) -> FlowStatus:
    flow = flow_of("127.0.0.1:40000", f"127.0.0.1:{dst}", "tcp")
    return flow_status(plane.explain(flow), node="pi-1", vip=False, owner=None)


def test_a_flow_that_nobody_listens_for_has_no_listener(plane: DataPlane) -> None:
    serve(plane, Proxying(), 1)
    told = explained(plane, 1)
    assert (told.node, told.listener, told.orders, told.backends) == ("pi-1", None, (), ())


def test_a_flow_has_a_backend_and_others_for_the_case_that_it_does_not_answer(
    plane: DataPlane,
) -> None:
    serve(plane, Proxying(), 1, 1, 0)
    told = explained(plane)
    assert (told.listener, told.service) == (f"127.0.0.1:{PORT}", "s:1")
    assert told.chosen == told.table is not None
    assert {frozenset(order) for order in told.orders} == {frozenset({"b0", "b1"})}
    assert len(told.orders) == 2, "of each worker"
    assert [(one.name, one.weight, one.passed_over) for one in told.backends] == [
        ("b0", 1, ""), ("b1", 1, ""), ("b2", 0, "unusable"),
    ]  # fmt: skip


def test_what_a_service_says_of_its_connections_shows(plane: DataPlane) -> None:
    serve(plane, Proxying(allowed=("192.0.2.0/24",), trusted=("127.0.0.0/8",)), 1)
    told = explained(plane)
    assert (told.allowed, told.header) == (False, True)
    serve(plane, Proxying(balance=Balance.RANDOM_TWO), 1)
    assert explained(plane).policy == "random-two"
