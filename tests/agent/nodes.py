"""Whole agents on surroundings in memory."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec.structs import replace

from piagent.adapters.clock import BootClock
from piagent.agent.agent import Agent, Edge
from piagent.agent.letters import Letters
from piagent.agent.registry import Saved
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import LEADER
from piagent.core.model import (
    AddressRange,
    Backend,
    Broker,
    Config,
    Election,
    HealthCheck,
    Mqtt,
    Node,
    Pool,
    Service,
    ServicePort,
    ServiceType,
    Timing,
)
from piagent.core.vitals import Vitals
from piagent.core.wire import config_hash
from piagent.ports import BusEvent
from tests.fakes import (
    FakeAddresses,
    FakeBroker,
    FakeBus,
    FakeDataPlane,
    FakeFence,
    FakeForwarding,
    FakeGuardian,
    FakeLan,
    FakeLines,
    FakeLocalAddresses,
    FakeProber,
    FakeSpeaker,
    FakeStore,
)

TIMING = Timing(
    lease_ms=900, renew_ms=200, wait_ms=938, guard_ms=80, attempt_ms=250, stagger_ms=40, lag_ms=400
)
VIP = "10.0.0.9"
OTHER_VIP = "10.0.0.10"


def service(name: str, address: str | None, *backends: str, check: bool = True) -> Service:
    kind = ServiceType.CLUSTER if address is None else ServiceType.LOAD_BALANCER
    return Service(
        name=name,
        type=kind,
        vips=() if address is None else (address,),
        node_ports=False,
        ports=(ServicePort(name="", port=80, target_port=8080),),
        backends=tuple(Backend(address=backend) for backend in backends),
        health=HealthCheck(interval_ms=50, rise=2, fall=2) if check else None,
    )


def config(tmp_path: Path, name: str = "n1", **changes: object) -> Config:
    made = Config(
        node=Node(name=name, interface="eth0"),
        cluster="home",
        secrets=(b"0123456789abcdef",),
        mqtt=Mqtt(brokers=(Broker(label="b1", host="127.0.0.1", port=1883),)),
        election=Election(profile="fast", timing=TIMING),
        admin_socket=str(tmp_path / f"{name}.sock"),
        pools=(Pool(name="lan", addresses=(AddressRange(first="10.0.0.9", last="10.0.1.255"),)),),
        services=(service("web", VIP, "10.0.0.1", "10.0.0.2"),),
    )
    return replace(made, **changes)


class NodeBus(FakeBus):
    """Says of its node whether it is there, as the real bus does."""

    def __init__(self, broker: FakeBroker, letters: Letters) -> None:
        super().__init__([broker], letters.subscriptions)
        self._letters = letters

    async def run(self, deliver: Callable[[BusEvent], None]) -> None:
        try:
            await super().run(deliver)
        finally:
            self.vanish()

    def connect(self, label: str) -> None:
        super().connect(label)
        self._say(label, online=True)

    def vanish(self) -> None:
        """Gone without a word; the broker tells of it."""
        for label in tuple(self._connections):
            self._say(label, online=False)
            del self._connections[label]

    def _say(self, label: str, *, online: bool) -> None:
        payload = self._letters.presence(online, "")
        self.publish(label, self._letters.presence_topic, payload, retain=True)


class FakeAnnouncer:
    """Remembers what is announced; `again` does what time would."""

    def __init__(self, announce_once: Callable[[str], Awaitable[None]]) -> None:
        self.announce_once = announce_once
        self.active: set[str] = set()

    def start(self, address: str) -> None:
        self.active.add(address)

    def stop(self, address: str) -> None:
        self.active.discard(address)

    async def again(self) -> None:
        for address in self.active:
            await self.announce_once(address)


class FakeNotifier:
    """Remembers what the service manager was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def ready(self, status: str) -> None:
        self.said.append("ready")

    def reloading(self) -> None:
        self.said.append("reloading")

    def stopping(self) -> None:
        self.said.append("stopping")


class Bench:
    """One agent and its surroundings, within reach."""

    def __init__(
        self, made: Config, broker: FakeBroker, key: bytes = b"", saved: Saved | None = None
    ) -> None:
        name, timing = made.node.name, made.election.timing
        incarnation = secrets.token_hex(8)
        clock = BootClock()
        letters = Letters(
            cluster=made.cluster,
            node=name,
            incarnation=incarnation,
            secrets=(key,) if key else made.secrets,
            started=time.time_ns() // 1_000_000,
        )
        group = LeaseGroup(
            timing,
            ("b1",),
            name,
            incarnation,
            dict.fromkeys((*made.vips(), LEADER), 0),
            config_hash=config_hash(made.mqtt.brokers, timing, ()),
            seed=secrets.randbits(64),
            now_ns=clock.now_ns(),
            wall_ms=time.time_ns() // 1_000_000,
        )
        self.config = made
        self.bus = NodeBus(broker, letters)
        self.addresses = FakeAddresses(clock)
        self.fence = FakeFence(clock)
        self.lan = FakeLan()
        self.guardian = FakeGuardian()
        self.vitals = Vitals()
        self.announcers: list[FakeAnnouncer] = []
        self.plane = FakeDataPlane()
        self.forwarding = FakeForwarding()
        self.prober = FakeProber()
        self.notifier = FakeNotifier()
        self.local = FakeLocalAddresses()
        self.speaker = FakeSpeaker()
        self.store = FakeStore(saved or Saved())
        self.logs: dict[str, FakeLines] = {}
        edge = Edge(
            clock=clock,
            bus=self.bus,
            addresses=self.addresses,
            fence=self.fence,
            lan=self.lan,
            guardian=self.guardian,
            vitals=lambda _wireless: self.vitals,
            announcer=self._announcer,
            plane=self.plane,
            forwarding=self.forwarding,
            prober=self.prober,
            notifier=self.notifier,
            local=self.local,
            speaker=self.speaker,
            responder=None,
            store=self.store,
            lines=self._lines,
        )
        self.agent = Agent(made, edge, group, letters)
        self.task: asyncio.Task[bool] | None = None

    def _lines(self, path: str) -> FakeLines:
        return self.logs.setdefault(path, FakeLines(path))

    def _announcer(self, announce_once: Callable[[str], Awaitable[None]]) -> FakeAnnouncer:
        self.announcers.append(FakeAnnouncer(announce_once))
        return self.announcers[-1]

    @property
    def announced(self) -> set[str]:
        """What this node tells the LAN."""
        return self.announcers[-1].active

    def start(self) -> Bench:
        self.task = asyncio.create_task(self.agent.run())
        return self

    async def stop(self) -> bool:
        assert self.task is not None
        self.agent.stop()
        return await asyncio.wait_for(self.task, 20)

    @property
    def on_lan(self) -> set[str]:
        """The VIPs that this host answers for."""
        return self.addresses.present & self.fence.held

    def owns(self, vip: str = VIP) -> bool:
        return any(v.address == vip and v.state == "owner" for v in self.agent.view.status().vips)
