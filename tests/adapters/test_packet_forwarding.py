"""Forwarding as the agent has it: by plans, with real routes, neighbours, tables and interfaces."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from msgspec.structs import replace

from piagent.adapters import netns
from piagent.adapters.forward_fence import TABLE
from piagent.adapters.netns import INTERFACE
from piagent.adapters.nftables import Batch, Nftables
from piagent.adapters.packet_forwarding import FADE_S, KernelForwarding
from piagent.core.forwarding import FlowCache, Forwarding, Mode
from piagent.core.packets import Unreached
from piagent.core.paths import PathReason
from piagent.core.plan import Plan, PlannedBackend, PlannedForward, PlannedService
from piagent.dataplane.packets import PacketEngine
from piagent.ports import ListenError
from tests.adapters.two_hosts import run
from tests.fastpath.forwarding_lab import CLIENT, OWN, PORT, VIPS, backend_address, serving

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
SECRET = b"a secret of these tests"
NAT, DSR = Forwarding(Mode.NAT), Forwarding(Mode.DSR)


def a_plan(how: Forwarding = NAT, *backends: str, owned: bool = True) -> Plan:
    addresses = backends or (backend_address(1),)
    planned = tuple(PlannedBackend(f"{a}:{PORT}", a, PORT, 1, up=True) for a in addresses)
    forward = PlannedForward(VIPS[4], PORT, "web:80@ipv4", how, owned=owned)
    return Plan((), (PlannedService("web:80@ipv4", planned),), (), (forward,))


class Hosts:
    """A client, a node with the VIP, and a backend that has the VIP on `lo`, too."""

    def __init__(self, network: netns.Network) -> None:
        self.client = network.add_host("c", f"{CLIENT[4]}/24")
        self.node = network.add_host("n", f"{OWN[4]}/24", f"{VIPS[4]}/32")
        self.backend = network.add_host("b", f"{backend_address(1)}/24")

    def work(self, do: Callable[[KernelForwarding], Awaitable[None]]) -> None:
        """Have the node forward, in a loop of its own, while that is done."""

        async def whole() -> None:
            async with self._forwarding() as forwarding:
                await do(forwarding)

        with self.node.entered():
            asyncio.run(whole())

    @contextlib.asynccontextmanager
    async def _forwarding(self) -> AsyncIterator[KernelForwarding]:
        made = KernelForwarding(
            INTERFACE, lambda index, mtu: PacketEngine(index, mtu, SECRET, FlowCache.OFF)
        )
        made.hold(3_600_000)
        task = asyncio.create_task(made.run())
        try:
            yield made
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            made.stop()

    def has_table(self) -> bool:
        with self.node.entered(), Nftables() as kernel:
            return kernel.has_chain(TABLE, "ingress")

    async def stream(self) -> socket.socket:
        """A connection to the VIP."""
        return await asyncio.to_thread(self._connect)

    def _connect(self) -> socket.socket:
        with self.client.entered():
            made = socket.socket()
        made.settimeout(10)
        made.connect((VIPS[4], PORT))
        return made


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with netns.Network("pa-packets") as network:
        made = Hosts(network)
        with serving(made.backend, backend_address(1), says=bytes):
            yield made


async def echoes(stream: socket.socket, what: bytes) -> bytes:
    await asyncio.to_thread(stream.sendall, what)
    return await asyncio.to_thread(stream.recv, 100)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- the kernel signals nothing
            await asyncio.sleep(0.02)


def test_a_plan_is_forwarded_and_leaves_nothing_behind(hosts: Hosts) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        assert forwarding.state() is None
        forwarding.apply(a_plan())
        state = forwarding.state()
        assert state is not None
        assert (state.mode, state.reason) == ("forwarder", 'flow_cache = "off"')
        with await hosts.stream() as stream:
            assert await echoes(stream, b"hello") == b"hello"
        counted = forwarding.stats()["packets"]["web:80@ipv4"]
        assert counted["sent"] >= 6
        forwarding.apply(Plan((), (), ()))
        assert forwarding.state() is None
        await until(lambda: not hosts.has_table())
        assert forwarding.stats()["packets"]["web:80@ipv4"]["sent"] >= counted["sent"]

    hosts.work(do)
    assert not hosts.has_table()


def test_a_vip_that_is_not_owned_is_left_to_the_host_itself(hosts: Hosts) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan(owned=False))
        with pytest.raises(ConnectionRefusedError):
            await hosts.stream()

    hosts.work(do)


def test_a_vip_that_goes_resets_nobody_while_its_lan_hears_of_it(hosts: Hosts) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan())
        with await hosts.stream() as stream:
            assert await echoes(stream, b"one") == b"one"
            forwarding.apply(a_plan(owned=False))
            stream.settimeout(FADE_S / 2)
            with pytest.raises(TimeoutError):
                await echoes(stream, b"two")
            await asyncio.sleep(FADE_S)
            stream.settimeout(10)
            with pytest.raises(ConnectionResetError):  # this host has the address still
                await echoes(stream, b"three")

    hosts.work(do)


def test_dsr_goes_on_while_its_lan_hears_where_the_vip_is(hosts: Hosts) -> None:
    run(hosts.backend, "ip", "address", "add", f"{VIPS[4]}/32", "dev", "lo")
    for key in ("arp_ignore=1", "arp_announce=2"):
        run(hosts.backend, "sysctl", "-q", "-w", f"net.ipv4.conf.all.{key}")

    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan(DSR))
        with await hosts.stream() as stream:
            assert await echoes(stream, b"one") == b"one"
            forwarding.apply(a_plan(DSR, owned=False))
            assert await echoes(stream, b"two") == b"two"

    with serving(hosts.backend, VIPS[4], says=bytes):
        hosts.work(do)


def test_a_port_that_is_proxied_from_now_on_is_taken_no_more(hosts: Hosts) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan())
        (await hosts.stream()).close()
        with serving(hosts.node, VIPS[4], says=lambda said: b"proxy:" + said):
            forwarding.apply(Plan((), (), ()))
            await asyncio.sleep(FADE_S + 0.1)
            with await hosts.stream() as stream:
                assert await echoes(stream, b"hello") == b"proxy:hello"

    hosts.work(do)


def test_a_table_that_somebody_flushes_is_put_back(hosts: Hosts) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan())
        assert hosts.has_table()
        with Nftables() as kernel:
            batch = Batch(TABLE)
            batch.remove_table()
            kernel.commit(batch)
        assert not hosts.has_table()
        await until(hosts.has_table)
        with await hosts.stream() as stream:
            assert await echoes(stream, b"hello") == b"hello"

    hosts.work(do)


def test_another_mtu_of_the_interface_is_followed(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan())
        (await hosts.stream()).close()
        run(hosts.node, "ip", "link", "set", INTERFACE, "mtu", "1400")
        await until(lambda: "is another one" in caplog.text)
        with await hosts.stream() as stream:
            assert await echoes(stream, b"hello") == b"hello"

    hosts.work(do)


def test_an_interface_that_goes_and_comes_back_is_forwarded_by_again(hosts: Hosts) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan())
        (await hosts.stream()).close()
        run(hosts.node, "ip", "link", "set", INTERFACE, "down")
        run(hosts.node, "ip", "link", "set", INTERFACE, "name", "away")
        await asyncio.sleep(1.2)
        run(hosts.node, "ip", "link", "set", "away", "name", INTERFACE)
        run(hosts.node, "ip", "link", "set", INTERFACE, "up")
        with await hosts.stream() as stream:
            assert await echoes(stream, b"hello") == b"hello"

    hosts.work(do)


def test_who_is_not_reached_is_said_with_the_reason(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    nobody, elsewhere = backend_address(9), "203.0.113.5"

    async def do(forwarding: KernelForwarding) -> None:
        forwarding.apply(a_plan(NAT, backend_address(1), nobody, elsewhere, OWN[4]))

        def reasons() -> dict[str, PathReason]:
            state = forwarding.state()
            assert state is not None
            return {one.backend: one.reason for one in state.unreached}

        await until(lambda: reasons().get(f"{nobody}:{PORT}") is PathReason.FAILED)
        assert reasons() == {
            f"{nobody}:{PORT}": PathReason.FAILED,
            f"{elsewhere}:{PORT}": PathReason.NO_ROUTE,
            f"{OWN[4]}:{PORT}": PathReason.HERE,
        }
        for _ in range(8):  # what Maglev gives to those goes to the one that is there
            with await hosts.stream() as stream:
                assert await echoes(stream, b"hello") == b"hello"
        wanted = Unreached("web:80@ipv4", f"{nobody}:{PORT}", PathReason.FAILED)
        assert f"packets do not get to backend {wanted.backend} of {wanted.target}" in caplog.text

    hosts.work(do)


def test_what_cannot_be_had_is_said_with_its_place_and_the_cure(hosts: Hosts) -> None:
    async def do() -> None:
        for interface, cure in ((None, "write [node] interface"), ("eth7", "eth7")):
            forwarding = KernelForwarding(interface, engine)
            with pytest.raises(ListenError, match="cannot forward 10.9.0.9:80") as caught:
                forwarding.apply(a_plan())
            assert cure in str(caught.value)
            assert (caught.value.address, caught.value.port) == (VIPS[4], PORT)
            state = forwarding.state()
            assert state is not None
            assert state.mode == "none"
            forwarding.stop()

    def engine(index: int, mtu: int) -> PacketEngine:
        return PacketEngine(index, mtu, SECRET, FlowCache.OFF)

    with hosts.node.entered():
        asyncio.run(do())


def test_a_plan_that_is_refused_changes_nothing(hosts: Hosts) -> None:
    async def do(forwarding: KernelForwarding) -> None:
        good = a_plan()
        forwarding.apply(good)
        bad = replace(good, services=(replace(good.services[0], backends=many()),))
        with pytest.raises(ValueError, match="backends"):
            forwarding.apply(bad)
        with await hosts.stream() as stream:
            assert await echoes(stream, b"hello") == b"hello"

    def many() -> tuple[PlannedBackend, ...]:
        return tuple(
            PlannedBackend(f"b{i}", backend_address(1), PORT, 1, up=True) for i in range(5000)
        )

    hosts.work(do)
