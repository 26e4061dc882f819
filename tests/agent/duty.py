"""Whole agents that check the same backends, for the tests of who is on duty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from piagent.agent.health import Target
from piagent.core.checking import Verdict
from piagent.core.health import Status
from piagent.core.model import Config, Service
from tests.agent.nodes import VIP, Bench, config, service
from tests.fakes import FakeBroker
from tests.waiting import until

KEYS = [(f"s{i}", f"10.1.0.{j}") for i in range(4) for j in (1, 2)]
HEALTH = "piagent/home/health/"
SECRET = b"0123456789abcdef"


def services(**check: object) -> tuple[Service, ...]:
    """`web` on the VIP, and four services of two backends each."""
    made = [service("web", VIP, "10.0.0.1", check=False)]
    made += [service(f"s{i}", None, "10.1.0.1", "10.1.0.2") for i in range(4)]
    return tuple(
        replace(one, health=replace(one.health, **check)) if one.health else one for one in made
    )


class Cluster:
    """Agents on one broker that check the same backends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = FakeBroker()
        self.nodes: dict[str, Bench] = {}

    def config(self, name: str, **changes: object) -> Config:
        return config(self.folder, name, **{"services": services(), **changes})

    def start(self, name: str, **changes: object) -> Bench:
        self.nodes[name] = Bench(self.config(name, **changes), self.broker).start()
        return self.nodes[name]

    async def crash(self, name: str) -> None:
        """Its host is gone; the broker tells."""
        bench = self.nodes.pop(name)
        assert bench.task is not None
        bench.task.cancel()
        with suppress(asyncio.CancelledError):
            await bench.task

    async def stop(self) -> None:
        for bench in self.nodes.values():
            await bench.stop()

    def target(self, name: str, key: tuple[str, str]) -> Target:
        found = self.nodes[name].agent._health.target(*key)
        assert found is not None
        return found

    def on_duty(self, key: tuple[str, str]) -> list[str]:
        return [name for name in self.nodes if self.target(name, key).chief is None]

    def is_settled(self) -> bool:
        """One node checks each backend, and all know how it is."""
        return all(
            len(self.on_duty(key)) == 1
            and all(self.target(name, key).checked_by is not None for name in self.nodes)
            for key in KEYS
        )

    async def settle(self) -> None:
        await until(self.is_settled, "one node checks each backend")

    def statuses(self, key: tuple[str, str]) -> set[Status]:
        return {self.target(name, key).health.status for name in self.nodes}

    def fail(self, *addresses: str) -> None:
        """These backends fail whoever asks."""
        for bench in self.nodes.values():
            bench.prober.bad = dict.fromkeys(addresses, "refused")

    def said(self) -> list[tuple[str, Verdict]]:
        """Every verdict that was ever published."""
        return [
            (topic, msgspec.json.decode(payload, type=Verdict))
            for topic, payload in self.broker.log
            if topic.startswith(HEALTH) and payload
        ]


Made = Callable[..., Cluster]
