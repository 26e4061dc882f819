"""VIPs on a host whose kernel is a fake with a clock that moves when told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.agent.serving import Serving
from piagent.agent.vips import Former, Vips, announced
from piagent.core.forwarding import Forwarding, Mode
from piagent.core.model import AddressRange, Announce, Pool
from piagent.core.plan import Plan
from piagent.ports import AddressError, ListenError
from tests.agent.nodes import OTHER_VIP, VIP, FakeAnnouncer, config, service
from tests.fakes import FakeAddresses, FakeClock, FakeDataPlane, FakeFence, FakeForwarding

LOOPBACK_VIP = "127.0.0.9"


class Host:
    """Vips and everything that it moves."""

    def __init__(self, tmp_path: Path, *, tell: bool = True, why_not: str | None = None) -> None:
        self.clock = FakeClock()
        self.addresses = FakeAddresses(self.clock)
        self.plane = FakeDataPlane()
        services = (service("web", VIP, "10.0.0.1"), service("lo", LOOPBACK_VIP, "10.0.0.1"))
        self.forwarding = FakeForwarding()
        serving = Serving(
            self.plane,
            config(tmp_path, services=services),
            self.clock.now_ns,
            self.forwarding,
        )
        serving.start()
        self.serving = serving
        self.fence = FakeFence(self.clock, why_not)
        self.vips = Vips(
            clock=self.clock,
            addresses=self.addresses,
            fence=self.fence,
            announcer=self._announcer,
            serving=serving,
            announced=lambda _: tell,
        )

    def _announcer(self, announce_once: Callable[[str], Awaitable[None]]) -> FakeAnnouncer:
        self.announcer = FakeAnnouncer(announce_once)
        return self.announcer

    def in_ms(self, ms: int) -> int:
        return self.clock.now_ns() + ms * 1_000_000

    def listening(self) -> set[str]:
        return {listener.address for listener in self.plane.plans[-1].listeners}


async def test_taken_vip_is_configured_before_it_is_announced(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    assert host.addresses.present == {VIP}
    assert host.announcer.active == {VIP}


class Packets(Host):
    """The same with a service whose packets are forwarded."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        web = replace(service("web", VIP, "10.0.0.1"), forwarding=Forwarding(Mode.NAT))
        self.serving.reconfigure(config(tmp_path, services=(web,)))
        self.there_when_told: list[bool] = []
        """Whether the host had the address, each time that forwarding was told something."""
        apply = self.forwarding.apply

        def noted(plan: Plan) -> None:
            self.there_when_told.append(VIP in self.addresses.present)
            apply(plan)

        self.forwarding.apply = noted  # type: ignore[method-assign]


async def test_packets_are_forwarded_before_the_address_is_there_and_until_it_goes(
    tmp_path: Path,
) -> None:
    host = Packets(tmp_path)
    assert host.forwarding.tabled() == set()
    await host.vips.take(VIP, host.in_ms(800))
    assert host.forwarding.tabled() == {(VIP, False)}
    await host.vips.hide(VIP, 5000)
    assert host.forwarding.tabled() == {(VIP, True)}
    await host.vips.leave(VIP)
    assert host.forwarding.tabled() == set()
    assert VIP not in host.addresses.present
    assert host.there_when_told[0] is False, "before it is configured"
    assert set(host.there_when_told[1:]) == {True}, "and all else before it is removed"


async def test_a_vip_whose_packets_cannot_be_forwarded_is_not_taken(tmp_path: Path) -> None:
    host = Packets(tmp_path)
    host.forwarding.failure = ListenError(1, "no", address=VIP, port=80, udp=False)
    with pytest.raises(ListenError):
        await host.vips.take(VIP, host.in_ms(800))
    assert host.addresses.present == set()


async def test_a_vip_goes_whatever_becomes_of_its_packets(tmp_path: Path) -> None:
    host = Packets(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))

    def refuse(_plan: Plan) -> None:
        raise ValueError("too many")

    host.forwarding.apply = refuse  # type: ignore[method-assign]
    host.serving.undrain = host.serving.left = lambda _vip: None  # type: ignore[method-assign]
    assert await host.vips.leave(VIP)
    assert host.addresses.present == set()


