"""What a node that forwards says of a flow: its routes, its neighbours, its kernel's programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastpath.packet.conversation import headers
from piagent.adapters import netns
from piagent.adapters.packet_forwarding import KernelForwarding
from piagent.core.flow import FlowQuestion, flow_of
from piagent.core.forwarding import Encapsulation, FlowCache, Forwarding, Mode
from piagent.core.plan import Plan, PlannedBackend, PlannedForward, PlannedService
from piagent.core.proxying import Proxying
from piagent.dataplane.packets import PacketEngine
from tests.adapters.asker import mac_of
from tests.fastpath.packet import flow_caches
from tests.waiting import until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
SECRET = b"secret"
VIP, BACKEND, NOBODY = "10.9.0.9", "10.9.0.11", "10.9.0.77"
NAT = Forwarding(Mode.NAT)


@pytest.fixture
def hosts() -> Iterator[tuple[netns.Host, netns.Host]]:
    """The node and a backend."""
    with netns.Network("pa-explained") as network:
        yield (
            network.add_host("n", "10.9.0.1/24", f"{VIP}/32"),
            network.add_host("b", f"{BACKEND}/24"),
        )


def plan(how: Forwarding = NAT, *, owned: bool = True, **more: Any) -> Plan:
    backends = tuple(
        PlannedBackend(f"{address}:80", address, 80, 1, up=True) for address in (BACKEND, NOBODY)
    )
    forward = PlannedForward(VIP, 80, "web:80@ipv4", how, owned=owned)
    return Plan((), (PlannedService("web:80@ipv4", backends, Proxying(**more)),), (), (forward,))


def question(dst: str = f"{VIP}:80", **more: Any) -> FlowQuestion:
    return FlowQuestion(flow=flow_of("10.9.0.100:40000", dst, "tcp"), **more)


@asynccontextmanager
async def forwarding(kind: FlowCache = FlowCache.AUTO) -> AsyncIterator[KernelForwarding]:
    """In the namespace of the calling thread."""
    made = KernelForwarding(
        netns.INTERFACE, lambda index, mtu: PacketEngine(index, mtu, SECRET, kind)
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.stop()


async def told(made: KernelForwarding, asked: FlowQuestion) -> dict[str, Any]:
    """When the backend that is there is known; the other one never is."""

    def reasons() -> dict[str, str]:
        said = made.explain(asked)
        assert said is not None
        return {each["name"]: each["reason"] for each in said["backends"]}

    await until(lambda: reasons()[f"{BACKEND}:80"] == "resolved", lambda: str(reasons()))
    said = made.explain(asked)
    assert said is not None
    return said


def explained(
    node: netns.Host, wanted: Plan, kind: FlowCache = FlowCache.AUTO, **more: Any
) -> dict[str, Any]:
    """What that node says of a flow to the VIP."""

    async def work() -> dict[str, Any]:
        async with forwarding(kind) as made:
            made.apply(wanted)
            return await told(made, question(**more))

    with node.entered():
        return asyncio.run(work())


def test_it_says_the_way_that_the_kernel_knows(hosts: tuple[netns.Host, netns.Host]) -> None:
    node, backend = hosts
    said = explained(node, plan())
    assert (said["service"], said["how"], said["chosen"]) == ("web:80@ipv4", "nat", f"{BACKEND}:80")
    assert (said["interface"], said["mac"]) == (netns.INTERFACE, mac_of(backend))
    sent, went = headers(said["frame_in"]), headers(said["frame_out"])
    assert (sent.destination_mac, went.source_mac) == (mac_of(node), mac_of(node))
    assert (went.ends.source, went.ends.destination) == (VIP, BACKEND)
    assert [each["passed_over"] for each in said["backends"]] == ["", "unreachable"]


def test_who_does_not_own_the_vip_says_what_it_would_be(
    hosts: tuple[netns.Host, netns.Host],
) -> None:
    said = explained(hosts[0], plan(Forwarding(Mode.DSR), owned=False), FlowCache.OFF)
    assert (said["verdict"], said["how"]) == ("sent", "dsr")
    assert (said["flow_cache"], said["cache_reason"]) == ("forwarder", 'flow_cache = "off"')


def test_what_is_not_forwarded_is_none(hosts: tuple[netns.Host, netns.Host]) -> None:
    async def work() -> None:
        async with forwarding(FlowCache.OFF) as made:
            assert made.explain(question()) is None
            made.apply(plan())
            assert made.explain(question(f"{VIP}:81")) is None
            assert made.explain(question("10.9.0.8:80")) is None
            assert made.explain(question()) is not None

    with hosts[0].entered():
        asyncio.run(work())


def test_where_forwarding_does_not_work_it_says_why(hosts: tuple[netns.Host, netns.Host]) -> None:
    def engine(index: int, mtu: int) -> PacketEngine:
        if index in broken:
            raise PermissionError(1, "not any more")
        broken.add(index)
        return PacketEngine(index, mtu, SECRET, FlowCache.OFF)

    async def work() -> None:
        made = KernelForwarding(netns.INTERFACE, engine)
        made.apply(plan())
        made._end()
        with pytest.raises(OSError, match="has not begun yet"):
            made.explain(question())
        made._look()
        with pytest.raises(OSError, match="not any more"):
            made.explain(question())
        made.stop()

    broken: set[int] = set()
    with hosts[0].entered():
        asyncio.run(work())


@pytest.mark.skipif(
    flow_caches.why_not() is not None, reason="the kernel's programs cannot be had here"
)
@pytest.mark.parametrize(
    ("how", "n_ways"),
    [(NAT, 2), (Forwarding(Mode.DSR), 1), (Forwarding(Mode.DSR, Encapsulation.IPIP), 1)],
    ids=["nat", "dsr", "ipip"],
)
def test_the_kernels_programs_agree_where_the_interface_is_a_real_one(
    hosts: tuple[netns.Host, netns.Host], how: Forwarding, n_ways: int
) -> None:
    said = explained(hosts[0], plan(how), bpf=True)
    assert said["flow_cache"] in {"xdp", "tc", "forwarder"}
    assert len(said["bpf"]) == 2 * n_ways
    assert {(each["verdict"], each["same"]) for each in said["bpf"]} == {("carried", True)}


def test_a_size_that_no_packet_has_is_refused(hosts: tuple[netns.Host, netns.Host]) -> None:
    with pytest.raises(ValueError, match="40 to 65535"):
        explained(hosts[0], plan(), FlowCache.OFF, size=39)