async def test_forwarding_speaks_for_vips_as_long_as_the_shortest_lease(tmp_path: Path) -> None:
    host = Packets(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    assert host.forwarding.held_ms[-1] == 800
    host.clock.advance_ms(300)
    await host.vips.take(OTHER_VIP, host.in_ms(800))
    assert host.forwarding.held_ms[-1] == 500
    await host.vips.keep({VIP: host.in_ms(700), OTHER_VIP: host.in_ms(700)})
    assert host.forwarding.held_ms[-1] == 700
    await host.vips.hide(VIP, 5000)
    assert host.forwarding.held_ms[-1] == 700, "the other one's"
    await host.vips.leave(OTHER_VIP)
    host.clock.advance_ms(100)
    await host.vips.take(OTHER_VIP, host.in_ms(9000))
    assert host.forwarding.held_ms[-1] == 4900, "what the hidden one has left"


async def test_vip_of_a_silent_pool_is_not_announced(tmp_path: Path) -> None:
    host = Host(tmp_path, tell=False)
    await host.vips.take(VIP, host.in_ms(800))
    assert host.addresses.present == {VIP}
    assert host.announcer.active == set()


async def test_vip_is_announced_while_its_lease_runs_and_not_a_moment_longer(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    await host.announcer.again()
    host.clock.advance_ms(700)
    await host.vips.keep({VIP: host.in_ms(800)})
    host.clock.advance_ms(700)
    await host.announcer.again()
    assert host.addresses.announced == [VIP, VIP]
    host.clock.advance_ms(100)  # stopped for a while, and nobody has released it yet
    await host.announcer.again()
    assert host.addresses.announced == [VIP, VIP]


async def test_kernel_lets_go_with_the_lease_unless_it_is_renewed(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    for _ in range(10):
        host.clock.advance_ms(700)
        await host.vips.keep({VIP: host.in_ms(800)})
        assert host.addresses.present == {VIP}
    host.clock.advance_ms(800)
    assert host.addresses.present == set()


async def test_lease_that_has_run_out_meanwhile_configures_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path)
    until_ns = host.in_ms(800)
    host.clock.advance_ms(800)  # stopped between the decision and its effect
    await host.vips.take(VIP, until_ns)
    assert await host.vips.keep({VIP: until_ns}) == {}
    assert host.addresses.events == []


async def test_left_vip_is_silent_and_gone(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    assert await host.vips.leave(VIP)
    assert host.announcer.active == set()
    assert host.addresses.present == set()


async def test_vip_that_cannot_be_removed_is_not_called_gone(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    host.addresses.removable = False
    assert not await host.vips.leave(VIP)


async def test_loopback_vip_is_owned_by_listening_on_it(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.listening() == {VIP}
    await host.vips.take(LOOPBACK_VIP, host.in_ms(800))
    assert host.listening() == {VIP, LOOPBACK_VIP}
    assert await host.vips.keep({LOOPBACK_VIP: host.in_ms(900)}) == {}
    assert await host.vips.leave(LOOPBACK_VIP)
    assert host.listening() == {VIP}
    assert host.addresses.events == []


async def test_failure_of_the_interface_is_the_callers_to_handle(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.addresses.failure = AddressError("no such interface")
    with pytest.raises(AddressError):
        await host.vips.take(VIP, host.in_ms(800))
    assert host.announcer.active == set()


async def test_each_vip_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    host.addresses.failure = AddressError("interface down")
    failed = await host.vips.keep({VIP: host.in_ms(900), "10.0.0.77": host.in_ms(900)})
    assert {vip: str(why) for vip, why in failed.items()} == {
        VIP: "interface down",
        "10.0.0.77": "interface down",
    }


async def test_pool_says_whether_its_addresses_are_announced(tmp_path: Path) -> None:
    silent = Pool(
        name="silent",
        addresses=(
            AddressRange(first="10.0.0.5", last="10.0.0.9"),
            AddressRange(first="fd00::5", last="fd00::9"),
        ),
        announce=Announce.NONE,
    )
    made = replace(config(tmp_path), pools=(silent,))
    assert not announced(made, "10.0.0.9")
    assert announced(made, "10.0.0.10")
    assert not announced(made, "fd00::7")
    assert announced(made, "fd00::10")


async def test_fence_is_open_for_as_long_as_the_lease(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    host.clock.advance_ms(700)
    assert host.fence.held == {VIP}
    await host.vips.keep({VIP: host.in_ms(800)})
    host.clock.advance_ms(700)
    assert host.fence.held == host.fence.served == {VIP}
    host.clock.advance_ms(101)
    assert host.fence.held == host.fence.served == set()


async def test_hidden_vip_is_silent_and_serves_until_its_drain_ends(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    assert await host.vips.hide(VIP, 5000)
    assert host.fence.held == set(), "no ARP is answered"
    assert host.announcer.active == set()
    assert host.fence.served == host.addresses.present == {VIP}
    assert host.serving.draining() == {VIP}
    await host.vips.leave(VIP)
    assert host.fence.served == host.addresses.present == set()
    assert host.serving.draining() == set()


async def test_vip_that_cannot_be_hidden_has_to_be_left(tmp_path: Path) -> None:
    host = Host(tmp_path, why_not="no nftables here")
    await host.vips.take(VIP, host.in_ms(800))
    assert not await host.vips.hide(VIP, 5000)
    assert not await host.vips.hide(LOOPBACK_VIP, 5000)


async def test_vip_that_comes_back_is_drained_no_more(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    await host.vips.hide(VIP, 5000)
    await host.vips.take(VIP, host.in_ms(800))
    assert host.serving.draining() == frozenset()
    assert host.fence.held == {VIP}


async def test_connections_of_the_former_owner_are_passed_on(tmp_path: Path) -> None:
    host = Host(tmp_path)
    mac = bytes((2, 0, 0, 0, 0, 9))
    await host.vips.take(VIP, host.in_ms(800), Former(mac, 5000))
    assert host.fence.passed_on == {VIP: mac}


async def test_fence_that_refuses_is_a_failure_to_take(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.fence.failure = OSError(1, "not permitted")
    with pytest.raises(OSError, match="not permitted"):
        await host.vips.take(VIP, host.in_ms(800))
    assert host.announcer.active == set()


async def test_gap_in_the_answers_is_told(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    host.clock.advance_ms(799)
    assert not host.vips.fell_silent(VIP)
    host.clock.advance_ms(1)
    assert host.vips.fell_silent(VIP)
    assert not host.vips.fell_silent(LOOPBACK_VIP)


async def test_kernel_that_was_told_too_long_a_time_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped between its look at the clock and the kernel."""
    host = Host(tmp_path)
    until_ns = host.in_ms(800)
    real, stops = host.fence.open, [500]

    def open_late(left_ms: Mapping[str, int]) -> None:
        host.clock.advance_ms(stops.pop() if stops else 0)
        real(left_ms)

    monkeypatch.setattr(host.fence, "open", open_late)
    await host.vips.take(VIP, until_ns)
    host.clock.advance_ms(299)
    assert host.fence.held == {VIP}
    host.clock.advance_ms(1)
    assert host.clock.now_ns() == until_ns
    assert host.fence.held == set()


async def test_after_a_sleep_the_kernel_is_told_again_how_much_is_left(tmp_path: Path) -> None:
    host = Host(tmp_path)
    until_ns = host.in_ms(800)
    await host.vips.take(VIP, until_ns)
    host.clock.advance_ms(500)
    host.fence.open({VIP: 800})  # its timers stood still, so this much is left
    assert await host.vips.recount() == {}
    host.clock.advance_ms(299)
    assert host.fence.held == {VIP}
    host.clock.advance_ms(1)
    assert host.fence.held == set()


async def test_after_a_long_sleep_what_is_over_is_closed_at_once(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.vips.take(VIP, host.in_ms(800))
    host.clock.advance_ms(900)
    host.fence.open({VIP: 800})
    await host.vips.recount()
    assert host.fence.held == set()
